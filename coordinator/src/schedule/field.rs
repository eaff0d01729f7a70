//! One field of a cron expression: `*`, values, ranges, steps and lists of them, as a set of numbers.

use super::cron::CronError;

/// Which numbers a field takes, and the names that stand for some of them.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) low: u8,
    pub(super) high: u8,
    /// Three-letter names; the first stands for `low`.
    pub(super) words: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

pub(super) const SECOND: Kind = Kind { name: "second", low: 0, high: 59, words: &[] };
pub(super) const MINUTE: Kind = Kind { name: "minute", low: 0, high: 59, words: &[] };
pub(super) const HOUR: Kind = Kind { name: "hour", low: 0, high: 23, words: &[] };
pub(super) const DAY: Kind = Kind { name: "day of the month", low: 1, high: 31, words: &[] };
pub(super) const MONTH: Kind = Kind { name: "month", low: 1, high: 12, words: MONTHS };
/// 0 and 7 are Sunday.
pub(super) const WEEKDAY: Kind = Kind { name: "day of the week", low: 0, high: 7, words: DAYS };

/// Some of the numbers 0 to 63.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(u64);

impl Set {
    fn add(&mut self, number: u8) {
        self.0 |= 1_u64.checked_shl(u32::from(number)).unwrap_or_default();
    }

    pub(super) fn has(self, number: u8) -> bool {
        self.0.checked_shr(u32::from(number)).unwrap_or_default() & 1 == 1
    }

    /// The least number that is not below `number`.
    pub(super) fn at_least(self, number: u8) -> Option<u8> {
        let rest = self.0.checked_shr(u32::from(number)).unwrap_or_default();
        if rest == 0 {
            return None;
        }
        u8::try_from(rest.trailing_zeros()).ok().and_then(|more| number.checked_add(more))
    }

    /// 7 is Sunday as 0 is.
    pub(super) fn sunday_is_zero(mut self) -> Self {
        if self.has(7) {
            self.add(0);
        }
        self
    }
}

/// Reads a field. The set is never empty.
pub(super) fn parse(text: &str, kind: &Kind) -> Result<Set, CronError> {
    let mut set = Set::default();
    for item in text.split(',') {
        let refuse = |why: String| CronError::Field { field: kind.name, item: item.to_owned(), why };
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let (low, high) = bounds(range, step.is_some(), kind).map_err(refuse)?;
        let step = match step {
            None => 1,
            Some(text) => match number(text) {
                Some(step) if step >= 1 && step <= kind.high => step,
                _ => return Err(refuse(format!("a step must lie between 1 and {}", kind.high))),
            },
        };
        (low..=high).step_by(usize::from(step)).for_each(|number| set.add(number));
    }
    Ok(set)
}

fn bounds(range: &str, stepped: bool, kind: &Kind) -> Result<(u8, u8), String> {
    if range == "*" {
        // Seven days, not eight.
        return Ok((kind.low, if kind.words.len() == 7 { 6 } else { kind.high }));
    }
    let Some((low, high)) = range.split_once('-') else {
        let low = value(range, kind)?;
        return Ok((low, if stepped { kind.high } else { low }));
    };
    let (low, mut high) = (value(low, kind)?, value(high, kind)?);
    if kind.words.len() == 7 && high == 0 && low > 0 {
        high = 7;
    }
    if low > high {
        return Err("a range must go upwards; write two, as in 22-23,0-2".to_owned());
    }
    Ok((low, high))
}

fn value(text: &str, kind: &Kind) -> Result<u8, String> {
    let word = kind.words.iter().position(|word| word.eq_ignore_ascii_case(text));
    let value = match word {
        Some(position) => u8::try_from(position).ok().and_then(|position| position.checked_add(kind.low)),
        None => number(text),
    };
    value.filter(|value| (kind.low..=kind.high).contains(value)).ok_or_else(|| {
        let names = match (kind.words.first(), kind.words.last()) {
            (Some(first), Some(last)) => format!(" or {first} to {last}"),
            _ => String::new(),
        };
        format!("must be *, a value, a range or a list of values from {} to {}{names}", kind.low, kind.high)
    })
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u8> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}
