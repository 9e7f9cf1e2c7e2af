//! Requests about the own keys over the admin socket, in the words of the Node's annotations: the
//! control plane takes the last one, as long as it is of the present key generation.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use podwire_core::request::{Request, Verb};

use super::{Shown, ShownHandle};

/// Longest body; that of a request is shorter.
pub(super) const BODY_BYTES_MAX: usize = 4 << 10;

pub(super) async fn take(
    State(shown): State<ShownHandle>,
    Path(verb): Path<String>,
    value: String,
) -> (StatusCode, String) {
    match ask(&shown, &verb, &value) {
        Ok(text) => (StatusCode::ACCEPTED, text + "\n"),
        Err((code, text)) => (code, text + "\n"),
    }
}

fn ask(shown: &Shown, verb: &str, value: &str) -> Result<String, (StatusCode, String)> {
    let verb = Verb::ALL.into_iter().find(|known| known.name() == verb);
    let verb = verb.ok_or_else(|| {
        let text = "no such request: allowed are rotate, abort and revoke";
        (StatusCode::NOT_FOUND, text.to_owned())
    })?;
    let request = Request::parse(verb, value)
        .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let status = shown.status.load();
    let conflict = |text| Err((StatusCode::CONFLICT, text));
    if status.public_key.is_none() {
        return conflict(format!("{} uses no keys: nothing is done", status.node));
    }
    let (known, asked) = (status.key_generation, request.if_key_generation);
    if known != asked {
        return conflict(format!(
            "{} has key generation {known}, not {asked}: nothing is done",
            status.node
        ));
    }
    if let Some(other) = &status.rotation.asked_at_node
        && verb != Verb::Revoke
    {
        return conflict(format!(
            "the Node {node} asks to {other} already, which counts: use `keyctl {} {node}`",
            verb.name(),
            node = status.node
        ));
    }
    shown.asked.store(Some(Arc::new(request)));
    Ok(format!(
        "{} of key generation {known} is taken: `podwire-agent status` tells how it goes",
        verb.name()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::Status;

    fn shown(public_key: Option<&str>) -> Shown {
        let shown = Shown::default();
        shown.status.store(Arc::new(Status {
            node: "node-1".to_owned(),
            key_generation: 4,
            public_key: public_key.map(str::to_owned),
            ..Status::default()
        }));
        shown
    }

    fn asked_at_node() -> Shown {
        let shown = shown(Some("key"));
        let mut status = (**shown.status.load()).clone();
        status.rotation.asked_at_node = Some("rotate".to_owned());
        shown.status.store(Arc::new(status));
        shown
    }

    #[test]
    fn a_request_of_this_generation_is_taken_and_no_other() {
        let value = |generation| format!("if-key-generation={generation},by=root");
        let node = shown(Some("key"));
        assert!(ask(&node, "rotate", &value(4)).is_ok());
        let taken = node.asked.load_full().expect("taken");
        assert_eq!((taken.verb, taken.if_key_generation), (Verb::Rotate, 4));
        for (node, verb, value, code) in [
            (&node, "rotate", value(3), StatusCode::CONFLICT),
            (&node, "explode", value(4), StatusCode::NOT_FOUND),
            (&node, "revoke", "now".to_owned(), StatusCode::BAD_REQUEST),
            (&shown(None), "rotate", value(4), StatusCode::CONFLICT),
            (&asked_at_node(), "abort", value(4), StatusCode::CONFLICT),
        ] {
            let refused = ask(node, verb, &value).expect_err("refused");
            assert_eq!(refused.0, code, "{}", refused.1);
        }
        assert!(ask(&asked_at_node(), "revoke", &value(4)).is_ok());
        let taken = node.asked.load_full().expect("still there");
        assert_eq!(taken.verb, Verb::Rotate);
    }
}
