//! The Kubernetes registry: Nodes of an API server.
//!
//! Records come from a watch of metadata alone: a tenth of the bytes, and a heartbeat costs next
//! to nothing. What claims are checked against (`spec.podCIDRs`, `status.addresses`) comes whole
//! with the first list, or from the snapshot on disk; after that from one GET of a Node whose claim
//! changed. [`contents`] decides what counts and whom to ask for; [`follower`] asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use parking_lot::Mutex;
use podwire_core::node::{Node, NodeName};
use podwire_core::record::ANNOTATION_PREFIX;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::json;
use tokio::sync::watch;

use crate::manifest::Manifest;
use crate::nodes::Nodes;
use crate::registry::{Event, Published};
use contents::{Contents, Source};
use requests::{NODES, within};

mod access;
mod contents;
mod failure;
mod follower;
mod identity;
mod operator;
mod reads;
mod requests;
mod withdrawal;

pub use access::{Access, AccessError, client};
pub use failure::Failure;
pub use follower::Follower;
pub use identity::user_name;
pub use operator::{change_requests, read_metadata};
pub use requests::read_nodes;
pub use withdrawal::withdraw;

/// Owner of our annotations in `metadata.managedFields`.
const FIELD_MANAGER: &str = "podwire-agent";

/// Events about what is in no namespace are in this one.
const EVENT_NAMESPACE: &str = "default";

/// Where those are.
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// Longest note, in characters, most of which are of one byte: Kubernetes takes 1 KiB.
const EVENT_NOTE_LENGTH_MAX: usize = 500;

/// Most of a Node's name that an Event's name and reporting instance have room for.
const EVENT_NAME_LENGTH_MAX: usize = 230;
const EVENT_INSTANCE_LENGTH_MAX: usize = 128;

/// Nodes of an API server.
#[derive(Clone, Debug)]
pub struct Kubernetes(Arc<Shared>);

/// What the follower and a publication both work on.
struct Shared {
    access: Access,
    own: NodeName,
    contents: Mutex<Contents>,
    nodes: watch::Sender<Arc<Nodes>>,
    /// Made anew after each failure, from the credentials as they are on disk then.
    client: Mutex<Option<Client>>,
}

/// What is known when the registry is opened.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The Nodes of the last run.
    pub nodes: BTreeMap<NodeName, Arc<Node>>,
    /// Whether that run was so short ago that the API server need not be asked at once.
    pub is_fresh: bool,
}

/// Why a record could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The credentials or the address of the API server cannot be had.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The Node was deleted, or created again under the same name.
    #[error(
        "the Node {0} with uid {1} is not there any more: it was deleted or created again; its \
         record goes to the new one once that is known"
    )]
    Replaced(NodeName, String),
    /// The API server did not take it.
    #[error("the API server did not take what was published of {node}: {failure}")]
    NotTaken {
        /// The own Node.
        node: NodeName,
        /// Why.
        #[source]
        failure: Failure,
    },
}

impl Kubernetes {
    /// Prepares to follow the Nodes; nothing is asked before [`Follower::run`] runs. `own` is the
    /// Node whose spec and addresses are followed, too.
    #[must_use]
    pub fn open(access: Access, own: NodeName, known: Known) -> (Self, Follower) {
        let (nodes, _) = watch::channel(Arc::default());
        let delayed = if known.is_fresh { known.nodes.len() } else { 0 };
        let shared = Arc::new(Shared {
            access,
            contents: Mutex::new(Contents::new(own.clone(), known.nodes)),
            own,
            nodes,
            client: Mutex::new(None),
        });
        (Self(Arc::clone(&shared)), Follower::new(shared, delayed))
    }

    /// The Nodes, now and after each change.
    #[must_use]
    pub fn nodes(&self) -> watch::Receiver<Arc<Nodes>> {
        self.0.nodes.subscribe()
    }

