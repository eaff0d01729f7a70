//! Nodes' verbs about an attempt, all of them fenced.

use orca_proto::attempt::{Children, Dependencies, Report, Reported};
use orca_proto::log::{LogAck, LogAppend};
use orca_proto::node::LeaseRef;
use orca_proto::plan::Enqueued;
use orca_proto::task::Progress;

use super::{App, Error, Principal};

impl App {
    /// The attempt's program was started.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn attempt_start(&self, who: &Principal, lease: LeaseRef) -> Result<(), Error> {
        let _ = (who, lease);
        Err(Error::Unavailable("not built yet"))
    }

    /// How far the attempt is.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn attempt_progress(
        &self,
        who: &Principal,
        lease: LeaseRef,
        progress: Progress,
    ) -> Result<(), Error> {
        let _ = (who, lease, progress);
        Err(Error::Unavailable("not built yet"))
    }

    /// Appends log lines.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn attempt_logs(
        &self,
        who: &Principal,
        lease: LeaseRef,
        lines: LogAppend,
    ) -> Result<LogAck, Error> {
        let _ = (who, lease, lines);
        Err(Error::Unavailable("not built yet"))
    }

    /// Enqueues tasks under the attempt's task.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn attempt_children(
        &self,
        who: &Principal,
        lease: LeaseRef,
        children: Children,
    ) -> Result<Enqueued, Error> {
        let _ = (who, lease, children);
        Err(Error::Unavailable("not built yet"))
    }

    /// What the attempt's task depended on.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn attempt_dependencies(
        &self,
        who: &Principal,
        lease: LeaseRef,
    ) -> Result<Dependencies, Error> {
        let _ = (who, lease);
        Err(Error::Unavailable("not built yet"))
    }

    /// Settles the attempt.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn attempt_report(
        &self,
        who: &Principal,
        lease: LeaseRef,
        report: Report,
    ) -> Result<Reported, Error> {
        let _ = (who, lease, report);
        Err(Error::Unavailable("not built yet"))
    }
}
