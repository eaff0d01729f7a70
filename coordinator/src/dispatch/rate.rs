//! Rates: token buckets, counted in millionths of a task so that no fraction of a refill is lost between two claims.

use std::time::Duration;

use orca_proto::queue::Rate;

/// One task.
const TASK: i128 = 1_000_000;

/// What is left of a rate at a time.
///
/// It holds as many tasks as the rate names and is refilled evenly, so that many may begin at once and then one after
/// each `per / tasks`. Only beginning tasks changes it; looking does not, so looking often loses nothing to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Millionths of a task that may still begin. Below zero when more began than might have (a limit that was lowered, or
    /// another coordinator's grants that were not known yet): that is made up for.
    pub(crate) allowance: i64,
    /// When `allowance` was right, in microseconds since 1970.
    pub(crate) updated_us: i64,
}

impl Default for Bucket {
    /// Full, whatever the rate.
    fn default() -> Self {
        Self { allowance: 0, updated_us: i64::MIN }
    }
}

impl Bucket {
    /// Tasks that may begin at `now_us`.
    pub(crate) fn available(self, rate: Rate, now_us: i64) -> u32 {
        u32::try_from((self.level(rate, now_us) / TASK).max(0)).unwrap_or(u32::MAX)
    }

    /// The bucket after `count` tasks began at `now_us`. Outside of tests the claim's own statement does this.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn take(self, rate: Rate, now_us: i64, count: u32) -> Self {
        if count == 0 {
            return self;
        }
        let left = self.level(rate, now_us) - i128::from(count) * TASK;
        Self { allowance: i64::try_from(left).unwrap_or(i64::MIN), updated_us: now_us.max(self.updated_us) }
    }

    /// How long after `now_us` the next task may begin; zero if one may now.
    pub(crate) fn again_in(self, rate: Rate, now_us: i64) -> Duration {
        let missing = (TASK - self.level(rate, now_us)).max(0);
        let us = div_ceil(missing * per_us(rate), tasks(rate) * TASK);
        // A clock that went back: nothing is refilled before it has come here again.
        let behind = i128::from(self.updated_us.saturating_sub(now_us).max(0));
        let wait = if missing == 0 { 0 } else { us + behind };
        Duration::from_micros(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// Millionths of a task.
    fn level(self, rate: Rate, now_us: i64) -> i128 {
        let elapsed = i128::from(now_us.saturating_sub(self.updated_us).max(0));
        let refilled = elapsed * tasks(rate) * TASK / per_us(rate);
        (i128::from(self.allowance) + refilled).min(tasks(rate) * TASK)
    }
}

/// At least one, so that a rate that nobody checked cannot divide by zero.
fn tasks(rate: Rate) -> i128 {
    i128::from(rate.tasks.max(1))
}

fn per_us(rate: Rate) -> i128 {
    i128::from(rate.per.as_millis().max(1)) * 1_000
}

fn div_ceil(amount: i128, by: i128) -> i128 {
    (amount + by - 1) / by
}

#[cfg(test)]
mod tests {
    use orca_proto::duration::Span;
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn rate(tasks: u32, per: Span) -> Rate {
        Rate { tasks, per }
    }

    #[test]
    fn a_new_bucket_is_full_and_no_fuller_than_the_rate() {
        let rate = rate(5, Span::secs(1));
        assert_eq!(Bucket::default().available(rate, 0), 5);
        assert_eq!(Bucket::default().available(rate, 1 << 60), 5);
    }

    #[test]
    fn one_task_an_hour_comes_back_however_often_it_is_looked_at() {
        let rate = rate(1, Span::secs(3_600));
        let bucket = Bucket::default().take(rate, 0, 1);
        for second in 0..3_600 {
            assert_eq!(bucket.available(rate, second * SECOND), 0, "after {second} s");
        }
        assert_eq!(bucket.again_in(rate, 0), Duration::from_secs(3_600));
        assert_eq!(bucket.available(rate, 3_600 * SECOND), 1);
        assert_eq!(bucket.again_in(rate, 3_600 * SECOND), Duration::ZERO);
    }

    #[test]
    fn what_began_too_early_is_made_up_for() {
        let rate = rate(1, Span::secs(1));
        let bucket = Bucket::default().take(rate, 0, 3);
        assert_eq!(bucket.available(rate, 2 * SECOND), 0);
        assert_eq!(bucket.available(rate, 3 * SECOND), 1);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_away_and_takes_nothing() {
        let rate = rate(10, Span::secs(1));
        let bucket = Bucket::default().take(rate, 5 * SECOND, 10);
        let back = bucket.take(rate, 4 * SECOND, 0);
        assert_eq!(back, bucket);
        assert_eq!(back.available(rate, 4 * SECOND), 0);
        assert_eq!(back.again_in(rate, 4 * SECOND), Duration::from_millis(1_100));
    }

    proptest! {
        #[test]
        fn no_span_of_time_sees_more_begin_than_a_full_bucket_and_its_refill(
            tasks in 1_u32..1_000_000,
            per_ms in 1_u64..31_622_400_000,
            steps in proptest::collection::vec((0_i64..10_000_000_000, 0_u32..2_000_000), 1..40),
        ) {
            let rate = rate(tasks, Span::millis(per_ms));
            let (mut bucket, mut now, mut begun) = (Bucket::default(), 0_i64, 0_u128);
            for (pause, wanted) in steps {
                now += pause;
                let count = wanted.min(bucket.available(rate, now));
                bucket = bucket.take(rate, now, count);
                begun += u128::from(count);
                let refill = now as u128 * u128::from(tasks) / (u128::from(per_ms) * 1_000);
                prop_assert!(begun <= u128::from(tasks) + refill);
            }
        }

        #[test]
        fn the_next_task_may_begin_when_it_was_said_and_not_before(
            tasks in 1_u32..1_000_000,
            per_ms in 1_u64..31_622_400_000,
            now in 0_i64..2_000_000_000_000_000,
        ) {
            let rate = rate(tasks, Span::millis(per_ms));
            let bucket = Bucket::default().take(rate, now, tasks);
            let wait = i64::try_from(bucket.again_in(rate, now).as_micros()).unwrap();
            prop_assert!(bucket.available(rate, now + wait) >= 1);
            prop_assert_eq!(bucket.available(rate, now + wait - 1), 0);
        }
    }
}