    /// Publishes the own record, as [`crate::registry::Registry::publish`]: all annotations in one
    /// request, so that nobody sees half of them.
    ///
    /// # Errors
    /// Typed; nothing is half-written then.
    pub async fn publish(
        &self,
        own: &NodeName,
        uid: &str,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Published, PublishError> {
        let held = self.0.contents.lock().record_of(own);
        if held == *annotations {
            return Ok(Published::Unchanged);
        }
        let request = publication(own, uid, annotations, &held);
        match self.ask::<Manifest>(own, request).await {
            Ok(object) => {
                // Before the watch tells it: else the next pass would write it again.
                let now = Instant::now();
                self.0.contents.lock().told(object, Source::News, now);
                self.0.tell();
                Ok(Published::Written)
            }
            Err(PublishError::NotTaken {
                failure: Failure::Missing(_) | Failure::Conflict(_),
                ..
            }) => Err(PublishError::Replaced(own.clone(), uid.to_owned())),
            Err(error) => Err(error),
        }
    }

    /// Writes an Event about the own Node, as [`crate::registry::Registry::tell`].
    ///
    /// # Errors
    /// Typed; nothing is written then.
    pub async fn tell(&self, own: &NodeName, uid: &str, event: &Event) -> Result<(), PublishError> {
        let body = event_object(own, uid, event, jiff::Timestamp::now());
        let request =
            Request::new(EVENTS).create(&PostParams::default(), body.to_string().into_bytes());
        self.ask::<IgnoredAny>(own, request).await.map(drop)
    }

    /// Whether the own Node's condition NetworkUnavailable is False; `None` until it was read.
    #[must_use]
    pub fn is_network_available(&self) -> Option<bool> {
        self.0.contents.lock().is_network_available()
    }

    /// Sets the own Node's condition NetworkUnavailable to False.
    ///
    /// # Errors
    /// Typed; nothing is written then.
    pub async fn set_network_available(&self, own: &NodeName) -> Result<(), PublishError> {
        let patch = Patch::Strategic(condition(jiff::Timestamp::now()));
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let request =
            Request::new(NODES).patch_subresource("status", own.as_str(), &parameters, &patch);
        self.ask::<IgnoredAny>(own, request).await?;
        self.0.contents.lock().network_made_available();
        Ok(())
    }

    /// The answer to a request that publishes something of the own Node.
    async fn ask<T: DeserializeOwned>(
        &self,
        own: &NodeName,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, PublishError> {
        let not_taken = |failure| PublishError::NotTaken {
            node: own.clone(),
            failure,
        };
        let request = request.map_err(|error| not_taken(Failure::Other(error.to_string())))?;
        let client = self.0.client().await?;
        within(client.request(request)).await.map_err(not_taken)
    }
}

/// Conditions are merged by their type.
fn condition(now: jiff::Timestamp) -> serde_json::Value {
    let now = format!("{now:.0}");
    json!({ "status": { "conditions": [{
        "type": contents::NETWORK_UNAVAILABLE,
        "status": "False",
        "reason": "PodwireIsUp",
        "message": "Podwire's routes and guards are in place",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }] } })
}

/// An Event of the kind that `kubectl describe node` shows. Names are unique by the time.
fn event_object(
    own: &NodeName,
    uid: &str,
    event: &Event,
    now: jiff::Timestamp,
) -> serde_json::Value {
    let note: String = event.note.chars().take(EVENT_NOTE_LENGTH_MAX).collect();
    let short = |length| own.as_str().chars().take(length).collect::<String>();
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": format!("{}.{:x}", short(EVENT_NAME_LENGTH_MAX), now.as_nanosecond()),
            "namespace": EVENT_NAMESPACE,
        },
        "eventTime": format!("{now:.6}"),
        "reportingController": "podwire.dev/agent",
        "reportingInstance": short(EVENT_INSTANCE_LENGTH_MAX),
        "action": "Mesh",
        "reason": event.reason,
        "regarding": { "apiVersion": "v1", "kind": "Node", "name": own.as_str(), "uid": uid },
        "note": note,
        "type": if event.is_warning { "Warning" } else { "Normal" },
    })
}

/// Server-side apply takes over what somebody else wrote into our annotations. What nobody but
/// somebody else wrote beside them it leaves alone, so that takes a merge patch, which names them.
/// Either names the uid: a Node that was created again must not inherit the record.
fn publication(
    own: &NodeName,
    uid: &str,
    annotations: &BTreeMap<String, String>,
    held: &BTreeMap<String, String>,
) -> Result<http::Request<Vec<u8>>, kube::core::request::Error> {
    let surplus = held.keys().filter(|key| !annotations.contains_key(*key));
    let surplus: BTreeMap<&String, Option<&String>> = surplus.map(|key| (key, None)).collect();
    let is_foreign = !surplus.is_empty();
    let mut written: BTreeMap<&String, Option<&String>> = annotations
        .iter()
        .map(|(key, value)| (key, Some(value)))
        .collect();
    written.extend(surplus);
    let body = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": own.as_str(), "uid": uid, "annotations": written },
    });
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        force: !is_foreign,
        ..PatchParams::default()
    };
    let patch = if is_foreign {
        Patch::Merge(body)
    } else {
        Patch::Apply(body)
    };
    Request::new(NODES).patch_metadata(own.as_str(), &parameters, &patch)
}

impl Shared {
    /// The client in use, or a new one.
    async fn client(&self) -> Result<Client, AccessError> {
        let in_use = self.client.lock().clone();
        if let Some(client) = in_use {
            return Ok(client);
        }
        let made = access::client(&self.access).await?;
        *self.client.lock() = Some(made.clone());
        Ok(made)
    }

    /// The next request is made with credentials that are read anew, over a new connection.
    fn drop_client(&self) {
        *self.client.lock() = None;
    }

    /// Tells whoever follows the Nodes, if something changed.
    fn tell(&self) {
        let mut contents = self.contents.lock();
        if let Some(next) = contents.changed() {
            self.nodes.send_replace(next);
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// The annotations of an agent's record among these.
fn record_in(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let record = |(key, _): &(&String, &String)| key.starts_with(ANNOTATION_PREFIX);
    let record = annotations.iter().filter(record);
    record
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests;
