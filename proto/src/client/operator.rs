//! What operators and programs call: tasks and nodes here, the rest by noun below.

mod dead_letter;
mod namespace;
mod queue;
mod schedule;
mod secret;

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Client, ClientError, decode, send};
use crate::approval::Decision;
use crate::ids::{NodeId, TaskId};
use crate::log::{LogEntry, LogQuery};
use crate::node::Node;
use crate::page::Page;
use crate::plan::{Batch, Enqueued};
use crate::queue::Pause;
use crate::selector::{Affected, BulkCancel};
use crate::signal::Signal;
use crate::spec::{NewTask, is_valid_name};
use crate::task::{Cancellation, Task, TaskFilter, TaskSummary};
use crate::why::Why;

/// How long an order for many tasks may take.
const MANY: Duration = Duration::from_secs(120);

/// `name` as a part of a path. Names that the coordinator would refuse could name another path altogether.
fn segment<'a>(what: &'static str, name: &'a str) -> Result<&'a str, ClientError> {
    if is_valid_name(name) {
        return Ok(name);
    }
    let why = format!("{name:?} must be 1 to 128 letters, digits or any of ._-");
    Err(ClientError::Setup { what, why })
}

impl Client {
    async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        decode(send(self.request(Method::PUT, path).json(body)).await?).await
    }

    async fn post_many<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        decode(send(self.request(Method::POST, path).timeout(MANY).json(body)).await?).await
    }

    /// Enqueues one task. With an idempotency key a repeat answers the same task instead of making another; with a unique
    /// key that an open task holds, that task is answered.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn enqueue(&self, task: &NewTask, idempotency_key: Option<&str>) -> Result<Task, ClientError> {
        self.enqueue_or_find(task, idempotency_key).await.map(|(task, _)| task)
    }

    /// As [`enqueue`](Self::enqueue); answers beside the task whether it was there already, because it holds the unique key.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn enqueue_or_find(
        &self,
        task: &NewTask,
        idempotency_key: Option<&str>,
    ) -> Result<(Task, bool), ClientError> {
        let mut request = self.request(Method::POST, "/v1/tasks").json(task);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let answer = send(request).await?;
        let existed = answer.status() == StatusCode::OK;
        Ok((decode(answer).await?, existed))
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

    /// Why a task is not running, or not over.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn why(&self, id: TaskId) -> Result<Why, ClientError> {
        self.get(&format!("/v1/tasks/{id}/why"), &()).await
    }

    /// Approves a task that waits for it, or refuses it.
    ///
    /// # Errors
    /// Any [`ClientError`]; `not-awaited` if it does not wait for an approval.
    pub async fn decide(&self, id: TaskId, decision: &Decision) -> Result<TaskSummary, ClientError> {
        self.post(&format!("/v1/tasks/{id}/approval"), decision).await
    }

    /// Sends a task a signal. Sending the same again is harmless.
    ///
    /// # Errors
    /// Any [`ClientError`]; `conflict` if it has ended, or has one of that name with another payload.
    pub async fn signal(&self, id: TaskId, signal: &Signal) -> Result<(), ClientError> {
        let request = self.request(Method::POST, &format!("/v1/tasks/{id}/signals"));
        send(request.json(signal)).await.map(drop)
    }

    /// Asks that all open tasks of a selection, and everything under them, end.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn cancel_matching(&self, cancel: &BulkCancel) -> Result<Affected, ClientError> {
        self.post_many("/v1/cancellations", cancel).await
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

    /// Has a node take no more work; what it runs goes on.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn cordon_node(&self, id: NodeId, pause: &Pause) -> Result<Node, ClientError> {
        self.post(&format!("/v1/nodes/{id}/cordon"), pause).await
    }

    /// Has a node take work again.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn uncordon_node(&self, id: NodeId) -> Result<Node, ClientError> {
        self.post(&format!("/v1/nodes/{id}/uncordon"), &serde_json::json!({})).await
    }

    /// Whether the coordinator and its database answer.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn ready(&self) -> Result<(), ClientError> {
        send(self.request(Method::GET, "/readyz")).await.map(drop)
    }
}
