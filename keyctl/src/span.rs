//! Durations and ages as people type them.

use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

/// Keys made before this: an age, or a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OlderThan {
    Age(Duration),
    Time(Timestamp),
}

impl OlderThan {
    /// The time before which keys must have been made.
    pub(crate) fn time(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Time(time) => time,
            // Older than any key when there is no such time.
            Self::Age(age) => SignedDuration::try_from(age)
                .ok()
                .and_then(|age| now.checked_sub(age).ok())
                .unwrap_or(Timestamp::MIN),
        }
    }
}

/// A duration such as `90s`, `1h30m` or `30d`.
pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    let expected = "expected a duration, such as 90s, 1h30m or 30d";
    let span: Span = text.parse().map_err(|_| expected)?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours());
    let duration = duration.ok().and_then(|it| Duration::try_from(it).ok());
    duration.ok_or(expected)
}

/// An age such as `90d`, or a time as in RFC 3339.
pub(crate) fn older_than(text: &str) -> Result<OlderThan, &'static str> {
    if let Ok(time) = text.parse() {
        return Ok(OlderThan::Time(time));
    }
    duration(text)
        .map(OlderThan::Age)
        .map_err(|_| "expected an age, such as 90d, or a time, such as 2026-03-01T12:00:00Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_takes_them_and_days_too() {
        for (text, seconds) in [
            ("0s", 0),
            ("90s", 90),
            ("1h", 3_600),
            ("1h30m", 5_400),
            ("30d", 2_592_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "5", "-1h", "soon", "1 fortnight", "2mo"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_age_is_counted_from_now() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a time");
        let time = |text| older_than(text).map(|it| it.time(now).to_string());
        assert_eq!(time("1h"), Ok("2026-03-01T11:00:00Z".to_owned()));
        let earlier = "2026-02-28T23:00:00Z";
        assert_eq!(time(earlier), Ok(earlier.to_owned()));
        assert_eq!(time("20000d").map(|it| it.len()), Ok(20));
        assert!(older_than("last week").is_err());
    }
}
