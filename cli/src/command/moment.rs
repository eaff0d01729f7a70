//! Instants on the command line: RFC 3339, or a length of time from now.

use jiff::Timestamp;
use orca_proto::duration::Span;

const FORM: &str = "not an instant such as 2030-01-31T18:00:00Z or 2030-01-31T18:00:00+01:00";

/// An instant.
///
/// # Errors
/// What one looks like.
pub(super) fn instant(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| FORM.to_owned())
}

/// An instant, or how long ago it was, such as `2d`.
///
/// # Errors
/// What one looks like.
pub(super) fn past(text: &str) -> Result<Timestamp, String> {
    relative(text, |now, span| now.checked_sub(span.get()), "2d for two days ago")
}

/// An instant, or how far off it is, such as `2h`.
///
/// # Errors
/// What one looks like.
pub(super) fn future(text: &str) -> Result<Timestamp, String> {
    relative(text, |now, span| now.checked_add(span.get()), "2h for two hours from now")
}

fn relative(
    text: &str,
    from: impl Fn(Timestamp, Span) -> Result<Timestamp, jiff::Error>,
    such_as: &str,
) -> Result<Timestamp, String> {
    instant(text).or_else(|_| {
        let span: Span = text.parse().map_err(|_| format!("{FORM}, or {such_as}"))?;
        from(Timestamp::now(), span).map_err(|_| "too long a time".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_may_be_told_as_such_or_from_now() {
        let told = past("2030-01-31T18:00:00+01:00").unwrap();
        assert_eq!(told, future("2030-01-31T17:00:00Z").unwrap());
        let now = Timestamp::now();
        let hours = |at: Timestamp| (at.as_second() - now.as_second()) / 3_600;
        assert_eq!((hours(past("2d").unwrap()), hours(future("49h").unwrap())), (-48, 49));
    }

    #[test]
    fn what_is_neither_is_told_how_both_look() {
        for wrong in ["tomorrow", "", "-2h", "99999999w"] {
            assert!(past(wrong).is_err() && future(wrong).is_err(), "{wrong}");
        }
        let error = past("tomorrow").unwrap_err();
        assert!(error.contains("2030-01-31T18:00:00Z") && error.contains("two days ago"), "{error}");
    }
}
