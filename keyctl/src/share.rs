//! How many nodes may be in rotation at once.

use std::str::FromStr;

/// A number of nodes, or a share of all that have keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    Nodes(usize),
    Percent(usize),
}

/// Why a text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a number of nodes from 1, or 1% to 100%")]
pub(crate) struct InvalidShare;

impl Share {
    /// How many of so many nodes: rounded down, but never none.
    pub(crate) const fn of(self, nodes: usize) -> usize {
        let share = match self {
            Self::Nodes(number) => number,
            Self::Percent(percent) => nodes * percent / 100,
        };
        if share == 0 { 1 } else { share }
    }
}

impl FromStr for Share {
    type Err = InvalidShare;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse().ok().filter(|number| *number > 0);
        let share = match text.strip_suffix('%') {
            Some(percent) => number(percent)
                .filter(|percent| *percent <= 100)
                .map(Self::Percent),
            None => number(text).map(Self::Nodes),
        };
        share.ok_or(InvalidShare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_down_and_at_least_one() {
        for (text, nodes, expected) in [
            ("10%", 0, 1),
            ("10%", 9, 1),
            ("10%", 29, 2),
            ("100%", 29, 29),
            ("3", 29, 3),
            ("3", 2, 3),
        ] {
            let share: Share = text.parse().expect("a share");
            assert_eq!(share.of(nodes), expected, "{text} of {nodes}");
        }
        for text in ["0", "0%", "101%", "-1", "ten", "", "%", "1.5"] {
            assert_eq!(text.parse::<Share>(), Err(InvalidShare), "{text}");
        }
    }
}
