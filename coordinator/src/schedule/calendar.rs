//! A cron expression in a time zone: the instants at which it comes round.
//!
//! Where clocks are changed, what counts is the hour field. One that names hours (`30 2 * * *`) means a run for each time
//! it names: a time that the clocks pass over has its run at the first instant after the change, and a time that comes
//! twice has one run, at its first coming. One that begins with `*` (`*/15 * * * *`) means time that passes: what the
//! clocks pass over has no run, and an hour that comes twice has its runs twice.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use super::cron::Cron;

/// Where the search for a next run ends: 2200-01-01, in seconds since 1970. No date of a task may lie beyond.
const HORIZON: i64 = 7_258_118_400;

/// When a schedule runs.
#[derive(Clone, Debug)]
pub(crate) struct Calendar {
    pub(crate) cron: Cron,
    pub(crate) zone: TimeZone,
    /// No run before this instant.
    pub(crate) starting: Option<Timestamp>,
    /// No run after this instant.
    pub(crate) ending: Option<Timestamp>,
    /// Each run is this much late at most, by an amount of its own that never changes.
    pub(crate) jitter: Duration,
    /// Sets this schedule's jitter apart from others'.
    pub(crate) salt: String,
}

/// A stretch of time in which clocks go evenly.
struct Stretch {
    /// When it began, with the offset from UTC before; `None` if it has no beginning.
    begin: Option<(Timestamp, Offset)>,
    offset: Offset,
    end: Option<Timestamp>,
}

impl Stretch {
    fn at(zone: &TimeZone, instant: Timestamp) -> Self {
        let second = SignedDuration::from_secs(1);
        let begin = instant
            .checked_add(second)
            .ok()
            .and_then(|later| zone.preceding(later).next())
            .map(|change| change.timestamp())
            .and_then(|at| Some((at, zone.to_offset(at.checked_sub(second).ok()?))));
        let end = zone.following(instant).next().map(|change| change.timestamp());
        Self { begin, offset: zone.to_offset(instant), end }
    }
}

impl Calendar {
    /// The first run after `instant`, if there is any.
    pub(crate) fn after(&self, instant: Timestamp) -> Option<Timestamp> {
        let next = instant.as_second().checked_add(if instant.subsec_nanosecond() < 0 { 0 } else { 1 })?;
        let mut from = Timestamp::from_second(next).ok()?;
        if let Some(starting) = self.starting {
            let whole = Timestamp::from_second(starting.as_second()).ok()?;
            let whole =
                if whole < starting { whole.checked_add(SignedDuration::from_secs(1)).ok()? } else { whole };
            from = from.max(whole);
        }
        let last = Timestamp::from_second(HORIZON).ok()?;
        let last = self.ending.map_or(last, |ending| ending.min(last));
        while from <= last {
            let stretch = Stretch::at(&self.zone, from);
            if let Some(found) = self.within(&stretch, from) {
                return (found <= last).then_some(found);
            }
            from = stretch.end?;
        }
        None
    }

    /// The first run in the stretch that is not before `from`.
    fn within(&self, stretch: &Stretch, from: Timestamp) -> Option<Timestamp> {
        let civil = |instant: Timestamp, offset: Offset| -> DateTime { offset.to_datetime(instant) };
        let mut start = civil(from, stretch.offset);
        if !self.cron.is_every_hour()
            && let Some((begin, before)) = stretch.begin
        {
            // What the clocks showed when they were changed: before that, everything had its run; what they passed over
            // from there on had none yet.
            let changed = civil(begin, before);
            start = if from == begin { changed } else { start.max(changed) };
        }
        let end = match stretch.end {
            Some(end) => civil(end, stretch.offset),
            None => civil(Timestamp::from_second(HORIZON + 1).ok()?, stretch.offset),
        };
        let found = stretch.offset.to_timestamp(self.cron.next(start, end)?).ok()?;
        Some(stretch.begin.map_or(found, |(begin, _)| found.max(begin)))
    }

    /// When `run` is to be enqueued: itself, and its share of the jitter.
    pub(crate) fn due_at(&self, run: Timestamp) -> Timestamp {
        let most = u64::try_from(self.jitter.as_millis()).unwrap_or(u64::MAX);
        if most == 0 {
            return run;
        }
        let mut hash = Sha256::new();
        hash.update(self.salt.as_bytes());
        hash.update([0]);
        hash.update(run.as_second().to_be_bytes());
        let number =
            hash.finalize().iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let late = i64::try_from(number % most.saturating_add(1)).unwrap_or(i64::MAX);
        run.checked_add(SignedDuration::from_millis(late)).unwrap_or(run)
    }

