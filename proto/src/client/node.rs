//! What nodes call.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Client, ClientError, decode, send};
use crate::attempt::{
    AttemptStart, Children, Dependencies, Received, Report, Reported, Reports, ReportsSettled, SignalQuery,
};
use crate::duration::Span;
use crate::ids::NodeId;
use crate::log::{LogAck, LogAppend};
use crate::node::{ClaimRequest, Claimed, LeaseRef, Registered, Registration, RenewRequest, Renewed};
use crate::plan::Enqueued;
use crate::secret::AttemptSecrets;
use crate::task::Progress;

/// What a held request may take longer than its `wait`.
const SLACK: Duration = Duration::from_secs(10);
/// A report or children may carry a whole plan.
const LARGE: Duration = Duration::from_secs(120);

fn path(lease: LeaseRef, tail: &str) -> String {
    format!("/v1/tasks/{}/attempts/{}/{tail}", lease.task, lease.token)
}

impl Client {
    /// Makes the node known.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn register(&self, registration: &Registration) -> Result<Registered, ClientError> {
        self.post("/v1/nodes", registration).await
    }

    /// Asks for work and waits for it as long as the request says. The grants' specs come in the form that the caller
    /// names.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn claim<S: DeserializeOwned>(
        &self,
        node: NodeId,
        request: &ClaimRequest,
    ) -> Result<Claimed<S>, ClientError> {
        let call = self.request(Method::POST, &format!("/v1/nodes/{node}/claims")).json(request);
        decode(send(call.timeout(request.wait.get() + SLACK)).await?).await
    }

    /// Renews leases and waits for cancels as long as the request says.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn renew(&self, node: NodeId, request: &RenewRequest) -> Result<Renewed, ClientError> {
        let call = self.request(Method::POST, &format!("/v1/nodes/{node}/renewals")).json(request);
        decode(send(call.timeout(request.wait.get() + SLACK)).await?).await
    }

    /// Says that the attempt's program was started.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn report_start(&self, lease: LeaseRef, start: AttemptStart) -> Result<(), ClientError> {
        send(self.request(Method::POST, &path(lease, "start")).json(&start)).await.map(drop)
    }

    /// Says how far the attempt is.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn report_progress(&self, lease: LeaseRef, progress: &Progress) -> Result<(), ClientError> {
        send(self.request(Method::POST, &path(lease, "progress")).json(progress)).await.map(drop)
    }

    /// Appends log lines.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn append_logs(&self, lease: LeaseRef, lines: &LogAppend) -> Result<LogAck, ClientError> {
        self.post(&path(lease, "logs"), lines).await
    }

    /// Enqueues tasks under the attempt's task.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn spawn_children(
        &self,
        lease: LeaseRef,
        children: &Children,
    ) -> Result<Enqueued, ClientError> {
        decode(
            send(self.request(Method::POST, &path(lease, "children")).timeout(LARGE).json(children)).await?,
        )
        .await
    }

    /// The results of the tasks that the attempt's task depended on.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn dependencies(&self, lease: LeaseRef) -> Result<Dependencies, ClientError> {
        decode(send(self.request(Method::GET, &path(lease, "dependencies")).timeout(LARGE)).await?).await
    }

    /// The secrets that the attempt's task names.
    ///
    /// # Errors
    /// Any [`ClientError`]; `not-found` names one that the namespace does not have (any more).
    pub async fn attempt_secrets(&self, lease: LeaseRef) -> Result<AttemptSecrets, ClientError> {
        self.get(&path(lease, "secrets"), &()).await
    }

    /// Settles the attempt.
    ///
    /// # Errors
    /// Any [`ClientError`]; `lease-lost`, `result-conflict` and `plan-invalid` are final.
    pub async fn report(&self, lease: LeaseRef, report: &Report) -> Result<Reported, ClientError> {
        decode(send(self.request(Method::POST, &path(lease, "report")).timeout(LARGE).json(report)).await?)
            .await
    }

    /// Settles many attempts, each by itself.
    ///
    /// # Errors
    /// Any [`ClientError`], about all of them; then each may or may not have been settled, and sending them again is
    /// harmless.
    pub async fn report_many<S: Serialize>(
        &self,
        node: NodeId,
        reports: &Reports<S>,
    ) -> Result<ReportsSettled, ClientError> {
        self.post(&format!("/v1/nodes/{node}/reports"), reports).await
    }

    /// Waits for a signal to the attempt's task for at most `wait` (60 s); `None` when none came.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn await_signal(
        &self,
        lease: LeaseRef,
        name: &str,
        wait: Span,
    ) -> Result<Option<Received>, ClientError> {
        let call = self.request(Method::GET, &path(lease, &format!("signals/{name}")));
        let call = call.query(&SignalQuery { wait }).timeout(wait.get() + SLACK);
        let response = send(call).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        decode(response).await.map(Some)
    }
}
