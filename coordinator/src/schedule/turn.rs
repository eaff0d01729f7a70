//! What one look at a schedule comes to: which runs are enqueued, which are left out, and when to look again.
//!
//! A run is *missed* when nobody enqueued it in time: all coordinators were down, or the schedule was paused. Missed runs
//! no older than `catch_up` are made up: all of them, in order, where runs queue up; else only the newest, since the others
//! would be skipped or replaced at once.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use orca_proto::schedule::Overlap;

use super::calendar::Calendar;

/// How late a run may be without being missed: a coordinator may have been restarted in between.
const PROMPT: Duration = Duration::from_secs(60);
/// Runs that one turn enqueues at most, so that other schedules need not wait long for theirs; the next turn goes on.
const MOST: usize = 10;

/// What a turn does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// The runs to enqueue, oldest first.
    pub(crate) runs: Vec<Timestamp>,
    /// The newest run that is left out because the one before it has not ended.
    pub(crate) skipped: Option<Timestamp>,
    /// Whether runs are left out because they are too old.
    pub(crate) missed: bool,
    /// The run to look for next, if there is any.
    pub(crate) next: Option<Timestamp>,
}

/// Decides about a schedule whose next run is `next`, at `now`. `open` says whether its last run has not ended.
pub(crate) fn turn(
    calendar: &Calendar,
    overlap: Overlap,
    catch_up: Duration,
    next: Timestamp,
    now: Timestamp,
    open: bool,
) -> Turn {
    let patience = SignedDuration::try_from(catch_up.max(PROMPT)).unwrap_or(SignedDuration::MAX);
    let oldest = now.checked_sub(patience).unwrap_or(Timestamp::MIN);
    let mut first = Some(next);
    let missed = calendar.due_at(next) < oldest;
    if missed {
        let jitter = SignedDuration::try_from(calendar.jitter).unwrap_or_default();
        let before = oldest.checked_sub(jitter).unwrap_or(Timestamp::MIN).max(next);
        first = calendar.runs_after(before).find(|run| calendar.due_at(*run) >= oldest);
    }
    let Some(first) = first.filter(|run| calendar.due_at(*run) <= now) else {
        return Turn { missed, next: first, ..Turn::default() };
    };
    if overlap == Overlap::Queue {
        let due = std::iter::once(first).chain(calendar.runs_after(first));
        let runs: Vec<Timestamp> = due.take_while(|run| calendar.due_at(*run) <= now).take(MOST).collect();
        let next = runs.last().and_then(|run| calendar.after(*run));
        return Turn { runs, skipped: None, missed, next };
    }
    let newest = calendar.newest_due(first, now);
    let next = calendar.after(newest);
    if overlap == Overlap::Skip && open {
        return Turn { runs: Vec::new(), skipped: Some(newest), missed, next };
    }
    Turn { runs: vec![newest], skipped: None, missed, next }
}

#[cfg(test)]
mod tests {
    use super::super::calendar::tests::{at, calendar};
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn hourly(overlap: Overlap, catch_up: Duration, now: &str, open: bool) -> Turn {
        let calendar = calendar("0 * * * *", "UTC");
        turn(&calendar, overlap, catch_up, at("2026-03-01T01:00:00Z"), at(now), open)
    }

    #[test]
    fn a_run_that_is_due_is_enqueued_and_the_next_is_looked_for() {
        for overlap in [Overlap::Skip, Overlap::Queue, Overlap::Replace] {
            let turn = hourly(overlap, HOUR, "2026-03-01T01:00:00.2Z", false);
            assert_eq!(turn.runs, [at("2026-03-01T01:00:00Z")]);
            assert_eq!((turn.next, turn.missed), (Some(at("2026-03-01T02:00:00Z")), false));
        }
    }

    #[test]
    fn before_its_time_nothing_is_done() {
        let turn = hourly(Overlap::Skip, HOUR, "2026-03-01T00:59:59.9Z", false);
        assert_eq!(turn, Turn { next: Some(at("2026-03-01T01:00:00Z")), ..Turn::default() });
    }