    /// The newest run that is due by `now`, from `first` on, which is due.
    pub(crate) fn newest_due(&self, first: Timestamp, now: Timestamp) -> Timestamp {
        let due_after = |second: i64| {
            let after = Timestamp::from_second(second).ok().and_then(|second| self.after(second));
            after.filter(|run| self.due_at(*run) <= now)
        };
        // Something due comes after `low`, nothing after `high`.
        let (mut low, mut high) = (first.as_second() - 1, now.as_second());
        let mut newest = first;
        while low < high {
            let middle = low + (high - low + 1) / 2;
            match due_after(middle) {
                Some(run) => (low, newest) = (middle, run),
                None => high = middle - 1,
            }
        }
        newest
    }

    /// The runs after `instant`, in order.
    pub(crate) fn runs_after(&self, instant: Timestamp) -> impl Iterator<Item = Timestamp> {
        std::iter::successors(self.after(instant), |run| self.after(*run))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn calendar(cron: &str, zone: &str) -> Calendar {
        Calendar {
            cron: Cron::parse(cron).unwrap(),
            zone: TimeZone::get(zone).unwrap(),
            starting: None,
            ending: None,
            jitter: Duration::ZERO,
            salt: "default/nightly".to_owned(),
        }
    }

    pub(in super::super) fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn runs(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let calendar = calendar(cron, zone);
        let local = |run: Timestamp| {
            let text = run.to_zoned(calendar.zone.clone()).to_string();
            text.split_once('[').map_or_else(String::new, |(text, _)| text.to_owned())
        };
        calendar.runs_after(at(after)).take(count).map(local).collect()
    }

    #[test]
    fn a_run_is_told_in_the_schedules_own_time_zone() {
        let nine = runs("0 9 * * *", "America/New_York", "2026-03-07T12:00:00Z", 2);
        assert_eq!(nine, ["2026-03-07T09:00:00-05:00", "2026-03-08T09:00:00-04:00"]);
        assert_eq!(
            runs("0 9 * * *", "Asia/Kolkata", "2026-03-07T03:30:00Z", 1),
            ["2026-03-08T09:00:00+05:30"]
        );
    }

    #[test]
    fn a_named_time_that_the_clocks_pass_over_has_its_run_right_after_the_change() {
        // In Berlin, 2026-03-29, the hour from 2 to 3 is left out.
        let half_past_two = runs("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3);
        assert_eq!(
            half_past_two,
            ["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]
        );
        // Several such times, and one that lies on the change itself, are one run.
        let many = runs("*/10 2,3 29 3 *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3);
        assert_eq!(
            many,
            ["2026-03-29T03:00:00+02:00", "2026-03-29T03:10:00+02:00", "2026-03-29T03:20:00+02:00"]
        );
    }

    #[test]
    fn a_named_time_that_comes_twice_has_one_run_at_its_first_coming() {
        // In Berlin, 2026-10-25, the hour from 2 to 3 comes twice.
        let half_past_two = runs("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
        assert_eq!(half_past_two, ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]);
        let named = runs("0,30 2,3 * * *", "Europe/Berlin", "2026-10-24T22:00:00Z", 4);
        assert_eq!(
            named,
            [
                "2026-10-25T02:00:00+02:00",
                "2026-10-25T02:30:00+02:00",
                "2026-10-25T03:00:00+01:00",
                "2026-10-25T03:30:00+01:00"
            ]
        );
        // Asked in the middle of the second coming, too.
        let later = runs("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1);
        assert_eq!(later, ["2026-10-26T02:30:00+01:00"]);
    }

    #[test]
    fn a_schedule_of_every_hour_keeps_its_distance_through_both_changes() {
        let spring = runs("30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 2);
        assert_eq!(spring, ["2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"]);
        let autumn = runs("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 3);
        assert_eq!(
            autumn,
            ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", "2026-10-25T03:30:00+01:00"]
        );
    }

    #[test]
    fn odd_zones_are_walked_too() {
        // Lord Howe moves by half an hour; Samoa left out the whole 30 December 2011.
        let lord_howe = runs("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", 2);
        assert_eq!(lord_howe, ["2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"]);
        let samoa = runs("0 12 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z", 3);
        assert_eq!(
            samoa,
            ["2011-12-29T12:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"]
        );
    }

    #[test]
    fn runs_lie_within_their_bounds_both_ends_included() {
        let mut daily = calendar("0 0 * * *", "UTC");
        daily.starting = Some(at("2026-03-05T00:00:00Z"));
        daily.ending = Some(at("2026-03-07T00:00:00Z"));
        let all: Vec<String> =
            daily.runs_after(at("2026-03-01T00:00:00Z")).map(|run| run.to_string()).collect();
        assert_eq!(all, ["2026-03-05T00:00:00Z", "2026-03-06T00:00:00Z", "2026-03-07T00:00:00Z"]);
        daily.starting = Some(at("2026-03-05T00:00:00.5Z"));
        assert_eq!(daily.after(at("2026-03-01T00:00:00Z")), Some(at("2026-03-06T00:00:00Z")));
    }

    #[test]
    fn a_run_is_after_an_instant_and_not_at_it_whatever_its_fraction() {
        let minutely = calendar("* * * * *", "UTC");
        for (after, expected) in [
            ("2026-03-05T00:00:00Z", "2026-03-05T00:01:00Z"),
            ("2026-03-05T00:00:00.001Z", "2026-03-05T00:01:00Z"),
            ("2026-03-04T23:59:59.999Z", "2026-03-05T00:00:00Z"),
            ("1969-12-31T23:58:59.5Z", "1969-12-31T23:59:00Z"),
        ] {
            assert_eq!(minutely.after(at(after)), Some(at(expected)), "{after}");
        }
    }

    #[test]
    fn a_search_that_finds_nothing_ends_quickly() {
        let begun = std::time::Instant::now();
        for zone in ["UTC", "Europe/Berlin", "America/New_York"] {
            assert_eq!(calendar("0 0 30 2 *", zone).after(at("2026-01-01T00:00:00Z")), None);
            assert_eq!(calendar("* * * * *", zone).after(at("2300-01-01T00:00:00Z")), None);
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }

    #[test]
    fn jitter_is_bounded_spread_and_always_the_same() {
        let mut daily = calendar("0 0 * * *", "UTC");
        daily.jitter = Duration::from_secs(3_600);
        let lates: Vec<i64> = daily
            .runs_after(at("2026-01-01T00:00:00Z"))
            .take(100)
            .map(|run| daily.due_at(run).duration_since(run).as_millis() as i64)
            .collect();
        assert!(lates.iter().all(|late| (0..=3_600_000).contains(late)), "{lates:?}");
        assert!(lates.iter().any(|late| *late < 900_000) && lates.iter().any(|late| *late > 2_700_000));
        let again = daily.clone();
        let run = at("2026-05-05T00:00:00Z");
        assert_eq!(again.due_at(run), daily.due_at(run));
        let other = Calendar { salt: "default/other".to_owned(), ..daily.clone() };
        assert_ne!(other.due_at(run), daily.due_at(run));
    }

    proptest! {
        #[test]
        fn the_newest_due_run_is_the_last_of_all_that_are_due(
            step in 1_u8..60, jitter in 0_u64..50, span in 0_i64..200_000,
        ) {
            let mut each = calendar(&format!("*/{step} 2-5,8 * * *"), "Europe/Berlin");
            each.jitter = Duration::from_secs(jitter);
            let first = each.after(at("2026-03-28T00:00:00Z")).unwrap();
            let now = each.due_at(first) + SignedDuration::from_secs(span);
            let expected = std::iter::once(first)
                .chain(each.runs_after(first))
                .take_while(|run| *run <= now)
                .filter(|run| each.due_at(*run) <= now)
                .last();
            prop_assert_eq!(Some(each.newest_due(first, now)), expected);
        }

        #[test]
        fn runs_rise_and_do_not_depend_on_where_one_asks_from(
            hour in prop::sample::select(vec!["*", "*/3", "1-3", "2", "0,23"]), minute in 0_u8..60, start in 0_i64..8_760,
            zone in prop::sample::select(vec!["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]),
        ) {
            let each = calendar(&format!("{minute} {hour} * * *"), zone);
            let start = at("2026-01-01T00:00:00Z") + SignedDuration::from_hours(start);
            let runs: Vec<Timestamp> = each.runs_after(start).take(50).collect();
            prop_assert!(runs.is_sorted_by(|a, b| a < b));
            for pair in runs.windows(2) {
                let between = pair[0] + SignedDuration::from_secs((pair[1].as_second() - pair[0].as_second()) / 2);
                prop_assert_eq!(each.after(between), Some(pair[1]));
                prop_assert_eq!(each.after(pair[1] - SignedDuration::from_secs(1)), Some(pair[1]));
            }
        }
    }
}
