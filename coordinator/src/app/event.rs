//! The stream of events, in an order that a late commit cannot upset.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use orca_proto::event::Event;
use orca_proto::ids::TaskId;
use tokio::time::Instant;

use super::{App, Error, Principal};
use crate::db::event;

/// The most events that are read at once.
const PAGE: u32 = 1_000;
/// How often a follower looks, should a signal be lost or come from another coordinator.
const POLL: Duration = Duration::from_secs(1);
/// How long older transactions are waited for.
const SETTLE: Duration = Duration::from_secs(1);

/// A place in the stream of events: after which transaction, and where in it. Travels as `xid-seq-part`; opaque to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventCursor {
    pub(crate) xid: i64,
    pub(crate) seq: i64,
    /// In a row that stands for several events, which of them.
    pub(crate) part: i64,
}

/// A text that is no cursor of this stream.
#[derive(Debug, thiserror::Error)]
#[error("not a cursor of this stream; leave it out to begin anew")]
pub struct EventCursorError;

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.xid, self.seq, self.part)
    }
}

impl FromStr for EventCursor {
    type Err = EventCursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (xid, rest) = text.split_once('-').ok_or(EventCursorError)?;
        let (seq, part) = rest.split_once('-').ok_or(EventCursorError)?;
        let number =
            |text: &str| text.parse::<u64>().ok().and_then(|n| i64::try_from(n).ok()).ok_or(EventCursorError);
        Ok(Self { xid: number(xid)?, seq: number(seq)?, part: number(part)? })
    }
}

impl App {
    /// At most `limit` events of the namespace after a place (`None`: from the beginning of what is kept), oldest first;
    /// with `task` only those of it and of the tasks directly under it.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn events_after(
        &self,
        who: &Principal,
        after: Option<&EventCursor>,
        task: Option<TaskId>,
        limit: u32,
    ) -> Result<Vec<Event>, Error> {
        Ok(self.events_look(who, after, task, limit).await?.0)
    }

    /// As [`App::events_after`], and the place to go on from: past everything that was looked at, also past what was not
    /// this caller's, so that no look reads the same events again.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn events_look(
        &self,
        who: &Principal,
        after: Option<&EventCursor>,
        task: Option<TaskId>,
        limit: u32,
    ) -> Result<(Vec<Event>, EventCursor), Error> {
        let mut connection = self.0.pool.acquire().await?;
        let after = after.copied().unwrap_or_default();
        let limit = i64::from(limit.clamp(1, PAGE));
        let (whole, _) = event::head(&mut connection).await?;
        let place = (after.xid, after.seq, after.part);
        let events = event::after(&mut connection, &who.namespace, place, whole, task, limit).await?;
        let full = i64::try_from(events.len()).is_ok_and(|count| count >= limit);
        let last = events.last().filter(|_| full).and_then(|event| event.id.parse().ok());
        Ok((
            events,
            last.unwrap_or_else(|| after.max(EventCursor { xid: whole, seq: i64::MAX, part: i64::MAX })),
        ))
    }

    /// The place after everything that readers can see now.
    ///
    /// What has been committed may be hidden for a moment behind an older transaction that is still under way. That is
    /// waited for, a little: so what was acknowledged before hardly ever comes after this place. Nothing that is
    /// committed later comes before it.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn events_head(&self) -> Result<EventCursor, Error> {
        let (mut whole, ended) = self.look_at_head().await?;
        let until = Instant::now() + SETTLE;
        while whole < ended && Instant::now() < until {
            tokio::time::sleep(SETTLE / 50).await;
            whole = self.look_at_head().await?.0;
        }
        Ok(EventCursor { xid: whole, seq: i64::MAX, part: i64::MAX })
    }

    /// Holds no connection between two looks: there may be many who wait.
    async fn look_at_head(&self) -> Result<(i64, i64), Error> {
        let mut connection = self.0.pool.acquire().await?;
        Ok(event::head(&mut connection).await?)
    }

    /// Resolves when new events may be there, at the latest after a second.
    pub async fn events_changed(&self) {
        self.0.signals.events_changed(POLL).await;
    }
}
