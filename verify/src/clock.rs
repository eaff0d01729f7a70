//! The clock of a history: microseconds that all processes of this machine count alike.
//!
//! The wall clock may step while a run lasts; this one cannot, and what one process noted before another did comes first.

use rustix::time::{ClockId, clock_gettime};

/// Microseconds since the machine was started.
#[must_use]
pub fn micros() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000)
}

/// Microseconds since 1970 by the wall clock, to be noted once beside [`micros`].
#[must_use]
pub fn unix_micros() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}
