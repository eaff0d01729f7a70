//! What is wrong with a schedule: everything that takes a calendar to say, beyond what the wire contract checks.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use orca_proto::problem::FieldError;
use orca_proto::schedule::ScheduleSpec;

use super::calendar::Calendar;
use super::cron::Cron;

/// Runs among which the shortest distance is looked for.
const LOOKED_AT: usize = 200;

/// The calendar of a schedule.
///
/// # Errors
/// A cron expression that is none, and a time zone that nobody knows.
pub(crate) fn calendar(
    namespace: &str,
    name: &str,
    spec: &ScheduleSpec,
) -> Result<Calendar, Vec<FieldError>> {
    let cron = Cron::parse(&spec.cron).map_err(|error| FieldError::new("/cron", error.to_string()));
    let zone = TimeZone::get(&spec.timezone).ok().filter(|zone| !zone.is_unknown()).ok_or_else(|| {
        let detail = format!("{:?} is no time zone; give an IANA name such as Europe/Berlin", spec.timezone);
        FieldError::new("/timezone", detail)
    });
    match (cron, zone) {
        (Ok(cron), Ok(zone)) => Ok(Calendar {
            cron,
            zone,
            starting: spec.starting,
            ending: spec.ending,
            jitter: spec.jitter.get(),
            salt: format!("{namespace}/{name}"),
        }),
        (cron, zone) => Err(cron.err().into_iter().chain(zone.err()).collect()),
    }
}

/// The calendar of a schedule that is set at `now`, and its first run.
///
/// # Errors
/// Everything that is wrong with it; a schedule that never runs, and jitter that would mix its runs up.
pub(crate) fn check(
    namespace: &str,
    name: &str,
    spec: &ScheduleSpec,
    now: Timestamp,
) -> Result<(Calendar, Timestamp), Vec<FieldError>> {
    let mut errors = Vec::new();
    spec.validate(&mut errors);
    let calendar = match calendar(namespace, name, spec) {
        Ok(calendar) if errors.is_empty() => calendar,
        Ok(_) => return Err(errors),
        Err(more) => {
            // The wire contract may have told of the same field in other words.
            let known = |error: &FieldError| errors.iter().any(|other| other.pointer == error.pointer);
            let more: Vec<FieldError> = more.into_iter().filter(|error| !known(error)).collect();
            errors.extend(more);
            return Err(errors);
        }
    };
    let Some(first) = calendar.after(now) else { return Err(never(&calendar, now)) };
    if let Some(shortest) = shortest_distance(&calendar, first)
        && SignedDuration::try_from(calendar.jitter).unwrap_or(SignedDuration::MAX) >= shortest
    {
        let detail = format!("must be shorter than the time between two runs, which can be {shortest:#}");
        return Err(vec![FieldError::new("/jitter", detail)]);
    }
    Ok((calendar, first))
}

/// Why there is no run.
fn never(calendar: &Calendar, now: Timestamp) -> Vec<FieldError> {
    let unbounded = Calendar { starting: None, ending: None, ..calendar.clone() };
    let from = calendar.starting.map_or(now, |starting| starting.max(now));
    let Some(run) = unbounded.after(from) else {
        let detail = "never comes round before the year 2200; no calendar has such a date";
        return vec![FieldError::new("/cron", detail)];
    };
    vec![
        FieldError::new("/cron", format!("never comes round before its end: the first run would be {run}")),
        FieldError::new("/ending", format!("lies before the first run, which would be {run}")),
    ]
}

fn shortest_distance(calendar: &Calendar, first: Timestamp) -> Option<SignedDuration> {
    let mut last = first;
    let distance = |run: Timestamp| {
        let distance = run.duration_since(last);
        last = run;
        distance
    };
    calendar.runs_after(first).take(LOOKED_AT).map(distance).min()
}

#[cfg(test)]
mod tests {
    use orca_proto::duration::Span;
    use orca_proto::spec::NewTask;

    use super::super::calendar::tests::at;
    use super::*;

    const NOW: &str = "2026-03-01T00:00:00Z";

    fn spec(cron: &str) -> ScheduleSpec {
        ScheduleSpec::new(cron, NewTask::new("debian"))
    }

    fn faults(spec: &ScheduleSpec) -> Vec<String> {
        let errors = check("default", "nightly", spec, at(NOW)).map(|(_, first)| first).unwrap_err();
        errors.into_iter().map(|error| error.pointer).collect()
    }

    #[test]
    fn a_good_schedule_has_a_first_run() {
        let (_, first) = check("default", "nightly", &spec("@daily"), at(NOW)).unwrap();
        assert_eq!(first, at("2026-03-02T00:00:00Z"));
    }

    #[test]
    fn each_fault_is_told_of_its_field_and_all_at_once() {
        let mut bad = spec("61 * * * *");
        bad.timezone = "Mars/Olympus".to_owned();
        assert_eq!(faults(&bad), ["/cron", "/timezone"]);
        bad.task.priority = 1_000;
        assert_eq!(faults(&bad), ["/task/priority", "/cron", "/timezone"]);
        for zone in ["", "Etc/Unknown", "../../etc/passwd", "CET-1CEST,M3.5.0,M10.5.0/3", "Europe"] {
            let unknown = ScheduleSpec { timezone: zone.to_owned(), ..spec("@daily") };
            assert_eq!(faults(&unknown), ["/timezone"], "{zone:?}");
        }
    }

    #[test]
    fn a_schedule_that_never_runs_is_refused_and_the_cron_named() {
        assert_eq!(faults(&spec("0 0 30 2 *")), ["/cron"]);
        let past = ScheduleSpec { ending: Some(at("2026-02-01T00:00:00Z")), ..spec("@daily") };
        assert_eq!(faults(&past), ["/cron", "/ending"]);
        let between = ScheduleSpec {
            starting: Some(at("2026-03-02T00:00:01Z")),
            ending: Some(at("2026-03-02T23:59:59Z")),
            ..spec("@daily")
        };
        assert_eq!(faults(&between), ["/cron", "/ending"]);
        let late = ScheduleSpec { starting: Some(at("2250-01-01T00:00:00Z")), ..spec("@daily") };
        assert_eq!(faults(&late), ["/cron"]);
    }

    #[test]
    fn jitter_must_be_shorter_than_the_shortest_time_between_two_runs() {
        let jittered = |cron: &str, secs: u64| ScheduleSpec { jitter: Span::secs(secs), ..spec(cron) };
        // From minute 56 to the next hour it is four minutes only.
        assert!(check("default", "n", &jittered("*/7 * * * *", 239), at(NOW)).is_ok());
        assert_eq!(faults(&jittered("*/7 * * * *", 240)), ["/jitter"]);
        assert_eq!(faults(&jittered("0 0 1 1 *", 400 * 86_400)), ["/jitter"]);
        // In New York, one day of March has 23 hours.
        let mut daily = jittered("0 9 * * *", 23 * 3_600);
        assert!(check("default", "n", &daily, at(NOW)).is_ok());
        daily.timezone = "America/New_York".to_owned();
        assert_eq!(faults(&daily), ["/jitter"]);
        // With one run in all there is nothing to mix up.
        let once = ScheduleSpec { ending: Some(at("2026-03-02T12:00:00Z")), ..jittered("@daily", 86_400) };
        assert!(check("default", "n", &once, at(NOW)).is_ok());
    }
}
