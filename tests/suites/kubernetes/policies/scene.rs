//! A control plane with a kustomization of `deploy`, two nodes and their agents' tokens.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::control_plane::{AgentCredentials, Server, user_token};
use podwire_testbed::keyctl::{self, Run};
use podwire_testbed::suite::Context;
use podwire_testbed::{ControlPlane, Testbed, Topology, until};
use serde_json::{Value, json};

use super::api::{Answer, Api, Person, Request};
use super::change::{NODES, Through, Way, annotation, path, request};
use super::people::{administrator, agent, alice, kubelet};

/// An API server takes a new policy or role into use within a second or two.
pub(crate) const IN_FORCE: Duration = Duration::from_secs(60);

/// Longer than any of these tests.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// A write of a whole Node races with the server's own writes to it.
const PUT_ATTEMPTS: usize = 5;

/// What the cluster lets people do in these tests, beside what is shipped.
const ROLES: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: everything-of-nodes}
rules:
- {apiGroups: [''], resources: [nodes, nodes/status], verbs: ['*']}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: editors}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: everything-of-nodes}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: editor}
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: chief}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: operators}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: podwire-operator}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: alice}
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: chief}
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: operators}
";

/// More than what is shipped, so that it is the policy that refuses.
const AGENTS_MAY_DO_EVERYTHING: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: agents-may-do-everything}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: everything-of-nodes}
subjects:
- {kind: ServiceAccount, name: podwire-agent, namespace: podwire-system}
";

/// See the module.
#[allow(missing_debug_implementations, reason = "a control plane")]
pub(crate) struct Scene {
    bed: Arc<Testbed>,
    api: Api,
    agents: BTreeMap<String, AgentCredentials>,
}

/// How an attempt has to end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected<'a> {
    Done,
    /// A policy's name, and words of its message.
    Denied(&'a str, &'a str),
    /// Words of a message of another authority: RBAC, NodeRestriction.
    Refused(&'a str),
}

impl Scene {
    /// Starts the control plane, applies a kustomization and waits until its policies are in force.
    /// No controllers run then: nobody but the test changes a Node.
    pub(crate) fn start(context: &Context, kustomization: &str) -> Result<Self> {
        let bed = context.testbed(&Topology::new().nodes(0).pods_per_node(0))?;
        let cluster = ControlPlane::start(&bed, &[])?;
        apply(&cluster, kustomization)?;
        cluster.kubectl(&["apply", "-f", "-"], ROLES)?;
        cluster.stop_server(Server::ControllerManager)?;
        let mut scene = Self {
            bed,
            api: Api::new(cluster),
            agents: BTreeMap::new(),
        };
        for number in [1, 2] {
            scene.done(&administrator(), &Request::post(NODES, node(number)))?;
            let name = format!("node-{number}");
            let credentials = scene.cluster().agent_credentials(&name, TOKEN_LIFETIME)?;
            scene.agents.insert(name, credentials);
        }
        scene.wait_in_force()?;
        Ok(scene)
    }

    /// Gives the agents every right to Nodes.
    pub(crate) fn let_agents_do_everything(&self) -> Result<()> {
        let arguments = ["apply", "-f", "-"];
        self.cluster()
            .kubectl(&arguments, AGENTS_MAY_DO_EVERYTHING)?;
        let agent = self.agent("node-1")?;
        until(IN_FORCE, "the agents' rights", || {
            // Without a body, which would have to say that it is a dry run.
            let delete = format!("{}?dryRun=All", path("node-1"));
            let delete = Request::json("DELETE", &delete, Value::Null);
            let answer = self.ask(&agent, &delete)?;
            // Refused by a policy, it was not by RBAC.
            ensure!(
                answer.to_string().contains("ValidatingAdmissionPolicy"),
                "{answer}"
            );
            Ok(())
        })
    }

    /// Runs keyctl as an ordinary user.
    pub(crate) fn keyctl(&self, user: &str, arguments: &[&str]) -> Result<Run> {
        keyctl::run(&self.bed, self.cluster(), &user_token(user), arguments)
    }

    pub(crate) fn cluster(&self) -> &ControlPlane {
        &self.api.cluster
    }

    pub(crate) fn ask(&self, person: &Person, request: &Request) -> Result<Answer> {
        self.api.ask(person, request)
    }

    pub(crate) fn done(&self, person: &Person, request: &Request) -> Result<Value> {
        self.api.done(person, request)
    }

    /// A Node as it is.
    pub(crate) fn node(&self, name: &str) -> Result<Value> {
        self.done(&administrator(), &Request::get(&path(name)))
    }

    /// The agent of a node, with a token bound to its pod there.
    pub(crate) fn agent(&self, node: &str) -> Result<Person> {
        let credentials = self.credentials(node)?;
        Ok(agent(&format!("the agent of {node}"), credentials.token()?))
    }

    /// Makes an agent's pod go at once.
    pub(crate) fn delete_agent(&self, node: &str) -> Result<()> {
        self.cluster().revoke(self.credentials(node)?)
    }