    #[test]
    fn while_the_last_run_is_open_one_policy_skips_and_the_others_enqueue() {
        let now = "2026-03-01T01:00:01Z";
        let skipped = hourly(Overlap::Skip, HOUR, now, true);
        assert_eq!((skipped.runs.len(), skipped.skipped), (0, Some(at("2026-03-01T01:00:00Z"))));
        assert_eq!(skipped.next, Some(at("2026-03-01T02:00:00Z")));
        for overlap in [Overlap::Queue, Overlap::Replace] {
            assert_eq!(hourly(overlap, HOUR, now, true).runs, [at("2026-03-01T01:00:00Z")]);
        }
    }

    #[test]
    fn missed_runs_are_made_up_as_far_back_as_asked() {
        let now = "2026-03-01T05:30:00Z";
        let queued = hourly(Overlap::Queue, 2 * HOUR, now, false);
        assert_eq!(queued.runs, [at("2026-03-01T04:00:00Z"), at("2026-03-01T05:00:00Z")]);
        assert!(queued.missed);
        for overlap in [Overlap::Skip, Overlap::Replace] {
            let newest = hourly(overlap, 2 * HOUR, now, false);
            assert_eq!(newest.runs, [at("2026-03-01T05:00:00Z")]);
            assert_eq!(newest.next, Some(at("2026-03-01T06:00:00Z")));
        }
    }

    #[test]
    fn with_no_catching_up_a_missed_run_is_left_out_but_a_prompt_one_is_not() {
        let none = Duration::ZERO;
        assert_eq!(hourly(Overlap::Skip, none, "2026-03-01T01:00:30Z", false).runs.len(), 1);
        let missed = hourly(Overlap::Queue, none, "2026-03-01T01:30:00Z", false);
        assert_eq!((missed.runs.len(), missed.missed), (0, true));
        assert_eq!(missed.next, Some(at("2026-03-01T02:00:00Z")));
    }

    #[test]
    fn a_run_is_not_missed_for_its_jitter() {
        let mut calendar = calendar("0 * * * *", "UTC");
        calendar.jitter = Duration::from_secs(3_000);
        let run = at("2026-03-01T01:00:00Z");
        let now = calendar.due_at(run);
        let early = now - SignedDuration::from_millis(1);
        let decide = |now| turn(&calendar, Overlap::Skip, Duration::ZERO, run, now, false);
        assert_eq!(decide(early), Turn { next: Some(run), ..Turn::default() });
        assert_eq!(decide(now).runs, [run]);
    }

    #[test]
    fn a_long_queue_of_missed_runs_is_enqueued_by_bounded_turns() {
        let calendar = calendar("* * * * * *", "UTC");
        let now = at("2026-03-01T12:00:00Z");
        let first = turn(&calendar, Overlap::Queue, 24 * HOUR, at("2026-03-01T00:00:00Z"), now, false);
        assert_eq!((first.runs.len(), first.next), (MOST, Some(at("2026-03-01T00:00:10Z"))));
    }

    #[test]
    fn a_year_of_missed_seconds_costs_no_time_where_only_the_newest_counts() {
        let calendar = calendar("* * * * * *", "Europe/Berlin");
        let now = at("2026-12-01T12:00:00.5Z");
        let begun = std::time::Instant::now();
        let turn = turn(&calendar, Overlap::Skip, 8_000 * HOUR, at("2026-02-01T00:00:00Z"), now, false);
        assert_eq!(turn.runs, [at("2026-12-01T12:00:00Z")]);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }

    #[test]
    fn after_its_last_run_a_schedule_has_no_next_one() {
        let mut calendar = calendar("0 * * * *", "UTC");
        calendar.ending = Some(at("2026-03-01T01:00:00Z"));
        let run = at("2026-03-01T01:00:00Z");
        let last = turn(&calendar, Overlap::Skip, HOUR, run, at("2026-03-01T01:00:00.1Z"), false);
        assert_eq!((last.runs, last.next), (vec![run], None));
        let late = turn(&calendar, Overlap::Skip, HOUR, run, at("2026-03-01T03:00:00Z"), false);
        assert_eq!((late.runs, late.next, late.missed), (vec![], None, true));
    }
}
