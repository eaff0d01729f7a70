//! From the database's clock to the machine's: at which moments the database could have said a time.

use jiff::Timestamp;

use crate::history::{History, What};

/// How long a session may go on with the old offset after the clock was moved, in microseconds: a statement that was
/// under way ends with the time it began with.
const LINGER: i64 = 2_000_000;

/// A stretch in which the database's clock was ahead by `offset`; all in microseconds of the machine's clock.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    from: i64,
    to: i64,
    offset: i64,
}

/// The clocks of a history.
#[derive(Clone, Debug)]
pub(super) struct Time {
    /// What the wall clock was ahead of the machine's when the run began.
    base: i64,
    stretches: Vec<Stretch>,
}

impl Time {
    pub(super) fn of(history: &History) -> Self {
        let mut base = 0;
        let mut stretches = vec![Stretch { from: i64::MIN, to: i64::MAX, offset: 0 }];
        for line in &history.lines {
            match line.what {
                What::Begin { unix, .. } => base = unix - line.at,
                What::ClockMoved { since, offset_ms } => {
                    if let Some(last) = stretches.last_mut() {
                        last.to = line.at.saturating_add(LINGER);
                    }
                    stretches.push(Stretch { from: since, to: i64::MAX, offset: offset_ms * 1_000 });
                }
                _ => {}
            }
        }
        Self { base, stretches }
    }

    /// The earliest moment at which the database could have said `time`.
    pub(super) fn earliest(&self, time: Timestamp) -> i64 {
        self.moments(time).0
    }

    /// The latest moment at which the database could have said `time`.
    pub(super) fn latest(&self, time: Timestamp) -> i64 {
        self.moments(time).1
    }

    fn moments(&self, time: Timestamp) -> (i64, i64) {
        let plain = time.as_microsecond() - self.base;
        let (mut least, mut most) = (i64::MAX, i64::MIN);
        for stretch in &self.stretches {
            let moment = plain - stretch.offset;
            if stretch.from <= moment && moment <= stretch.to {
                (least, most) = (least.min(moment), most.max(moment));
            }
        }
        // A time that fits nowhere can prove nothing.
        if least > most { (i64::MIN, i64::MAX) } else { (least, most) }
    }

    /// Whether the clock was moved between two moments, or shortly before.
    pub(super) fn moved_between(&self, from: i64, to: i64) -> bool {
        self.stretches.iter().skip(1).any(|stretch| stretch.from <= to && stretch.from >= from - LINGER)
    }
}
