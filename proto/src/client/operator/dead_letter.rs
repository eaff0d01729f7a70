//! Dead letters: look at them, try them again, forget them.

use crate::client::{Client, ClientError};
use crate::dead_letter::DeadLetterFilter;
use crate::page::Page;
use crate::plan::Enqueued;
use crate::selector::{Affected, Selector};
use crate::task::TaskSummary;

impl Client {
    /// A page of tasks that failed or expired and were neither tried again nor purged, newest first.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn dead_letters(&self, filter: &DeadLetterFilter) -> Result<Page<TaskSummary>, ClientError> {
        self.get("/v1/dead-letters", filter).await
    }

    /// Enqueues each dead letter of a selection once more, as a new task with the same spec.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn retry_dead_letters(&self, selector: &Selector) -> Result<Enqueued, ClientError> {
        self.post_many("/v1/dead-letters/retries", selector).await
    }

    /// Takes the dead letters of a selection off the list. The tasks stay until their retention is over.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn purge_dead_letters(&self, selector: &Selector) -> Result<Affected, ClientError> {
        self.post_many("/v1/dead-letters/purges", selector).await
    }
}
