//! Those who ask.

use podwire_testbed::control_plane::{ADMIN_TOKEN, kubelet_token, user_token};

use super::api::Person;

/// May do everything that admission lets pass.
pub(crate) fn administrator() -> Person {
    with_token("an administrator", ADMIN_TOKEN.to_owned())
}

/// A node's kubelet.
pub(crate) fn kubelet(node: &str) -> Person {
    with_token(&format!("the kubelet of {node}"), kubelet_token(node))
}

/// Holds the operator's role, and nothing else.
pub(crate) fn alice() -> Person {
    with_token("alice, an operator", user_token("alice"))
}

/// Is known, and has no right.
pub(crate) fn mallory() -> Person {
    with_token("mallory", user_token("mallory"))
}

/// Is not known.
pub(crate) fn nobody() -> Person {
    with_token("nobody", String::new())
}

/// May write Nodes in every way, and is no operator.
pub(crate) fn editor() -> Person {
    user("editor", &[])
}

/// Holds the operator's role and may write Nodes in every way.
pub(crate) fn chief() -> Person {
    user("chief", &[])
}

/// Anybody, by the administrator's right to stand for others.
pub(crate) fn user(name: &str, groups: &[&str]) -> Person {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    Person {
        name: name.to_owned(),
        token: ADMIN_TOKEN.to_owned(),
        stands_for: Some((name.to_owned(), groups)),
        manager: "kubectl",
    }
}

/// Whoever holds a token of the agents.
pub(crate) fn agent(name: &str, token: String) -> Person {
    Person {
        manager: "podwire-agent",
        ..with_token(name, token)
    }
}

fn with_token(name: &str, token: String) -> Person {
    Person {
        name: name.to_owned(),
        token,
        stands_for: None,
        manager: "kubectl",
    }
}
