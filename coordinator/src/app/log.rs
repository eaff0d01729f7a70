//! Reading logs.

use orca_proto::ids::TaskId;
use orca_proto::log::{LogEntry, LogQuery};
use orca_proto::page::Page;

use super::{App, Error, Principal};

impl App {
    /// A page of a task's log, oldest first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn log_page(
        &self,
        who: &Principal,
        id: TaskId,
        query: &LogQuery,
    ) -> Result<Page<LogEntry>, Error> {
        let _ = (who, id, query);
        Err(Error::Unavailable("not built yet"))
    }

    /// Resolves when new lines of the task may be there, at the latest after a second.
    pub async fn log_changed(&self, id: TaskId) {
        let _ = id;
    }
}

/// The cursor that goes on after `entry`: the id of its Server-Sent Event.
#[must_use]
pub fn log_cursor(entry: &LogEntry) -> String {
    format!("{}-{}", entry.token, entry.seq)
}
