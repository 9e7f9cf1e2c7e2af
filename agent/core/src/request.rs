//! Operators' requests about a node's keys: annotations with the prefix `request.podwire.dev/`,
//! written by keyctl and read by that node's agent, which never changes them.
//!
//! A request says for which key generation it was made. Once the node has another one it asks for
//! nothing any more: neither a late copy of it nor an old one that is put back does anything.

use std::collections::BTreeMap;

use crate::record::REQUEST_PREFIX;

/// Longest value in bytes: a generation of 20 digits, and a user's name of the longest kind that
/// Kubernetes makes (a service account's: two names of 253 and 63 characters), several times over.
pub const VALUE_LENGTH_MAX: usize = 1_024;

/// Most characters of a rejected value that an error repeats.
const EXCERPT_LENGTH_MAX: usize = 64;

/// What may be asked of a node's keys. Of several that hold, the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Replace the keys without loss.
    Rotate,
    /// End the rotation before the next keys are promoted.
    Abort,
    /// Replace the keys at once: others know them.
    Revoke,
}

impl Verb {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Rotate, Self::Abort, Self::Revoke];

    /// The annotation's name behind the prefix.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rotate => "rotate",
            Self::Abort => "abort",
            Self::Revoke => "revoke",
        }
    }

    /// The whole name of the annotation.
    #[must_use]
    pub fn annotation(self) -> String {
        format!("{REQUEST_PREFIX}{}", self.name())
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub verb: Verb,
    /// The key generation that the node must have.
    pub if_key_generation: u64,
    /// Who asks; an admission policy binds it to the authenticated user.
    pub by: String,
}

/// Why a value is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than any request.
    #[error(
        "{REQUEST_PREFIX}{verb} has {length} bytes: at most {VALUE_LENGTH_MAX} are allowed",
        verb = .verb.name()
    )]
    TooLong {
        /// Of what.
        verb: Verb,
        /// Its length in bytes.
        length: usize,
    },
    /// Not of the form.
    #[error(
        "{REQUEST_PREFIX}{verb} is {value:?}: expected if-key-generation=N,by=NAME, as `keyctl \
         {verb}` writes it",
        verb = .verb.name()
    )]
    Malformed {
        /// Of what.
        verb: Verb,
        /// What it holds, shortened.
        value: String,
    },
}

impl Request {
    /// The request in the value of its annotation.
    ///
    /// # Errors
    /// When it is none: nothing is asked for then.
    pub fn parse(verb: Verb, value: &str) -> Result<Self, RequestError> {
        if value.len() > VALUE_LENGTH_MAX {
            let length = value.len();
            return Err(RequestError::TooLong { verb, length });
        }
        let parse = || {
            let (generation, by) = value
                .strip_prefix("if-key-generation=")?
                .split_once(",by=")?;
            // Rust's parser also takes a plus sign.
            let is_number = generation.bytes().all(|byte| byte.is_ascii_digit());
            let if_key_generation = generation.parse().ok().filter(|_| is_number)?;
            let is_name = !by.is_empty() && by.chars().all(is_of_a_name);
            is_name.then(|| Self {
                verb,
                if_key_generation,
                by: by.to_owned(),
            })
        };
        parse().ok_or_else(|| RequestError::Malformed {
            verb,
            value: value.chars().take(EXCERPT_LENGTH_MAX).collect(),
        })
    }

    /// The value of its annotation.
    #[must_use]
    pub fn value(&self) -> String {
        format!(
            "if-key-generation={},by={}",
            self.if_key_generation, self.by
        )
    }
}

/// Whether names of users have such a character: what moves a cursor, turns a line around or cannot
/// be seen is in none.
fn is_of_a_name(character: char) -> bool {
    character == ' ' || character.is_ascii_graphic() || character.is_alphanumeric()
}

/// The request that counts, if any, of those that hold; and those that cannot be read.
#[must_use]
pub fn in_force(
    annotations: &BTreeMap<String, String>,
    holds: impl Fn(&Request) -> bool,
) -> (Option<Request>, Vec<RequestError>) {
    let mut errors = Vec::new();
    let mut found = None;
    for verb in Verb::ALL {
        let Some(value) = annotations.get(&verb.annotation()) else {
            continue;
        };
        match Request::parse(verb, value) {
            Ok(request) if holds(&request) => found = Some(request),
            Ok(_) => {}
            Err(error) => errors.push(error),
        }
    }
    (found, errors)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(key_generation: u64) -> impl Fn(&Request) -> bool {
        move |request| request.if_key_generation == key_generation
    }

    fn annotations(all: &[(Verb, &str)]) -> BTreeMap<String, String> {
        let all = all.iter();
        all.map(|(verb, value)| (verb.annotation(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_request_counts_for_its_key_generation_alone() {
        let told = annotations(&[(Verb::Rotate, "if-key-generation=4,by=alice")]);
        let (found, errors) = in_force(&told, of(4));
        assert_eq!(found.map(|request| request.by), Some("alice".to_owned()));
        assert_eq!(errors, []);
        for other in [0, 3, 5] {
            assert_eq!(in_force(&told, of(other)), (None, Vec::new()));
        }
    }

    #[test]
    fn of_several_requests_abort_counts_before_rotate_and_revoke_before_both() {
        let told = annotations(&[
            (Verb::Rotate, "if-key-generation=4,by=alice"),
            (Verb::Abort, "if-key-generation=4,by=bob"),
        ]);
        let verb = |told: &BTreeMap<_, _>| in_force(told, of(4)).0.map(|request| request.verb);
        assert_eq!(verb(&told), Some(Verb::Abort));
        let mut told = told;
        told.insert(
            Verb::Revoke.annotation(),
            "if-key-generation=4,by=carol".to_owned(),
        );
        assert_eq!(verb(&told), Some(Verb::Revoke));
    }

    #[test]
    fn garbage_asks_for_nothing_and_is_told() {
        for value in [
            "",
            "now",
            "if-key-generation=4",
            "if-key-generation=,by=alice",
            "if-key-generation=+4,by=alice",
            "if-key-generation=18446744073709551616,by=alice",
            "if-key-generation=4,by=",
            "if-key-generation=4,by=a\u{1b}[31m",
            "if-key-generation=4,by=a\u{202e}b",
            "if-key-generation=4,by=a\nb",
        ] {
            let told = annotations(&[(Verb::Rotate, value)]);
            let (found, errors) = in_force(&told, of(4));
            assert_eq!(found, None, "{value}");
            assert_eq!(errors.len(), 1, "{value}");
        }
        let long = "x".repeat(VALUE_LENGTH_MAX + 1);
        let (found, errors) = in_force(&annotations(&[(Verb::Abort, &long)]), of(4));
        assert_eq!(found, None);
        let message = errors[0].to_string();
        assert!(message.len() < 200, "{message}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(generation: u64, by in "[ -~äß漢]{1,253}") {
            for verb in Verb::ALL {
                let request = Request { verb, if_key_generation: generation, by: by.clone() };
                prop_assert_eq!(Request::parse(verb, &request.value()), Ok(request));
            }
        }

        #[test]
        fn no_text_makes_it_panic(value in ".{0,80}") {
            for value in [value.clone(), format!("if-key-generation={value}")] {
                if let Ok(request) = Request::parse(Verb::Revoke, &value) {
                    prop_assert!(!request.by.chars().any(char::is_control));
                }
            }
        }
    }
}
