//! Schedules: set, look, pause, resume, run now, make up for the past.

use reqwest::Method;

use super::segment;
use crate::client::{Client, ClientError, send};
use crate::page::Page;
use crate::plan::Enqueued;
use crate::queue::Pause;
use crate::schedule::{Backfill, Schedule, ScheduleSpec};

fn path(name: &str, tail: &str) -> Result<String, ClientError> {
    Ok(format!("/v1/schedules/{}{tail}", segment("the schedule's name", name)?))
}

impl Client {
    /// All schedules, by name.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn schedules(&self) -> Result<Page<Schedule>, ClientError> {
        self.get("/v1/schedules", &()).await
    }

    /// One schedule.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn schedule(&self, name: &str) -> Result<Schedule, ClientError> {
        self.get(&path(name, "")?, &()).await
    }

    /// Makes a schedule, or gives the one of that name another spec.
    ///
    /// # Errors
    /// Any [`ClientError`]; `validation` if it would never fire.
    pub async fn set_schedule(&self, name: &str, spec: &ScheduleSpec) -> Result<Schedule, ClientError> {
        self.put(&path(name, "")?, spec).await
    }

    /// Removes a schedule. What it has enqueued stays.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn remove_schedule(&self, name: &str) -> Result<(), ClientError> {
        send(self.request(Method::DELETE, &path(name, "")?)).await.map(drop)
    }

    /// Lets a schedule enqueue nothing.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn pause_schedule(&self, name: &str, pause: &Pause) -> Result<Schedule, ClientError> {
        self.post(&path(name, "/pause")?, pause).await
    }

    /// Lets a paused schedule enqueue again. Missed runs are made up as far as its `catch_up` says.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn resume_schedule(&self, name: &str) -> Result<Schedule, ClientError> {
        self.post(&path(name, "/resume")?, &serde_json::json!({})).await
    }

    /// Enqueues a schedule's task now, besides its runs.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn run_schedule(&self, name: &str) -> Result<Enqueued, ClientError> {
        self.post_many(&path(name, "/runs")?, &serde_json::json!({})).await
    }

    /// Enqueues the runs of a window that has passed, oldest first.
    ///
    /// # Errors
    /// Any [`ClientError`]; `validation` if there are more than 1,000.
    pub async fn backfill_schedule(&self, name: &str, window: &Backfill) -> Result<Enqueued, ClientError> {
        self.post_many(&path(name, "/backfills")?, window).await
    }
}
