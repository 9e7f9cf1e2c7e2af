//! One change of a Node, by every way that the API server knows.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::api::Request;

/// How a Node is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ServerSideApply,
    StrategicMergePatch,
    MergePatch,
    JsonPatch,
    Put,
}

impl Way {
    /// Every way to change a Node that is there.
    pub(crate) const ALL: [Self; 5] = [
        Self::ServerSideApply,
        Self::StrategicMergePatch,
        Self::MergePatch,
        Self::JsonPatch,
        Self::Put,
    ];
}

/// Which resource is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    Node,
    Status,
}

impl Through {
    pub(crate) const BOTH: [Self; 2] = [Self::Node, Self::Status];
}

/// Where the Nodes are.
pub(crate) const NODES: &str = "/api/v1/nodes";

/// The path of one Node.
pub(crate) fn path(node: &str) -> String {
    format!("{NODES}/{node}")
}

/// A request that makes `change`, a merge patch (RFC 7386), of `node`, the whole Node as it is.
/// `None` where the way has no words for it: what others own, server-side apply cannot remove. What
/// `manager` applied before and does not apply now, it removes.
pub(crate) fn request(
    (way, through): (Way, Through),
    manager: &str,
    node: &Value,
    change: &Value,
) -> Option<Request> {
    let name = node["metadata"]["name"].as_str().unwrap_or_default();
    let mut path = path(name);
    if through == Through::Status {
        path.push_str("/status");
    }
    let (method, content_type, body) = match way {
        Way::ServerSideApply => {
            if removes(change) {
                return None;
            }
            let _ = write!(path, "?fieldManager={manager}&force=true");
            let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
            let body = merged(&object, change);
            ("PATCH", "application/apply-patch+yaml", body)
        }
        Way::StrategicMergePatch => {
            let content_type = "application/strategic-merge-patch+json";
            ("PATCH", content_type, change.clone())
        }
        Way::MergePatch => ("PATCH", "application/merge-patch+json", change.clone()),
        Way::JsonPatch => {
            let operations = operations(node, change);
            ("PATCH", "application/json-patch+json", operations)
        }
        Way::Put => ("PUT", "application/json", merged(node, change)),
    };
    Some(Request {
        method,
        path,
        content_type,
        body,
    })
}

/// Whether a merge patch removes anything.
fn removes(change: &Value) -> bool {
    match change {
        Value::Null => true,
        Value::Object(fields) => fields.values().any(removes),
        Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// What a merge patch makes of an object (RFC 7386).
pub(crate) fn merged(object: &Value, change: &Value) -> Value {
    let Value::Object(fields) = change else {
        return change.clone();
    };
    let mut object = object.as_object().cloned().unwrap_or_default();
    for (name, value) in fields {
        if value.is_null() {
            object.remove(name);
        } else {
            let old = object.get(name).unwrap_or(&Value::Null);
            object.insert(name.clone(), merged(old, value));
        }
    }
    Value::Object(object)
}

/// The same change as a JSON patch (RFC 6902): whole fields of metadata, spec and status.
fn operations(node: &Value, change: &Value) -> Value {
    let whole = merged(node, change);
    let mut operations = Vec::new();
    for (part, fields) in change.as_object().into_iter().flatten() {
        for (field, _) in fields.as_object().into_iter().flatten() {
            let path = format!("/{part}/{field}");
            operations.push(match whole[part].get(field) {
                Some(value) => json!({"op": "add", "path": path, "value": value}),
                None => json!({"op": "remove", "path": path}),
            });
        }
    }
    Value::Array(operations)
}

/// A change of annotations; `None` removes one.
pub(crate) fn annotations<'a>(
    values: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> Value {
    let values: Map<String, Value> = values
        .into_iter()
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    json!({"metadata": {"annotations": values}})
}

/// As [`annotations`], of one.
pub(crate) fn annotation(name: &str, value: &str) -> Value {
    annotations([(name, Some(value))])
}

/// The annotations that a Node has.
pub(crate) fn annotations_of(node: &Value) -> Map<String, Value> {
    let annotations = node["metadata"]["annotations"].as_object();
    annotations.cloned().unwrap_or_default()
}
