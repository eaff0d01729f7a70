//! Instants on the command line: RFC 3339, or a length of time from now.

use jiff::Timestamp;
use orca_proto::duration::{Span, SpanError};

const FORM: &str = "not an instant such as 2030-01-31T18:00:00Z or 2030-01-31T18:00:00+01:00";
const BEYOND: &str = "too far ahead; no instant may be later than the year 9998";

/// An instant.
///
/// # Errors
/// What one looks like.
pub(super) fn instant(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| if is_beyond(text) { BEYOND } else { FORM }.to_owned())
}

/// Whether it would be an instant in a year nearer to ours.
fn is_beyond(text: &str) -> bool {
    let Some((year, rest)) = text.split_once('-') else { return false };
    year.parse().is_ok_and(|year: u64| year > 9_998) && format!("2000-{rest}").parse::<Timestamp>().is_ok()
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
    instant(text).or_else(|why| {
        let span: Span = text.parse().map_err(|error| match error {
            SpanError::Syntax if why == FORM => format!("{why}, or {such_as}"),
            SpanError::Syntax => why,
            other => other.to_string(),
        })?;
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
    fn an_instant_beyond_all_that_can_be_kept_is_told_as_such() {
        for text in ["9999-12-31T23:59:59Z", "12345-01-01T00:00:00Z"] {
            assert_eq!(instant(text).unwrap_err(), BEYOND, "{text}");
            assert_eq!(future(text).unwrap_err(), BEYOND, "{text}");
        }
        assert_eq!(instant("9999-13-31T23:59:59Z").unwrap_err(), FORM);
    }

    #[test]
    fn what_is_neither_is_told_how_both_look() {
        for wrong in ["tomorrow", "", "-2h", "99999999w"] {
            assert!(past(wrong).is_err() && future(wrong).is_err(), "{wrong}");
        }
        assert_eq!(future("-2h").unwrap_err(), "a duration cannot be negative");
        let error = past("tomorrow").unwrap_err();
        assert!(error.contains("2030-01-31T18:00:00Z") && error.contains("two days ago"), "{error}");
    }
}
