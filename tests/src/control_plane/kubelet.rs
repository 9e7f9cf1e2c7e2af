//! Nodes, as their kubelets tell the API of them.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{AgentCredentials, ControlPlane, kubelet_token};
use crate::node::Node;
use crate::until::until;

/// The controllers give a Node its pod CIDRs within a second; theirs may have to start first.
const CIDRS_DEADLINE: Duration = Duration::from_secs(60);

/// How long the token of a pod lasts that nobody asked another lifetime for: kubelet's own.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// Creates a Node, then tells its addresses and that it is ready.
///
/// # Errors
/// The API's refusal.
pub async fn register(client: &Client, name: &str, addresses: &[IpAddr]) -> kube::Result<()> {
    let nodes: Api<core::Node> = Api::all(client.clone());
    let hostname = ("kubernetes.io/hostname".to_owned(), name.to_owned());
    let node = core::Node {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some([hostname].into()),
            ..ObjectMeta::default()
        },
        ..core::Node::default()
    };
    nodes.create(&PostParams::default(), &node).await?;
    let status = json!({"addresses": internal(addresses), "conditions": [ready()]});
    patch_status(&nodes, name, &Patch::Merge(json!({"status": status}))).await
}

/// Tells a Node's addresses in place of those that it has.
///
/// # Errors
/// The API's refusal.
pub async fn report_addresses(
    client: &Client,
    name: &str,
    addresses: &[IpAddr],
) -> kube::Result<()> {
    // A strategic patch would merge them by their type, of which there are two alike.
    let patch = Patch::Merge(json!({"status": {"addresses": internal(addresses)}}));
    patch_status(&Api::all(client.clone()), name, &patch).await
}

/// Tells that a Node is ready still: this changes the Node once a second at most.
///
/// # Errors
/// The API's refusal.
pub async fn report_ready(client: &Client, name: &str) -> kube::Result<()> {
    let patch = Patch::Strategic(json!({"status": {"conditions": [ready()]}}));
    patch_status(&Api::all(client.clone()), name, &patch).await
}

async fn patch_status(
    nodes: &Api<core::Node>,
    name: &str,
    patch: &Patch<Value>,
) -> kube::Result<()> {
    let parameters = PatchParams::default();
    nodes.patch_status(name, &parameters, patch).await.map(drop)
}

fn internal(addresses: &[IpAddr]) -> Vec<Value> {
    let internal = |address| json!({"type": "InternalIP", "address": address});
    addresses.iter().map(internal).collect()
}

fn ready() -> Value {
    // The API keeps whole seconds.
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "",
        "lastHeartbeatTime": now,
    })
}

impl ControlPlane {
    /// Creates the Node of a topology's node as its kubelet does; the controllers then give it its
    /// pod CIDRs.
    ///
    /// # Errors
    /// The API's refusal, such as of a name that no kubelet of a topology has.
    pub fn create_node(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let kubelet = self.client_as(&kubelet_token(name))?;
        self.ask(register(&kubelet, name, addresses))
            .with_context(|| format!("creating the Node {name}"))
    }

    /// Changes a Node's addresses as its kubelet does.
    ///
    /// # Errors
    /// The API's refusal.
    pub fn set_addresses(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let kubelet = self.client_as(&kubelet_token(name))?;
        self.ask(report_addresses(&kubelet, name, addresses))
            .with_context(|| format!("changing the addresses of the Node {name}"))
    }

    /// A heartbeat as a kubelet's.
    ///
    /// # Errors
    /// The API's refusal.
    pub fn heartbeat(&self, name: &str) -> Result<()> {
        let kubelet = self.client_as(&kubelet_token(name))?;
        self.ask(report_ready(&kubelet, name))
            .with_context(|| format!("a heartbeat of the Node {name}"))
    }

    /// Deletes a Node as its operator does.
    ///
    /// # Errors
    /// When there is none.
    pub fn delete_node(&self, name: &str) -> Result<()> {
        let nodes: Api<core::Node> = Api::all(self.client());
        self.ask(nodes.delete(name, &DeleteParams::default()))
            .map(drop)
            .with_context(|| format!("deleting the Node {name}"))
    }

    /// A Node as the API has it.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<core::Node> {
        let nodes: Api<core::Node> = Api::all(self.client());
        self.ask(nodes.get(name))
            .with_context(|| format!("reading the Node {name}"))
    }

    /// Waits until the controllers have given a Node its pod CIDRs, and returns them.
    ///
    /// # Errors
    /// When they do not.
    pub fn pod_cidrs(&self, name: &str) -> Result<Vec<IpNet>> {
        let what = format!("the pod CIDRs of the Node {name}");
        let cidrs = until(CIDRS_DEADLINE, &what, || {
            let spec = self.node(name)?.spec.unwrap_or_default();
            spec.pod_cidrs.context("it has none")
        })?;
        let parsed = cidrs.iter().map(|cidr| cidr.parse());
        parsed.collect::<Result<_, _>>().context(what)
    }

    /// Makes a node of the testbed one of the cluster: creates its Node, moves its pods into the
    /// pod CIDRs that it is given, and has its agent, which is not started, use the API with
    /// these credentials.
    ///
    /// # Errors
    /// The first step's.
    pub fn join(&self, node: &Node) -> Result<AgentCredentials> {
        let name = node.name();
        self.create_node(name, &node.manifest().addresses)?;
        node.set_pod_cidrs(self.pod_cidrs(name)?)?;
        let credentials = self.agent_credentials(name, TOKEN_LIFETIME)?;
        node.use_kubernetes(&credentials.kubeconfig());
        Ok(credentials)
    }
}
