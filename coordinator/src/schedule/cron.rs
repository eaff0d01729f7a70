//! Cron expressions: five fields, six with seconds in front, or an alias; and the walk over the calendar to the next date
//! and time that one names.
//!
//! As in Vixie's cron, a day must match both day fields where one of them begins with `*`, and either where none does.

use jiff::civil::{Date, DateTime, Time};

use super::field::{DAY, HOUR, MINUTE, MONTH, SECOND, Set, WEEKDAY, parse};

/// What the aliases stand for.
const ALIASES: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
/// The longest expression, in bytes.
const LONGEST: usize = 256;

/// Why a text is no cron expression.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CronError {
    /// Another number of fields.
    #[error(
        "has {0} fields; give 5 (minute, hour, day of the month, month, day of the week), 6 with the second first, or an \
         alias such as @daily"
    )]
    Fields(usize),
    /// Begins with `@`, but is not known.
    #[error("is no alias; there are @yearly, @monthly, @weekly, @daily and @hourly")]
    Alias,
    /// Too long to be meant.
    #[error("is longer than {LONGEST} bytes")]
    TooLong,
    /// One field.
    #[error("the {field} {item:?}: {why}")]
    Field {
        /// Which one.
        field: &'static str,
        /// The item of its list.
        item: String,
        /// What is wrong.
        why: String,
    },
}

/// A cron expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cron {
    seconds: Set,
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
    /// One of the day fields begins with `*`: both must match.
    both_days: bool,
    /// The hour field begins with `*`: the expression is about time that passes, not about hours by name.
    every_hour: bool,
}

impl Cron {
    /// Reads an expression.
    pub(crate) fn parse(text: &str) -> Result<Self, CronError> {
        if text.len() > LONGEST {
            return Err(CronError::TooLong);
        }
        let text = text.trim();
        let text = match ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(text)) {
            Some((_, meaning)) => meaning,
            None if text.starts_with('@') => return Err(CronError::Alias),
            None => text,
        };
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let (second, minute, hour, day, month, weekday) = match fields.as_slice() {
            [minute, hour, day, month, weekday] => ("0", *minute, *hour, *day, *month, *weekday),
            [second, minute, hour, day, month, weekday] => (*second, *minute, *hour, *day, *month, *weekday),
            other => return Err(CronError::Fields(other.len())),
        };
        Ok(Self {
            seconds: parse(second, &SECOND)?,
            minutes: parse(minute, &MINUTE)?,
            hours: parse(hour, &HOUR)?,
            days: parse(day, &DAY)?,
            months: parse(month, &MONTH)?,
            weekdays: parse(weekday, &WEEKDAY)?.sunday_is_zero(),
            both_days: day.starts_with('*') || weekday.starts_with('*'),
            every_hour: hour.starts_with('*'),
        })
    }

    /// Whether the hour field begins with `*`: such a schedule keeps its distance in time when clocks are changed.
    pub(crate) fn is_every_hour(&self) -> bool {
        self.every_hour
    }

    /// The first date and time in `[from, until)` that the expression names.
    pub(crate) fn next(&self, from: DateTime, until: DateTime) -> Option<DateTime> {
        let (mut date, mut earliest) = (from.date(), from.time());
        while date <= until.date() {
            if !self.months.has(unsigned(date.month())) {
                date = date.last_of_month().tomorrow().ok()?;
                earliest = Time::midnight();
                continue;
            }
            if self.names_day(date)
                && let Some(time) = self.time_from(earliest)
            {
                let found = date.to_datetime(time);
                return (found < until).then_some(found);
            }
            date = date.tomorrow().ok()?;
            earliest = Time::midnight();
        }
        None
    }

    fn names_day(&self, date: Date) -> bool {
        let day = self.days.has(unsigned(date.day()));
        let weekday = self.weekdays.has(unsigned(date.weekday().to_sunday_zero_offset()));
        if self.both_days { day && weekday } else { day || weekday }
    }

    /// The first time of a day, not before `earliest`.
    fn time_from(&self, earliest: Time) -> Option<Time> {
        let (hour, minute, second) =
            (unsigned(earliest.hour()), unsigned(earliest.minute()), unsigned(earliest.second()));
        let first = (self.minutes.at_least(0)?, self.seconds.at_least(0)?);
        let within = || {
            if !self.hours.has(hour) {
                return None;
            }
            if self.minutes.has(minute)
                && let Some(second) = self.seconds.at_least(second)
            {
                return Some((hour, minute, second));
            }
            self.minutes.at_least(minute + 1).map(|minute| (hour, minute, first.1))
        };
        let (hour, minute, second) =
            within().or_else(|| self.hours.at_least(hour + 1).map(|hour| (hour, first.0, first.1)))?;
        Time::new(signed(hour)?, signed(minute)?, signed(second)?, 0).ok()
    }
}

/// Jiff counts in small signed numbers, which are never negative here.
fn unsigned(number: i8) -> u8 {
    u8::try_from(number).unwrap_or_default()
}

