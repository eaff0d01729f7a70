//! Reading logs: pages, and the wait for more.

use std::time::Duration;

use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::log::{LogEntry, LogQuery};
use orca_proto::page::Page;

use super::check::Check;
use super::{App, Error, Principal};
use crate::db::{log, task};

/// How often a follower looks, should a signal be lost or come from another coordinator.
const POLL: Duration = Duration::from_millis(500);
/// The most lines from the end that a reader may begin with.
const TAIL: u32 = 1_000_000;
/// Before the first line, as (token, seq).
const BEGINNING: (i64, i64) = (0, -1);

impl App {
    /// A page of a task's log, oldest first over all attempts.
    ///
    /// # Errors
    /// `not-found`, `validation`, or the database's.
    pub async fn log_page(
        &self,
        who: &Principal,
        id: TaskId,
        query: &LogQuery,
    ) -> Result<Page<LogEntry>, Error> {
        let mut check = Check::default();
        let limit = query.limit.unwrap_or(limits::PAGE);
        if !(1..=limits::PAGE).contains(&limit) {
            check.fail("?limit", "must lie between 1 and 500");
        }
        let after = match &query.cursor {
            None => Some(BEGINNING),
            Some(text) => parse(text),
        };
        if query.tail.is_some_and(|tail| !(1..=TAIL).contains(&tail)) {
            check.fail("?tail", "must lie between 1 and 1,000,000");
        }
        if after.is_none() {
            check.fail("?cursor", "is no cursor of this log; leave it out to begin anew");
        }
        check.done()?;
        let mut connection = self.0.pool.acquire().await?;
        task::state(&mut connection, &who.namespace, id).await?.ok_or_else(Error::not_found)?;
        let after = match query.tail.filter(|_| query.cursor.is_none()) {
            Some(tail) => log::before_last(&mut connection, id, query.attempt, i64::from(tail)).await?,
            None => after,
        };
        let after = after.unwrap_or(BEGINNING);
        let mut items = log::page(&mut connection, id, query.attempt, after, limit as usize + 1).await?;
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| more).map(log_cursor);
        Ok(Page { items, next })
    }

    /// Resolves when new lines of the task may be there, at the latest after half a second.
    pub async fn log_changed(&self, id: TaskId) {
        self.0.signals.log_changed(id, POLL).await;
    }
}

/// The cursor that goes on after `entry`: the id of its Server-Sent Event.
#[must_use]
pub fn log_cursor(entry: &LogEntry) -> String {
    format!("{}-{}", entry.token, entry.seq)
}

fn parse(cursor: &str) -> Option<(i64, i64)> {
    let (token, seq) = cursor.split_once('-')?;
    let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
    Some((number(token)?, number(seq)?))
}
