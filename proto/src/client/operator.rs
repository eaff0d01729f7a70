//! What operators and programs call.

use reqwest::Method;

use super::{Client, ClientError, decode, send};
use crate::ids::{NodeId, TaskId};
use crate::log::{LogEntry, LogQuery};
use crate::node::Node;
use crate::page::Page;
use crate::plan::{Batch, Enqueued};
use crate::spec::NewTask;
use crate::task::{Cancellation, Task, TaskFilter, TaskSummary};

impl Client {
    /// Enqueues one task. With an idempotency key a repeat answers the same task instead of making another.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn enqueue(&self, task: &NewTask, idempotency_key: Option<&str>) -> Result<Task, ClientError> {
        let mut request = self.request(Method::POST, "/v1/tasks").json(task);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        decode(send(request).await?).await
    }

    /// Enqueues several tasks, all or none.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn enqueue_batch(
        &self,
        batch: &Batch,
        idempotency_key: Option<&str>,
    ) -> Result<Enqueued, ClientError> {
        let mut request = self.request(Method::POST, "/v1/batches").json(batch);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        decode(send(request).await?).await
    }

    /// One task.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn task(&self, id: TaskId) -> Result<Task, ClientError> {
        self.get(&format!("/v1/tasks/{id}"), &()).await
    }

    /// A page of tasks, newest first.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn tasks(&self, filter: &TaskFilter) -> Result<Page<TaskSummary>, ClientError> {
        self.get("/v1/tasks", filter).await
    }

    /// Asks that a task, and everything under it, end. Once answered, nothing of it is granted any more.
    ///
    /// # Errors
    /// Any [`ClientError`]; `conflict` if it has ended already.
    pub async fn cancel(&self, id: TaskId, cancellation: &Cancellation) -> Result<TaskSummary, ClientError> {
        self.post(&format!("/v1/tasks/{id}/cancellation"), cancellation).await
    }

    /// Enqueues a task that ended once more, as a new task with the same spec.
    ///
    /// # Errors
    /// Any [`ClientError`]; `conflict` if it has not ended.
    pub async fn retry(&self, id: TaskId) -> Result<Task, ClientError> {
        self.post(&format!("/v1/tasks/{id}/retries"), &serde_json::json!({})).await
    }

    /// A page of a task's log, oldest first.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn logs(&self, id: TaskId, query: &LogQuery) -> Result<Page<LogEntry>, ClientError> {
        self.get(&format!("/v1/tasks/{id}/logs"), query).await
    }

    /// All nodes, by name.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn nodes(&self) -> Result<Page<Node>, ClientError> {
        self.get("/v1/nodes", &()).await
    }

    /// One node.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn node(&self, id: NodeId) -> Result<Node, ClientError> {
        self.get(&format!("/v1/nodes/{id}"), &()).await
    }

    /// Whether the coordinator and its database answer.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn ready(&self) -> Result<(), ClientError> {
        send(self.request(Method::GET, "/readyz")).await.map(drop)
    }
}
