//! What a refusal tells people: it ends up in logs and on terminals.

/// Characters of a message at most: one that names an object, a cause and a remedy is shorter.
const LENGTH_MAX: usize = 2_000;

/// Checks that the message of an error, with its causes, can be shown.
pub(crate) fn check(error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert!(text.chars().count() <= LENGTH_MAX, "{} bytes", text.len());
    assert!(
        !text.chars().any(char::is_control),
        "it could command a terminal: {text:?}"
    );
}
