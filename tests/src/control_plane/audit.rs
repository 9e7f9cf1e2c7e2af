//! The API server's audit log: who asked for what, and what became of it.

use std::fs;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use super::ControlPlane;

/// What is logged: everything about Nodes and Events, without bodies.
pub(super) const POLICY: &str = r#"apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  resources:
  - {group: "", resources: [nodes, nodes/status, events]}
  - {group: events.k8s.io, resources: [events]}
- level: None
"#;

/// The node that a token bound to a pod names.
const NODE_NAME_CLAIM: &str = "authentication.kubernetes.io/node-name";

/// One request about Nodes or Events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// Who asked.
    pub user: String,
    /// The node of the pod that the user's token is bound to.
    pub node: Option<String>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// `nodes` or `events`.
    pub resource: String,
    /// `status`, or nothing.
    pub subresource: String,
    /// The object's name, or nothing for all of them.
    pub name: String,
    /// The answer's HTTP status.
    pub code: u16,
}

impl AuditEvent {
    /// Whether it was to change something, whatever became of it.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

impl ControlPlane {
    /// Every request about Nodes and Events since the start, in order: a watch once it has begun,
    /// any other once it was answered. The server may note one a moment after its answer.
    ///
    /// # Errors
    /// The file system's.
    pub fn audit(&self) -> Result<Vec<AuditEvent>> {
        let path = self.layout.logs().join("audit.log");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        // A last line without an end is still being written.
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole.filter_map(|line| parse(line).transpose()).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    user: User,
    object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
}

#[derive(Deserialize)]
struct User {
    username: String,
    #[serde(default)]
    extra: Value,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    name: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

/// The event of a line, if it is the one that counts for its request.
fn parse(line: &str) -> Result<Option<AuditEvent>> {
    let line: Line = serde_json::from_str(line).with_context(|| line.to_owned())?;
    let counts = if line.verb == "watch" {
        "ResponseStarted"
    } else {
        "ResponseComplete"
    };
    if line.stage != counts {
        return Ok(None);
    }
    let object = line.object_ref.unwrap_or_default();
    let node = line.user.extra[NODE_NAME_CLAIM][0].as_str();
    Ok(Some(AuditEvent {
        node: node.map(str::to_owned),
        user: line.user.username,
        verb: line.verb,
        resource: object.resource,
        subresource: object.subresource,
        name: object.name,
        code: line.response_status.map_or(0, |status| status.code),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_counts_once_and_a_watch_once_it_has_begun() {
        let line = |verb: &str, stage: &str| {
            format!(
                r#"{{"kind":"Event","stage":"{stage}","verb":"{verb}",
                "user":{{"username":"a","extra":{{"{NODE_NAME_CLAIM}":["node-1"]}}}},
                "objectRef":{{"resource":"nodes","name":"node-1","subresource":"status"}},
                "responseStatus":{{"metadata":{{}},"code":200}}}}"#
            )
        };
        let parsed = |verb, stage| parse(&line(verb, stage)).expect("an event");
        assert_eq!(parsed("patch", "ResponseStarted"), None);
        assert_eq!(parsed("watch", "ResponseComplete"), None);
        let write = parsed("patch", "ResponseComplete").expect("it counts");
        assert!(write.is_write());
        assert_eq!(write.node.as_deref(), Some("node-1"));
        assert_eq!((write.subresource.as_str(), write.code), ("status", 200));
        let watch = parsed("watch", "ResponseStarted").expect("it counts");
        assert!(!watch.is_write());
    }
}
