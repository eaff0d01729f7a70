//! Instants and lengths of time as people say them.

use std::time::Duration;

use jiff::Timestamp;

/// `at` as seen from `now`: `12s ago`, `in 3m`, `now`.
pub(crate) fn relative(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(at.as_second());
    let distance = coarse(Duration::from_secs(seconds.unsigned_abs()));
    match seconds {
        0 => "now".to_owned(),
        1.. => format!("{distance} ago"),
        _ => format!("in {distance}"),
    }
}

/// The time between two instants, never negative.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// A length of time in its largest unit, or its largest two where that says more.
pub(crate) fn coarse(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A length of time with a decimal where it is short.
pub(crate) fn fine(length: Duration) -> String {
    let seconds = length.as_secs_f64();
    if seconds < 120.0 { format!("{seconds:.1}s") } else { coarse(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_told_from_where_the_reader_stands() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let at = |second: i64| relative(Timestamp::from_second(second).unwrap(), now);
        assert_eq!(at(1_000_000), "now");
        assert_eq!(at(999_988), "12s ago");
        assert_eq!(at(1_000_000 - 3 * 3_600), "3h ago");
        assert_eq!(at(1_000_300), "in 5m");
        assert_eq!(at(0), "11d ago");
    }
}
