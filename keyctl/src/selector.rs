//! Label selectors, as far as a folder is asked: an API server knows its own.

use std::collections::BTreeMap;
use std::str::FromStr;

/// Which labels a Node must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Is(String, String),
    IsNot(String, String),
    Exists(String),
    ExistsNot(String),
}

/// Why a text is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no selector that a folder can be asked for: expected KEY=VALUE, KEY!=VALUE, KEY or \
     !KEY, separated by commas"
)]
pub(crate) struct InvalidSelector(String);

impl Selector {
    /// Whether labels are as they must be. As Kubernetes has it, `!=` holds without the label.
    pub(crate) fn chooses(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|term| match term {
            Term::Is(key, value) => labels.get(key) == Some(value),
            Term::IsNot(key, value) => labels.get(key) != Some(value),
            Term::Exists(key) => labels.contains_key(key),
            Term::ExistsNot(key) => !labels.contains_key(key),
        })
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let terms: Option<Vec<Term>> = text.split(',').map(|it| term(it.trim())).collect();
        terms
            .map(Self)
            .ok_or_else(|| InvalidSelector(text.to_owned()))
    }
}

fn term(text: &str) -> Option<Term> {
    let (key, value, is_equal) = if let Some((key, value)) = text.split_once("!=") {
        (key, Some(value), false)
    } else if let Some((key, value)) = text.split_once("==") {
        (key, Some(value), true)
    } else if let Some((key, value)) = text.split_once('=') {
        (key, Some(value), true)
    } else if let Some(key) = text.strip_prefix('!') {
        (key, None, false)
    } else {
        (text, None, true)
    };
    let is_word = |text: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        text.bytes().all(is_allowed)
    };
    let key = key.trim();
    let value = value.map(str::trim);
    if key.is_empty() || !is_word(key) || !value.is_none_or(is_word) {
        return None;
    }
    let key = key.to_owned();
    Some(match (value.map(str::to_owned), is_equal) {
        (Some(value), true) => Term::Is(key, value),
        (Some(value), false) => Term::IsNot(key, value),
        (None, true) => Term::Exists(key),
        (None, false) => Term::ExistsNot(key),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_chosen_as_kubernetes_does() {
        let labels = [("pool", "a"), ("example.com/big", "")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let labels = BTreeMap::from(labels);
        for (text, expected) in [
            ("pool=a", true),
            ("pool==a", true),
            ("pool = a, example.com/big", true),
            ("pool=b", false),
            ("pool!=b", true),
            ("zone!=b", true),
            ("zone", false),
            ("!zone", true),
            ("pool=a,!example.com/big", false),
            ("example.com/big=", true),
        ] {
            let selector: Selector = text.parse().expect("a selector");
            assert_eq!(selector.chooses(&labels), expected, "{text}");
        }
        for text in ["", "pool in (a,b)", "=a", "a=b=c", "pool=a,"] {
            assert!(text.parse::<Selector>().is_err(), "{text}");
        }
    }
}