fn signed(number: u8) -> Option<i8> {
    i8::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use proptest::prelude::*;

    use super::*;

    fn next(cron: &str, from: &str) -> String {
        let until = date(2200, 1, 1).at(0, 0, 0, 0);
        let found = Cron::parse(cron).unwrap().next(from.parse().unwrap(), until);
        found.map_or("never".to_owned(), |found| found.to_string())
    }

    #[test]
    fn the_next_date_and_time_of_an_expression() {
        for (cron, from, expected) in [
            ("* * * * *", "2026-03-01T10:00:00", "2026-03-01T10:00:00"),
            ("* * * * *", "2026-03-01T10:00:01", "2026-03-01T10:01:00"),
            ("*/15 * * * *", "2026-03-01T10:46:00", "2026-03-01T11:00:00"),
            ("7/20 * * * *", "2026-03-01T10:08:00", "2026-03-01T10:27:00"),
            ("0 9-17/4 * * 1-5", "2026-03-06T17:00:01", "2026-03-09T09:00:00"),
            ("0 12 * * mon,THU", "2026-03-03T00:00:00", "2026-03-05T12:00:00"),
            ("0 0 * * sat-sun", "2026-03-02T00:00:00", "2026-03-07T00:00:00"),
            ("0 0 * * 7", "2026-03-02T00:00:00", "2026-03-08T00:00:00"),
            ("0 0 * * 0", "2026-03-02T00:00:00", "2026-03-08T00:00:00"),
            ("0 0 31 * *", "2026-04-01T00:00:00", "2026-05-31T00:00:00"),
            ("59 23 31 12 *", "2026-12-31T23:59:01", "2027-12-31T23:59:00"),
            ("0 0 29 feb *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
            ("0 0 29 2 *", "2097-01-01T00:00:00", "2104-02-29T00:00:00"),
            ("30 0 0 * * *", "2026-03-01T00:00:31", "2026-03-02T00:00:30"),
            ("*/20 59 23 * * *", "2026-02-28T23:59:41", "2026-03-01T23:59:00"),
            ("@weekly", "2026-03-02T00:00:00", "2026-03-08T00:00:00"),
            ("  @Daily ", "2026-03-02T00:00:00", "2026-03-02T00:00:00"),
            ("@yearly", "2026-03-02T00:00:00", "2027-01-01T00:00:00"),
        ] {
            assert_eq!(next(cron, from), expected, "{cron} from {from}");
        }
    }

    #[test]
    fn a_day_matches_either_day_field_unless_one_of_them_begins_with_a_star() {
        // The 13th, and every Friday; but with a star, only Fridays that are odd days.
        assert_eq!(next("0 0 13 * 5", "2026-03-01T00:00:00"), "2026-03-06T00:00:00");
        assert_eq!(next("0 0 13 * 5", "2026-04-11T00:00:00"), "2026-04-13T00:00:00");
        assert_eq!(next("0 0 */2 * 5", "2026-03-01T00:00:00"), "2026-03-13T00:00:00");
    }

    #[test]
    fn a_date_that_no_calendar_has_is_never_found() {
        for cron in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 30-31 feb */2"] {
            assert_eq!(next(cron, "2026-01-01T00:00:00"), "never", "{cron}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_and_the_item_is_named() {
        for (cron, told) in [
            ("", "has 0 fields"),
            ("* * * *", "has 4 fields"),
            ("* * * * * * *", "has 7 fields"),
            ("@reboot", "is no alias"),
            ("60 * * * *", "the minute \"60\""),
            ("0 24 * * *", "the hour \"24\""),
            ("0 0 0 * *", "the day of the month \"0\""),
            ("0 0 1 13 *", "the month \"13\""),
            ("0 0 1 janu *", "the month \"janu\""),
            ("0 0 * * 8", "the day of the week \"8\""),
            ("0 0 * * L", "the day of the week \"L\""),
            ("5,,6 * * * *", "the minute \"\""),
            ("5- * * * *", "the minute \"5-\""),
            ("-5 * * * *", "the minute \"-5\""),
            ("+5 * * * *", "the minute \"+5\""),
            ("50-10 * * * *", "a range must go upwards"),
            ("*/0 * * * *", "a step must lie between 1 and 59"),
            ("*/99999999999 * * * *", "a step must lie between 1 and 59"),
            ("*/5/5 * * * *", "a step"),
            ("0 0 * * * Europe/Berlin", "the day of the week \"Europe/Berlin\""),
        ] {
            let error = Cron::parse(cron).unwrap_err().to_string();
            assert!(error.contains(told), "{cron:?}: {error}");
        }
        assert_eq!(Cron::parse(&"*".repeat(300)), Err(CronError::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_found_matches_and_nothing_in_between_does(
            minutes in 0_u8..60, step in 1_u8..30, day in 1_u8..29, month in 1_u8..13, start in 0_i64..400_000,
        ) {
            let cron = format!("{minutes},{}/{step} 3-20/{} {day} {month},{} *", minutes / 2, step.min(23), 13 - month);
            let cron = Cron::parse(&cron).unwrap();
            let from = date(2026, 1, 1).at(0, 0, 0, 0) + jiff::SignedDuration::from_mins(start);
            let found = cron.next(from, date(2030, 1, 1).at(0, 0, 0, 0)).unwrap();
            let mut at = from;
            // Each minute of the way by itself is not named, and what was found is.
            for _ in 0..3_000 {
                let named = cron.next(at, at + jiff::SignedDuration::from_secs(1)).is_some();
                prop_assert_eq!(named, at == found, "{}", at);
                if at == found { break; }
                at += jiff::SignedDuration::from_mins(1);
            }
        }
    }
}
