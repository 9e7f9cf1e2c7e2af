//! What an operator's program changes of a Node's requests.

use std::collections::BTreeMap;

use podwire_core::request::{Request, Verb};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestChange {
    /// This request, in the place of all that were made about the node's keys: of several that hold
    /// the greatest would count, which may be an old one.
    Make(Request),
    /// None of this kind any more.
    TakeBack(Verb),
}

impl RequestChange {
    /// The annotations that it concerns: with their value, or with none when they are to go.
    #[must_use]
    pub fn annotations(&self) -> BTreeMap<String, Option<String>> {
        match self {
            Self::Make(request) => Verb::ALL
                .into_iter()
                .map(|verb| {
                    let value = (verb == request.verb).then(|| request.value());
                    (verb.annotation(), value)
                })
                .collect(),
            Self::TakeBack(verb) => [(verb.annotation(), None)].into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_stands_alone_among_those_about_keys() {
        let request = Request {
            verb: Verb::Abort,
            if_key_generation: 4,
            by: "alice".to_owned(),
        };
        let changed = RequestChange::Make(request).annotations();
        let expected = [
            (
                "request.podwire.dev/abort",
                Some("if-key-generation=4,by=alice"),
            ),
            ("request.podwire.dev/revoke", None),
            ("request.podwire.dev/rotate", None),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.map(str::to_owned)));
        assert_eq!(changed, BTreeMap::from(expected));
        let back = RequestChange::TakeBack(Verb::Rotate).annotations();
        assert_eq!(
            back,
            [("request.podwire.dev/rotate".to_owned(), None)].into()
        );
    }
}
