//! Levels: a priority, raised by time in line.

/// The level that a task of priority `base` is served at, after `waited_us` in line.
///
/// Each `ageing_us` counts as one level (0: none does). Time lifts nothing above `top`, the highest priority that is in
/// line for the same node: it ends starvation, and does not turn old work into urgent work.
pub(crate) fn level(base: i16, waited_us: i64, ageing_us: i64, top: i16) -> i16 {
    let gained = if ageing_us > 0 { waited_us.max(0) / ageing_us } else { 0 };
    let aged = i64::from(base).saturating_add(gained).min(i64::from(top));
    i16::try_from(aged).unwrap_or(top).max(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    #[test]
    fn each_ageing_in_line_is_a_level_up_to_the_highest_priority_present() {
        assert_eq!(level(0, MINUTE - 1, MINUTE, 10), 0);
        assert_eq!(level(0, MINUTE, MINUTE, 10), 1);
        assert_eq!(level(-3, 5 * MINUTE, MINUTE, 10), 2);
        assert_eq!(level(0, 1_000 * MINUTE, MINUTE, 10), 10);
        assert_eq!(level(10, 1_000 * MINUTE, MINUTE, 10), 10);
    }

    #[test]
    fn without_ageing_and_with_a_clock_that_went_back_the_priority_stands() {
        assert_eq!(level(3, i64::MAX, 0, 10), 3);
        assert_eq!(level(3, -MINUTE, MINUTE, 10), 3);
    }
}
