//! Values of settings on the command line: `none` lifts a limit, and what is not named stays as it is.

use std::num::ParseIntError;
use std::str::FromStr;

use orca_proto::duration::{Span, SpanError};
use orca_proto::queue::Rate;

use super::argument;

/// What to make of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit<T> {
    /// There is none.
    None,
    /// It is this.
    To(T),
}

impl<T> Limit<T> {
    /// Puts it in place of `value`, if one was given.
    pub(super) fn set(given: Option<Self>, value: &mut Option<T>) {
        match given {
            None => {}
            Some(Self::None) => *value = None,
            Some(Self::To(limit)) => *value = Some(limit),
        }
    }
}

/// A limit that is a number.
///
/// # Errors
/// What one looks like.
pub(super) fn number<T: FromStr<Err = ParseIntError>>(text: &str) -> Result<Limit<T>, String> {
    or_none(text, |text| argument::number(text).map_err(|why| format!("{why}; `none` lifts the limit")))
}

/// A limit that is a length of time.
///
/// # Errors
/// What one looks like.
pub(super) fn span(text: &str) -> Result<Limit<Span>, String> {
    or_none(text, |text| text.parse().map_err(|why: SpanError| format!("{why}; `none` lifts the limit")))
}

/// A limit that is a rate, such as `100/1m` or `10/s`.
///
/// # Errors
/// What one looks like.
pub(super) fn rate(text: &str) -> Result<Limit<Rate>, String> {
    or_none(text, |text| {
        let parsed = text.split_once('/').and_then(|(tasks, per)| {
            let per = if per.starts_with(char::is_alphabetic) { format!("1{per}") } else { per.to_owned() };
            Some(Rate { tasks: tasks.trim().parse().ok()?, per: per.parse().ok()? })
        });
        parsed.ok_or_else(|| "not a rate such as 100/1m or 10/s, or `none`".to_owned())
    })
}

fn or_none<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Limit<T>, String> {
    if text == "none" { Ok(Limit::None) } else { read(text).map(Limit::To) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_so_many_in_such_a_time() {
        for (text, tasks, per) in
            [("10/s", 10, Span::secs(1)), ("100/5m", 100, Span::secs(300)), ("1/h", 1, Span::secs(3_600))]
        {
            assert_eq!(rate(text).unwrap(), Limit::To(Rate { tasks, per }), "{text}");
        }
        assert_eq!(rate("none").unwrap(), Limit::None);
        for wrong in ["10", "/s", "-1/s", "10/", "10/sometimes", "1.5/s"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_given_stays_and_none_lifts() {
        let mut limit = Some(4_u32);
        Limit::set(None, &mut limit);
        assert_eq!(limit, Some(4));
        Limit::set(Some(number("7").unwrap()), &mut limit);
        assert_eq!(limit, Some(7));
        Limit::set(Some(number("none").unwrap()), &mut limit);
        assert_eq!(limit, None);
        assert!(number::<u32>("-1").is_err());
    }
}
