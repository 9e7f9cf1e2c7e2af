//! What an operator's program asks of an API server: records alone, and changes of requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Client;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::Request;
use podwire_core::node::{Node, NodeName};
use serde::de::IgnoredAny;
use serde_json::json;

use super::failure::Failure;
use super::requests::{Extent, NODES, get, list_by, within};
use crate::request_change::RequestChange;

/// Owner of requests in `metadata.managedFields`.
const FIELD_MANAGER: &str = "keyctl";

/// How often a Node may change between a look at its requests and their change. Its kubelet and
/// its agent write it every few seconds at most.
const CHANGED_MEANWHILE_MAX: usize = 5;

/// The Nodes at one moment, or those that a label selector chooses, as far as their metadata goes:
/// without pod CIDRs and addresses, in a tenth of the bytes. One that cannot be read is left out.
///
/// # Errors
/// When the list cannot be had whole.
pub async fn read_metadata(
    client: &Client,
    selector: Option<&str>,
) -> Result<BTreeMap<NodeName, Arc<Node>>, Failure> {
    let parameters = ListParams {
        label_selector: selector.map(str::to_owned),
        ..ListParams::default()
    };
    let mut nodes = BTreeMap::new();
    list_by(client, Extent::Metadata, parameters, |object| {
        if let Ok(node) = object.into_node() {
            nodes.insert(node.name.clone(), Arc::new(node));
        }
    })
    .await?;
    Ok(nodes)
}

/// Changes the requests on the Node that has this name and uid, all in one patch; or, for a dry
/// run, only asks whether that would be taken.
///
/// # Errors
/// [`Failure::Conflict`] and [`Failure::Missing`] when there is no such Node any more.
pub async fn change_requests(
    client: &Client,
    node: &NodeName,
    uid: &str,
    change: &RequestChange,
    is_dry_run: bool,
) -> Result<(), Failure> {
    let send = async |version: Option<&str>| {
        let request = patch(node, uid, version, change, is_dry_run);
        let request = request.map_err(|error| Failure::Other(error.to_string()))?;
        within(client.request::<IgnoredAny>(request)).await
    };
    if let RequestChange::Make(_) = change {
        send(None).await?;
        return Ok(());
    }
    let mut conflict = None;
    for _ in 0..CHANGED_MEANWHILE_MAX {
        let found = get(client, Extent::Metadata, node).await?;
        let found = found.filter(|found| found.metadata.uid == uid);
        let Some(metadata) = found.map(|found| found.metadata) else {
            return Ok(());
        };
        if !change.has_effect(&metadata.annotations.unwrap_or_default()) {
            return Ok(());
        }
        match send(Some(&metadata.resource_version)).await {
            Err(failure @ Failure::Conflict(_)) => conflict = Some(failure),
            sent => return sent.map(drop),
        }
    }
    conflict.map_or(Ok(()), Err)
}

/// A merge patch, since it removes as well as sets. The uid is a precondition: a Node that was
/// created again must not inherit a request. So is a version: of what is taken back.
fn patch(
    node: &NodeName,
    uid: &str,
    version: Option<&str>,
    change: &RequestChange,
    is_dry_run: bool,
) -> Result<http::Request<Vec<u8>>, kube::core::request::Error> {
    let mut metadata = json!({
        "name": node.as_str(), "uid": uid, "annotations": change.annotations(),
    });
    if let Some(version) = version {
        metadata["resourceVersion"] = version.into();
    }
    let body = json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata });
    let parameters = PatchParams {
        dry_run: is_dry_run,
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    Request::new(NODES).patch_metadata(node.as_str(), &parameters, &Patch::Merge(body))
}

#[cfg(test)]
mod tests {
    use podwire_core::request::{self, Verb};

    use super::*;

    #[test]
    fn a_request_is_one_patch_of_annotations_with_the_uid_of_its_node() {
        let change = RequestChange::Make(request::Request {
            verb: Verb::Rotate,
            if_key_generation: 4,
            by: "alice".to_owned(),
        });
        let node = "n1".parse().expect("a name");
        let request = patch(&node, "u", None, &change, false).expect("a request");
        assert_eq!(
            request.headers()[http::header::CONTENT_TYPE],
            "application/merge-patch+json"
        );
        assert_eq!(
            request.uri().to_string(),
            "/api/v1/nodes/n1?&fieldManager=keyctl"
        );
        let body: serde_json::Value = serde_json::from_slice(request.body()).expect("JSON");
        assert_eq!(
            body["metadata"],
            json!({ "name": "n1", "uid": "u", "annotations": {
                "request.podwire.dev/rotate": "if-key-generation=4,by=alice",
                "request.podwire.dev/abort": null,
                "request.podwire.dev/revoke": null,
            } })
        );
        let dry = patch(&node, "u", Some("7"), &change, true).expect("a request");
        assert!(dry.uri().to_string().contains("dryRun=All"));
        let body: serde_json::Value = serde_json::from_slice(dry.body()).expect("JSON");
        assert_eq!(body["metadata"]["resourceVersion"], "7");
    }
}
