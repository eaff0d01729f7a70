//! The clock that decides: the database's, plus an offset that only tests move.
//!
//! Everything that depends on time is decided in SQL by `orca.now()`, which adds the session setting
//! `orca.clock_offset_ms` to the database's clock. A [`Clock::system`] never sets it and costs nothing; with a
//! [`Clock::test`] the pool applies the offset to each connection that it hands out.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// A source of time for the queue. Clones share one offset.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset_ms: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The database's own clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// The database's clock plus an offset, at first zero, that [`Clock::advance`] moves.
    #[must_use]
    pub fn test() -> Self {
        Self { offset_ms: Some(Arc::new(AtomicI64::new(0))) }
    }

    /// Moves a test clock forward; a system clock does not move.
    pub fn advance(&self, by: Duration) {
        if let Some(offset) = &self.offset_ms {
            offset.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }

    /// This machine's clock plus the offset, for what only orders and shows things: the database decides.
    #[must_use]
    pub fn now(&self) -> jiff::Timestamp {
        let now = jiff::Timestamp::now();
        match self.offset_ms() {
            None => now,
            Some(ms) => now.checked_add(jiff::SignedDuration::from_millis(ms)).unwrap_or(now),
        }
    }

    /// [`Clock::now`] in microseconds since 1970.
    #[must_use]
    pub fn now_us(&self) -> i64 {
        self.now().as_microsecond()
    }

    /// Milliseconds to add to the database's clock; `None` for a system clock.
    #[must_use]
    pub fn offset_ms(&self) -> Option<i64> {
        self.offset_ms.as_ref().map(|offset| offset.load(Ordering::SeqCst))
    }
}
