//! Durations on the wire: text such as `90s`, `1h30m` or `250ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::SpanRelativeTo;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, never negative, with a resolution of one millisecond.
///
/// Written as `1h30m`, `90s`, `250ms`; ISO 8601 (`PT90S`) is read too. Units up to weeks; a day is 24 hours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String, example = "1m30s"))]
pub struct Span(Duration);

/// Why a text is not a [`Span`].
#[derive(Debug, thiserror::Error)]
pub enum SpanError {
    /// Not a duration at all.
    #[error("not a duration such as 90s, 5m or 1h30m")]
    Syntax,
    /// A number that could be of seconds, or of minutes.
    #[error("a duration needs a unit: {0}s or {0}m?")]
    NoUnit(String),
    /// Months and years.
    #[error("months and years differ in length; give weeks, days or hours, such as 30d")]
    Calendar,
    /// More than any duration may be.
    #[error("too long a duration; at most 366d")]
    TooLong,
    /// Something, and less than can be told.
    #[error("too short a duration; at least 1ms, or 0s for none")]
    TooShort,
    /// Less than nothing.
    #[error("a duration cannot be negative")]
    Negative,
}

impl Span {
    /// `seconds` seconds.
    #[must_use]
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// `milliseconds` milliseconds.
    #[must_use]
    pub const fn millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// The same length for the standard library.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whole milliseconds, at most `i64::MAX`.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }
}

impl From<Duration> for Span {
    fn from(value: Duration) -> Self {
        Self(value)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_millis();
        if total == 0 {
            return f.write_str("0s");
        }
        let (hours, rest) = (total / 3_600_000, total % 3_600_000);
        let (minutes, rest) = (rest / 60_000, rest % 60_000);
        let (seconds, millis) = (rest / 1_000, rest % 1_000);
        for (value, unit) in [(hours, "h"), (minutes, "m"), (seconds, "s"), (millis, "ms")] {
            if value > 0 {
                write!(f, "{value}{unit}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let parts: jiff::Span = text.parse().map_err(|_| fault(text))?;
        // Of what was read, only months and years have no length of their own.
        let signed =
            parts.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| SpanError::Calendar)?;
        let whole = Duration::try_from(signed).map_err(|_| SpanError::Negative)?;
        if !whole.is_zero() && whole.as_millis() == 0 {
            return Err(SpanError::TooShort);
        }
        u64::try_from(whole.as_millis()).map(Self::millis).map_err(|_| SpanError::TooLong)
    }
}

/// What is wrong with a text that could not be read.
fn fault(text: &str) -> SpanError {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits(text) {
        return SpanError::NoUnit(text.chars().take(20).collect());
    }
    if text.strip_prefix('-').is_some_and(digits) {
        return SpanError::Negative;
    }
    // With small numbers in place of its own, is it a duration?
    let mut small = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '0'..='9' if small.ends_with('1') => {}
            '0'..='9' => small.push('1'),
            other => small.push(other),
        }
    }
    if small.parse::<jiff::Span>().is_ok() { SpanError::TooLong } else { SpanError::Syntax }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_span_reads_back_what_it_wrote(millis in 0_u64..100_000_000_000) {
            let span = Span::millis(millis);
            prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
    }

    #[test]
    fn people_and_iso_8601_may_both_write_a_span() {
        for text in ["90s", "1m30s", "1m 30s", "PT90S", "1.5m"] {
            assert_eq!(text.parse::<Span>().unwrap(), Span::secs(90), "{text}");
        }
        for text in ["2w", "14d", "P14D", "13d 24h"] {
            assert_eq!(text.parse::<Span>().unwrap(), Span::secs(14 * 86_400), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_span_is_told_what_is_wrong_with_it() {
        for (text, told) in [
            ("-90s", "cannot be negative"),
            ("-5", "cannot be negative"),
            ("soon", "such as 90s"),
            ("", "such as 90s"),
            ("10", "needs a unit: 10s or 10m?"),
            ("1mo", "months and years"),
            ("1y", "months and years"),
            ("99999999999999d", "at most 366d"),
            ("0.0000001s", "at least 1ms"),
            ("999us", "at least 1ms"),
            ("99999999999999999999s", "at most 366d"),
        ] {
            let error = text.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
