//! Queues and their groups: look, set, pause, resume.

use reqwest::Method;

use super::segment;
use crate::client::{Client, ClientError, send};
use crate::page::Page;
use crate::queue::{Group, GroupSettings, Pause, Queue, QueueSettings};

fn path(queue: &str, tail: &str) -> Result<String, ClientError> {
    Ok(format!("/v1/queues/{}{tail}", segment("the queue's name", queue)?))
}

fn group_path(queue: &str, group: &str, tail: &str) -> Result<String, ClientError> {
    path(queue, &format!("/groups/{}{tail}", segment("the group's name", group)?))
}

impl Client {
    /// All queues, by name.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn queues(&self) -> Result<Page<Queue>, ClientError> {
        self.get("/v1/queues", &()).await
    }

    /// One queue.
    ///
    /// # Errors
    /// Any [`ClientError`]; `not-found` if neither a task nor a setting ever named it.
    pub async fn queue(&self, queue: &str) -> Result<Queue, ClientError> {
        self.get(&path(queue, "")?, &()).await
    }

    /// Sets how a queue is served. What is left out has its default again.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn set_queue(&self, queue: &str, settings: &QueueSettings) -> Result<Queue, ClientError> {
        self.put(&path(queue, "")?, settings).await
    }

    /// Removes what was set for a queue and its groups.
    ///
    /// # Errors
    /// Any [`ClientError`]; `conflict` while it has open tasks.
    pub async fn remove_queue(&self, queue: &str) -> Result<(), ClientError> {
        send(self.request(Method::DELETE, &path(queue, "")?)).await.map(drop)
    }

    /// Lets no task of a queue begin. Those that run go on.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn pause_queue(&self, queue: &str, pause: &Pause) -> Result<Queue, ClientError> {
        self.post(&path(queue, "/pause")?, pause).await
    }

    /// Lets a paused queue's tasks begin again.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn resume_queue(&self, queue: &str) -> Result<Queue, ClientError> {
        self.post(&path(queue, "/resume")?, &serde_json::json!({})).await
    }

    /// Sets how a group is served. What is left out has its default again.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn set_group(
        &self,
        queue: &str,
        group: &str,
        settings: &GroupSettings,
    ) -> Result<Group, ClientError> {
        self.put(&group_path(queue, group, "")?, settings).await
    }

    /// Lets no task of a group begin. Those that run go on.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn pause_group(&self, queue: &str, group: &str, pause: &Pause) -> Result<Group, ClientError> {
        self.post(&group_path(queue, group, "/pause")?, pause).await
    }

    /// Lets a paused group's tasks begin again.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn resume_group(&self, queue: &str, group: &str) -> Result<Group, ClientError> {
        self.post(&group_path(queue, group, "/resume")?, &serde_json::json!({})).await
    }
}
