//! What an operator's program changes of a Node's requests.

use std::collections::BTreeMap;

use podwire_core::request::{Request, Verb};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestChange {
    /// This request, in the place of all that were made about the node's keys: of several that hold
    /// the greatest would count, which may be an old one.
    Make(Request),
    /// This request is no more. Another one of its kind, or one that somebody else has made, stays.
    TakeBack(Request),
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
            Self::TakeBack(request) => [(request.verb.annotation(), None)].into(),
        }
    }

    /// Whether it changes anything of these annotations that is its to change.
    #[must_use]
    pub fn has_effect(&self, annotations: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Make(_) => true,
            Self::TakeBack(request) => {
                annotations.get(&request.verb.annotation()) == Some(&request.value())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: Verb, by: &str) -> Request {
        Request {
            verb,
            if_key_generation: 4,
            by: by.to_owned(),
        }
    }

    #[test]
    fn a_request_stands_alone_among_those_about_keys() {
        let changed = RequestChange::Make(request(Verb::Abort, "alice")).annotations();
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
        let back = RequestChange::TakeBack(request(Verb::Rotate, "alice")).annotations();
        assert_eq!(
            back,
            [("request.podwire.dev/rotate".to_owned(), None)].into()
        );
    }

    #[test]
    fn nobody_takes_back_what_somebody_else_has_asked() {
        let back = RequestChange::TakeBack(request(Verb::Rotate, "alice"));
        let with = |request: Request| [(request.verb.annotation(), request.value())].into();
        assert!(back.has_effect(&with(request(Verb::Rotate, "alice"))));
        for other in [request(Verb::Rotate, "bob"), request(Verb::Abort, "alice")] {
            assert!(!back.has_effect(&with(other)));
        }
        assert!(!back.has_effect(&BTreeMap::new()));
    }
}
