//! Operators' verbs on tasks: enqueue, get, list, cancel, retry.

use orca_proto::ids::TaskId;
use orca_proto::page::Page;
use orca_proto::plan::{Batch, Enqueued};
use orca_proto::spec::NewTask;
use orca_proto::task::{Cancellation, Task, TaskFilter, TaskSummary};

use super::{App, Error, Principal};

impl App {
    /// Enqueues one task.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn task_enqueue(
        &self,
        who: &Principal,
        task: NewTask,
        idempotency_key: Option<&str>,
    ) -> Result<Task, Error> {
        let _ = (who, task, idempotency_key);
        Err(Error::Unavailable("not built yet"))
    }

    /// Enqueues several tasks, all or none.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn batch_enqueue(
        &self,
        who: &Principal,
        batch: Batch,
        idempotency_key: Option<&str>,
    ) -> Result<Enqueued, Error> {
        let _ = (who, batch, idempotency_key);
        Err(Error::Unavailable("not built yet"))
    }

    /// One task.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn task_get(&self, who: &Principal, id: TaskId) -> Result<Task, Error> {
        let _ = (who, id);
        Err(Error::Unavailable("not built yet"))
    }

    /// Whether the task has ended: no more log lines will come.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn task_ended(&self, who: &Principal, id: TaskId) -> Result<bool, Error> {
        let _ = (who, id);
        Err(Error::Unavailable("not built yet"))
    }

    /// A page of tasks, newest first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn task_list(&self, who: &Principal, filter: TaskFilter) -> Result<Page<TaskSummary>, Error> {
        let _ = (who, filter);
        Err(Error::Unavailable("not built yet"))
    }

    /// Cancels a task and everything under it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn task_cancel(
        &self,
        who: &Principal,
        id: TaskId,
        cancellation: Cancellation,
    ) -> Result<TaskSummary, Error> {
        let _ = (who, id, cancellation);
        Err(Error::Unavailable("not built yet"))
    }

    /// Enqueues a new task with the spec of one that ended.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn task_retry(&self, who: &Principal, id: TaskId) -> Result<Task, Error> {
        let _ = (who, id);
        Err(Error::Unavailable("not built yet"))
    }
}
