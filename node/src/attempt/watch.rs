//! Watches over a running container until it is settled what became of it.

use std::sync::Arc;
use std::time::Duration;

use orca_proto::agent::{AgentReport, files};
use orca_proto::client::worker::HeldLease;
use orca_proto::limits;
use orca_proto::spec::Role;
use orca_proto::task::Timeout;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::prepare::Attended;
use super::session::Session;
use super::socket::left_report;
use super::verdict::{Ending, Stop};
use super::{agent_socket, disk, relay};
use crate::daemon::Node;
use crate::runtime::Signal;

/// How long an agent may take from its container's start to its program's.
const IDLE: Duration = Duration::from_secs(120);
/// What the agent's own limits and grace are given on top before the node acts in its place.
const SLACK: Duration = Duration::from_secs(5);
/// How long the end waits for the start and the progress to be told.
const LAST_NEWS: Duration = Duration::from_secs(2);

/// Watches until the container has reported, ended, or must be stopped; the container may still be there.
pub(super) async fn watch(node: &Arc<Node>, attended: &Attended, lease: &Arc<HeldLease>) -> Ending {
    let session = &attended.session;
    let ended = CancellationToken::new();
    let start = AbortOnDropHandle::new(tokio::spawn(relay::relay_start(Arc::clone(session), ended.clone())));
    let progress =
        AbortOnDropHandle::new(tokio::spawn(relay::relay_progress(Arc::clone(session), ended.clone())));
    let ending = observe(node, attended, lease).await;
    ended.cancel();
    // What is on its way goes before the report: after it nothing of the attempt is taken any more.
    let told = async { tokio::join!(start, progress) };
    let _told_or_not = tokio::time::timeout(LAST_NEWS, told).await;
    ending
}

async fn observe(node: &Arc<Node>, attended: &Attended, lease: &Arc<HeldLease>) -> Ending {
    let (session, name) = (&attended.session, attended.name.as_str());
    let brief = &session.brief;
    let mut started = session.started.subscribe();
    let mut exit = node.runtime.wait(name);
    let overfull = disk::overfull(&session.directory, &attended.resources);
    tokio::pin!(overfull);
    let mut progress = session.progress.subscribe();
    let mut deadline = Instant::now() + IDLE;
    // When the next progress is due at the latest.
    let mut due: Option<Instant> = None;
    let (mut is_started, mut is_stopping) = (false, false);
    loop {
        tokio::select! {
            biased;
            report = session.wait_for_report() => return Ending::Reported(report),
            exit = &mut exit => {
                return match last_report(session).await {
                    Some(report) => Ending::Reported(report),
                    None => Ending::Exited(exit),
                };
            }
            () = lease.over() => return Ending::Stopped(Stop::LeaseOver),
            () = node.evict.cancelled() => return Ending::Stopped(Stop::Evicted),
            () = lease.cancel.cancelled(), if !is_stopping => {
                tracing::info!("asked to cancel");
                is_stopping = true;
                deadline = deadline.min(Instant::now() + brief.grace.get() + SLACK);
                ask_to_stop(node, attended, None).await;
            }
            which = limit_reached(lease, due), if !is_stopping => {
                tracing::info!(limit = which.as_str(), "a limit is reached");
                is_stopping = true;
                let _unset_before = session.limit.set(which);
                deadline = deadline.min(Instant::now() + brief.grace.get() + SLACK);
                ask_to_stop(node, attended, Some(which)).await;
            }
            Ok(()) = progress.changed() => {
                due = attended.heartbeat.map(|heartbeat| Instant::now() + heartbeat);
            }
            true = async { started.wait_for(|started| *started).await.is_ok() }, if !is_started => {
                is_started = true;
                if due.is_none() {
                    due = attended.heartbeat.map(|heartbeat| Instant::now() + heartbeat);
                }
                if !is_stopping {
                    let left = brief.start_to_close.get().saturating_sub(attended.ran);
                    deadline = Instant::now() + left + brief.grace.get() + SLACK;
                }
            }
            excess = &mut overfull => return Ending::Overfull(excess),
            () = tokio::time::sleep_until(deadline) => {
                return match (is_stopping, is_started) {
                    (true, _) if session.limit.get().is_some() => Ending::Overdue,
                    (true, _) => Ending::Stopped(Stop::Cancelled),
                    // It may have ended in time, with a report that waits behind the log lines of a slow coordinator.
                    (false, true) => match last_report(session).await {
                        Some(report) => Ending::Reported(report),
                        None => Ending::Overdue,
                    },
                    (false, false) => Ending::Idle,
                };
            }
        }
    }
}

/// Has the program stopped: by its agent, or else by a signal to that.
async fn ask_to_stop(node: &Node, attended: &Attended, limit: Option<Timeout>) {
    if let Err(error) = agent_socket::request_stop(&attended.session, limit).await {
        tracing::info!(%error, "the agent cannot be asked to stop: sending SIGTERM");
        if let Err(fault) = node.runtime.signal(&attended.name, Signal::Term).await {
            tracing::warn!(%fault, "SIGTERM was not delivered");
        }
    }
}

/// Returns once the task's deadline is reached, or progress was due by `due`.
async fn limit_reached(lease: &HeldLease, due: Option<Instant>) -> Timeout {
    let overdue = async {
        match due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = lease.deadline_reached() => Timeout::Deadline,
        () = overdue => Timeout::Heartbeat,
    }
}

/// The report that an agent posted, or else the one that it wrote but could not post.
async fn last_report(session: &Arc<Session>) -> Option<AgentReport> {
    if let Some(report) = session.known_report() {
        return Some(report);
    }
    // The container may have written anything there, so it takes its turn like any large body.
    let turn = Arc::clone(&session.node.large_bodies).acquire_owned().await.ok()?;
    let session = Arc::clone(session);
    let read = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let most = if session.brief.role == Role::Plan { limits::PLAN_BODY } else { limits::BODY };
        left_report(&session.directory.read_hostile(files::REPORT, most as u64).ok()?)
    });
    read.await.ok()?
}