    fn credentials(&self, node: &str) -> Result<&AgentCredentials> {
        let credentials = self.agents.get(node);
        credentials.with_context(|| format!("{node} has no agent"))
    }

    /// Makes one change by one way, and checks how it ends.
    pub(crate) fn attempt(
        &self,
        person: &Person,
        (way, through): (Way, Through),
        node: &str,
        change: &Value,
        expected: Expected<'_>,
    ) -> Result<()> {
        for _ in 0..PUT_ATTEMPTS {
            let Some(request) = request((way, through), person.manager, &self.node(node)?, change)
            else {
                return Ok(());
            };
            let answer = self.ask(person, &request)?;
            if way == Way::Put && matches!(answer, Answer::Refused { code: 409, .. }) {
                continue;
            }
            return check(&answer, expected)
                .with_context(|| format!("{way:?} {through:?} as {}: {change}", person.name));
        }
        anyhow::bail!("{node} changes all the time")
    }

    /// As [`Self::attempt`], of any request.
    pub(crate) fn expect(
        &self,
        person: &Person,
        request: &Request,
        expected: Expected<'_>,
    ) -> Result<()> {
        let answer = self.ask(person, request)?;
        check(&answer, expected)
            .with_context(|| format!("{} {} as {}", request.method, request.path, person.name))
    }

    fn wait_in_force(&self) -> Result<()> {
        let label = json!({"metadata": {"labels": {"example.com/canary": "yes"}}});
        let record = annotation("podwire.dev/mode", "encrypted");
        let mut stranger = node(9);
        stranger["metadata"]["name"] = json!("node-9");
        let patch = |change: &Value| Request {
            method: "PATCH",
            path: format!("{}?dryRun=All", path("node-1")),
            content_type: "application/merge-patch+json",
            body: change.clone(),
        };
        let canaries = [
            (
                "podwire-agent-own-node",
                self.agent("node-1")?,
                patch(&label),
            ),
            ("podwire-annotations", administrator(), patch(&record)),
            ("podwire-operator", alice(), patch(&label)),
            (
                "podwire-kubelet",
                kubelet("node-9"),
                Request::post(&format!("{NODES}?dryRun=All"), stranger),
            ),
        ];
        for (policy, person, request) in canaries {
            until(IN_FORCE, policy, || {
                self.expect(&person, &request, Expected::Denied(policy, ""))
            })?;
        }
        Ok(())
    }
}

fn check(answer: &Answer, expected: Expected<'_>) -> Result<()> {
    match (answer, expected) {
        (Answer::Done(_), Expected::Done) => Ok(()),
        (Answer::Refused { code, message }, Expected::Denied(policy, words)) => {
            let policy = format!("ValidatingAdmissionPolicy '{policy}'");
            let denied = matches!(code, 403 | 422)
                && message.contains(&policy)
                && message.contains(words)
                // An expression that failed refuses, too: that is no rule of ours.
                && !message.contains("resulted in error");
            ensure!(denied, "{answer}\nexpected: denied, {policy}, {words:?}");
            Ok(())
        }
        (Answer::Refused { code, message }, Expected::Refused(words)) => {
            let refused = matches!(code, 401 | 403) && message.contains(words);
            ensure!(refused, "{answer}\nexpected: refused, {words:?}");
            Ok(())
        }
        (answer, expected) => anyhow::bail!("{answer}\nexpected: {expected:?}"),
    }
}

/// Applies a kustomization below `deploy`, with every field known.
pub(crate) fn apply(cluster: &ControlPlane, kustomization: &str) -> Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(kustomization);
    let folder = folder.to_str().context("a path that is text")?;
    let arguments = ["apply", "--validate=strict", "-k", folder];
    // The server makes its own namespaces soon after it is ready.
    until(IN_FORCE, "the kustomization to be accepted", || {
        cluster.kubectl(&arguments, "")
    })
}

/// A Node as a kubelet and the controllers leave it.
pub(crate) fn node(number: u8) -> Value {
    let last = 10 + number;
    let (v4, v6) = (
        format!("10.244.{number}.0/24"),
        format!("fd00:10:244:{number}::/64"),
    );
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": format!("node-{number}"),
            "labels": {"kubernetes.io/hostname": format!("node-{number}"), "example.com/old": "it"},
            "annotations": {"example.com/theirs": "as it was"},
        },
        "spec": {"podCIDR": v4, "podCIDRs": [v4, v6]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": format!("192.0.2.{last}")},
                // As some clouds write it.
                {"type": "InternalIP", "address": format!("2001:DB8:0::{last:X}")},
                {"type": "ExternalIP", "address": format!("198.51.100.{last}")},
                {"type": "InternalDNS", "address": format!("203.0.113.{last}")},
                {"type": "Hostname", "address": format!("node-{number}")},
            ],
            "conditions": [
                {"type": "MemoryPressure", "status": "False", "reason": "KubeletHasSufficientMemory"},
                {"type": "Ready", "status": "True", "reason": "KubeletReady"},
            ],
            "capacity": {"cpu": "2"},
        },
    })
}
