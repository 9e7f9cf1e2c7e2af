//! How long ago something was, as kubectl prints it.

use jiff::{SignedDuration, Timestamp};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;

/// What a column says of which nothing is known.
const UNKNOWN: &str = "<unknown>";

/// And where a clock is wrong, as kubectl does.
const INVALID: &str = "<invalid>";

/// By so much clocks differ that are set by a time server, even a bad one. What is further ahead
/// was made by a clock that is wrong, or is looked at by one.
const SKEW_MAX: SignedDuration = SignedDuration::from_mins(1);

/// How long ago the time of this RFC 3339 text was.
pub(crate) fn of(created: Option<&str>, now: Timestamp) -> String {
    let created: Option<Timestamp> = created.and_then(|text| text.parse().ok());
    created.map_or_else(|| UNKNOWN.to_owned(), |created| since(created, now))
}

/// How long ago that was.
pub(crate) fn since(time: Timestamp, now: Timestamp) -> String {
    let ahead = ahead(time, now);
    ahead.map_or_else(
        || in_units(u64::try_from(now.as_second() - time.as_second()).unwrap_or(0)),
        |_| INVALID.to_owned(),
    )
}

/// By how much a time lies ahead, when by more than clocks may differ.
pub(crate) fn ahead(time: Timestamp, now: Timestamp) -> Option<SignedDuration> {
    Some(time.duration_since(now)).filter(|ahead| *ahead > SKEW_MAX)
}

/// Kubernetes' `HumanDuration`: the more there is of a unit, the less the next one matters.
pub(crate) fn in_units(seconds: u64) -> String {
    let two = |unit: u64, name: char, next: u64, next_name: char| match seconds % unit / next {
        0 => format!("{}{name}", seconds / unit),
        rest => format!("{}{name}{rest}{next_name}", seconds / unit),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(MINUTE, 'm', 1, 's'),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(HOUR, 'h', MINUTE, 'm'),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(DAY, 'd', HOUR, 'h'),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => two(YEAR, 'y', DAY, 'd'),
        252_288_000.. => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * HOUR - 1, "179m"),
            (3 * HOUR, "3h"),
            (8 * HOUR - 1, "7h59m"),
            (47 * HOUR, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + 3 * HOUR, "2d3h"),
            (8 * DAY + 3 * HOUR, "8d"),
            (729 * DAY, "729d"),
            (2 * YEAR + 5 * DAY, "2y5d"),
            (9 * YEAR + 5 * DAY, "9y"),
        ] {
            assert_eq!(in_units(seconds), expected);
        }
    }

    #[test]
    fn an_age_that_is_not_known_or_cannot_be_is_said_so() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a time");
        let age = |text| of(text, now);
        assert_eq!(age(Some("2026-03-01T13:00:00+02:00")), "60m");
        assert_eq!(age(Some("2026-03-01T12:00:07Z")), "0s");
        assert_eq!(age(Some("2026-03-01T12:01:00Z")), "0s");
        assert_eq!(age(Some("2026-03-01T12:01:01Z")), "<invalid>");
        assert_eq!(age(Some("2026-03-02T12:00:00Z")), "<invalid>");
        assert_eq!(age(Some("last week")), "<unknown>");
        assert_eq!(age(None), "<unknown>");
    }
}
