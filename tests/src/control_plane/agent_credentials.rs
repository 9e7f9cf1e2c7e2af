//! Who an agent is to the API: a ServiceAccount, by a token that is bound to a pod of its node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::access::kubeconfig_text;
use super::layout::{Layout, replace};
use super::{ControlPlane, short_token};

/// Where agents live.
pub const AGENT_NAMESPACE: &str = "podwire-system";

const AGENT_ACCOUNT: &str = "podwire-agent";

/// The user that every agent is to the API.
pub const AGENT_USER: &str = "system:serviceaccount:podwire-system:podwire-agent";

/// The API grants no token for less.
const LIFETIME_MIN: Duration = Duration::from_secs(600);

/// Who owns what the testbed applies.
const FIELD_MANAGER: &str = "testbed";

/// The folders of all agents, in the control plane's.
const FOLDERS: &str = "agents";

/// The credentials of one node's agent: a folder with `token`, `ca.crt` and `namespace`, as a pod
/// has it, and a kubeconfig that names them.
#[derive(Debug)]
pub struct AgentCredentials {
    folder: PathBuf,
    pod: BoundObjectReference,
}

impl AgentCredentials {
    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// The token as it is now.
    ///
    /// # Errors
    /// The file system's.
    pub fn token(&self) -> Result<String> {
        let path = self.folder.join("token");
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }
}

impl ControlPlane {
    /// Makes the agent's pod on a node, in place of one that was there, and a token that is bound
    /// to it and lasts so long: see [`Self::renew_token`].
    ///
    /// # Errors
    /// The API's refusal.
    pub fn agent_credentials(&self, node: &str, lifetime: Duration) -> Result<AgentCredentials> {
        self.apply_account(AGENT_NAMESPACE, AGENT_ACCOUNT)?;
        let pod = self.create_agent_pod(node);
        let pod = pod.with_context(|| format!("creating the pod of the agent of {node}"))?;
        let folder = self.layout.path(FOLDERS).join(node);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let ca_file = folder.join("ca.crt");
        replace(&ca_file, &fs::read_to_string(self.ca_file())?)?;
        replace(&folder.join("namespace"), AGENT_NAMESPACE)?;
        let user = json!({"tokenFile": folder.join("token")});
        let kubeconfig = kubeconfig_text(&self.layout.url(), &ca_file, &user);
        let credentials = AgentCredentials { folder, pod };
        replace(&credentials.kubeconfig(), &kubeconfig)?;
        self.renew_token(&credentials, lifetime)?;
        Ok(credentials)
    }

    /// Writes a new token in place of the last one, as kubelet does. The API accepts it for so
    /// long, or up to ten seconds more: it remembers for so long what it has accepted.
    ///
    /// # Errors
    /// The API's refusal.
    pub fn renew_token(&self, credentials: &AgentCredentials, lifetime: Duration) -> Result<()> {
        let pod = Some(credentials.pod.clone());
        let asked = lifetime.max(LIFETIME_MIN);
        let mut token = self.request_token(AGENT_NAMESPACE, AGENT_ACCOUNT, pod, asked)?;
        if lifetime < LIFETIME_MIN {
            let key = fs::read_to_string(self.layout.path("service-accounts.key"))?;
            token = short_token::accepted_until(&token, &key, Timestamp::now() + lifetime)?;
        }
        replace(&credentials.folder.join("token"), &token)
    }

    /// Deletes the pod of these credentials: from then on the API knows their token no more.
    ///
    /// # Errors
    /// When it is gone.
    pub fn revoke(&self, credentials: &AgentCredentials) -> Result<()> {
        let name = credentials.pod.name.as_deref().unwrap_or_default();
        let deleted = self.ask(self.agent_pods().delete(name, &at_once()));
        deleted
            .map(drop)
            .with_context(|| format!("deleting the pod {name}"))
    }

    /// A token of the agents' account that is bound to no pod.
    ///
    /// # Errors
    /// The API's refusal.
    pub fn unbound_token(&self) -> Result<String> {
        self.token_of(AGENT_NAMESPACE, AGENT_ACCOUNT)
    }

    /// A token of a ServiceAccount, which is made if it is not there, bound to no pod.
    ///
    /// # Errors
    /// The API's refusal.
    pub fn token_of(&self, namespace: &str, account: &str) -> Result<String> {
        self.apply_account(namespace, account)?;
        self.request_token(namespace, account, None, LIFETIME_MIN)
    }

    fn apply_account(&self, namespace: &str, account: &str) -> Result<()> {
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let metadata = json!({"name": namespace});
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        let namespaces: Api<core::Namespace> = Api::all(self.client());
        self.ask(namespaces.patch(namespace, &parameters, &Patch::Apply(object)))
            .with_context(|| format!("making the namespace {namespace}"))?;
        let metadata = json!({"name": account, "namespace": namespace});
        let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
        let accounts: Api<core::ServiceAccount> = Api::namespaced(self.client(), namespace);
        self.ask(accounts.patch(account, &parameters, &Patch::Apply(object)))
            .map(drop)
            .with_context(|| format!("making the ServiceAccount {account}"))
    }

    fn agent_pods(&self) -> Api<core::Pod> {
        Api::namespaced(self.client(), AGENT_NAMESPACE)
    }

    fn create_agent_pod(&self, node: &str) -> Result<BoundObjectReference> {
        let name = format!("{AGENT_ACCOUNT}-{node}");
        let pod: core::Pod = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "nodeName": node,
                "serviceAccountName": AGENT_ACCOUNT,
                "automountServiceAccountToken": false,
                "hostNetwork": true,
                // Else it is evicted from a node without heartbeats, and its token ends.
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "agent", "image": "podwire-agent"}],
            },
        }))?;
        let pods = self.agent_pods();
        let created = self.ask(async {
            if pods.get_opt(&name).await?.is_some() {
                pods.delete(&name, &at_once()).await?;
            }
            pods.create(&PostParams::default(), &pod).await
        })?;
        Ok(BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: created.metadata.name,
            uid: created.metadata.uid,
        })
    }

    fn request_token(
        &self,
        namespace: &str,
        account: &str,
        bound_object_ref: Option<BoundObjectReference>,
        lifetime: Duration,
    ) -> Result<String> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: Vec::new(),
                bound_object_ref,
                expiration_seconds: Some(i64::try_from(lifetime.as_secs())?),
            },
            ..TokenRequest::default()
        };
        let accounts: Api<core::ServiceAccount> = Api::namespaced(self.client(), namespace);
        let parameters = PostParams::default();
        let answer = self.ask(accounts.create_token_request(account, &parameters, &request));
        let answer = answer.with_context(|| format!("asking for a token of {account}"))?;
        Ok(answer.status.context("an answer without a token")?.token)
    }
}

/// Writes the certificates that clients shall trust to every agent's folder.
pub(super) fn replace_ca(layout: &Layout, bundle: &str) -> Result<()> {
    // Missing where no agent has credentials yet.
    let folders = fs::read_dir(layout.path(FOLDERS)).into_iter().flatten();
    for folder in folders {
        replace(&folder?.path().join("ca.crt"), bundle)?;
    }
    Ok(())
}

/// No kubelet is there that would say that its containers have ended.
fn at_once() -> DeleteParams {
    DeleteParams::default().grace_period(0)
}
