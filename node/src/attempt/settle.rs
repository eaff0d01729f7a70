//! The end of an attempt: the container removed, the outcome reported, the files gone.
//!
//! An outcome that may lead to another attempt is reported only once the container is gone, so that there are never two.
//! A success is reported first, for speed. Without the lease nothing is reported, but the container still goes.

use std::sync::Arc;
use std::time::Duration;

use orca_proto::attempt::Report;
use orca_proto::client::ClientError;
use orca_proto::client::worker::{HeldLease, Unrecorded};
use orca_proto::problem::{Kind, Problem};
use orca_proto::spec::Role;
use orca_proto::task::Outcome;
use serde_json::value::to_raw_value;

use super::Interrupted;
use super::directory::{Directory, private};
use super::prepare::Attended;
use super::redact::Redactor;
use super::session::Session;
use super::verdict::{Ending, Evidence, fit, stopped, verdict, wants_post_mortem};
use crate::daemon::Node;
use crate::retry::until_answered;
use crate::runtime::PostMortem;

/// How long a container that has reported may take to end by itself, where it matters how it ended.
const LAST_BREATH: Duration = Duration::from_secs(3);
/// The longest wait between two tries to remove.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a container whose start was never answered may still come to life.
const UNCERTAIN: Duration = Duration::from_secs(30);

/// Settles an attempt that never had a container.
pub(super) async fn unstarted(node: &Node, lease: &Arc<HeldLease>, interrupted: Interrupted) {
    let outcome = match interrupted {
        Interrupted::Unfit(outcome) => Some(outcome),
        Interrupted::Stopped(stop) => stopped(stop),
    };
    remove_files(Directory::of(&node.state, lease.lease)).await;
    match outcome {
        Some(outcome) => {
            let report = Report { outcome: fit(outcome), result: None, plan: None };
            send(node, lease, &Redactor::none(), report).await;
        }
        None => tracing::warn!("the lease is over: nothing is reported"),
    }
    node.member.leases().release(lease.lease);
}

/// Settles an attempt whose container was started, or may have been.
pub(super) async fn settle(node: &Arc<Node>, attended: Attended, lease: &Arc<HeldLease>, mut ending: Ending) {
    let redactor = &attended.session.redactor;
    // Before anything is cut: half of a secret would not be known for one.
    if let Ending::Reported(report) = &mut ending {
        redactor.redact_outcome(&mut report.outcome);
    }
    let uncertain = matches!(ending, Ending::Unstarted { uncertain: true, .. });
    let name = attended.name.as_str();
    let evidence = collect(node, &attended.session, name, lease, &ending).await;
    let report = verdict(ending, evidence);
    let gone = remove_container(node, name, uncertain);
    match report {
        Some(report) if report.outcome == Outcome::Succeeded => {
            let sent = async {
                send(node, lease, redactor, report).await;
                node.member.leases().release(lease.lease);
            };
            tokio::join!(sent, gone);
        }
        Some(report) => {
            gone.await;
            send(node, lease, redactor, report).await;
            node.member.leases().release(lease.lease);
        }
        None => {
            tracing::warn!("the lease is over: nothing is reported");
            node.member.leases().release(lease.lease);
            gone.await;
        }
    }
    let directory = attended.session.directory.clone();
    if let Some(egress) = &attended.session.egress {
        egress.log();
    }
    attended.server.stop();
    remove_files(directory).await;
}

/// What the verdict needs to know besides the ending.
async fn collect(node: &Node, session: &Session, name: &str, lease: &HeldLease, ending: &Ending) -> Evidence {
    let mut evidence = Evidence {
        step: session
            .brief
            .step
            .or((session.brief.role == Role::Plan).then_some(orca_proto::task::Step::Plan)),
        cancel_asked: lease.cancel.is_cancelled(),
        limit: session.limit.get().copied(),
        ..Evidence::default()
    };
    if wants_post_mortem(ending) {
        // The engine says what it knows of memory once the container has ended.
        let _ended_or_not = tokio::time::timeout(LAST_BREATH, node.runtime.wait(name)).await;
        evidence.post_mortem = node.runtime.post_mortem(name).await;
        session.redactor.redact(&mut evidence.post_mortem.said);
    }
    if matches!(ending, Ending::Reported(report) if report.outcome == Outcome::Succeeded) {
        let directory = session.directory.clone();
        let staged = move || (directory.staged_result(), directory.staged(private::PLAN));
        match tokio::task::spawn_blocking(staged).await {
            Ok((Ok(result), Ok(plan))) => (evidence.result, evidence.plan) = (result, plan),
            Ok((Err(error), _) | (_, Err(error))) => {
                tracing::error!(%error, "cannot read back what the program returned");
            }
            Err(error) => tracing::error!(%error, "cannot read back what the program returned"),
        }
    }
    if evidence.post_mortem != PostMortem::default() {
        tracing::debug!(post_mortem = ?evidence.post_mortem, "examined");
    }
    evidence
}

/// Removes the container, however long the engine takes.
pub(super) async fn remove_container(node: &Node, name: &str, uncertain: bool) {
    let mut pause = Duration::from_millis(100);
    let certain = tokio::time::Instant::now() + UNCERTAIN;
    loop {
        match node.runtime.remove(name).await {
            Ok(()) if uncertain && tokio::time::Instant::now() < certain => {}
            Ok(()) => return,
            Err(fault) => tracing::warn!(name, %fault, "cannot remove the container; trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE);
    }
}

/// Reports until the coordinator has recorded it or the lease is over.
async fn send(node: &Node, lease: &Arc<HeldLease>, redactor: &Redactor, report: Report) {
    let what = if report.plan.is_some() { "plan" } else { "result" };
    let carries = report.plan.is_some() || report.result.is_some();
    let recorded = match record(node, lease, report).await {
        Err(Unrecorded::Refused(problem)) if carries && is_about_content(&problem) => {
            // It may well quote what it refuses.
            let mut reason = format!("the {what} was refused: {problem}");
            redactor.redact(&mut reason);
            let outcome = Outcome::Failed { exit_code: 0, reason: Some(reason) };
            let instead = Report { outcome, result: None, plan: None };
            record(node, lease, instead).await
        }
        recorded => recorded,
    };
    match recorded {
        Ok(()) => {}
        Err(Unrecorded::LeaseOver) => tracing::warn!("the lease was lost: another attempt counts"),
        Err(Unrecorded::Refused(problem)) => tracing::error!(%problem, "the outcome was not recorded"),
    }
}

/// Whether another report might be taken where this one was not.
const fn is_about_content(problem: &Problem) -> bool {
    matches!(problem.kind, Kind::PlanInvalid | Kind::Validation | Kind::Malformed | Kind::BodyTooLarge)
}

async fn record(node: &Node, lease: &Arc<HeldLease>, report: Report) -> Result<(), Unrecorded> {
    let outcome = report.outcome.name();
    let state = if report.plan.is_some() {
        let call = until_answered(|| node.client().report(lease.lease, &report));
        tokio::select! {
            biased;
            answer = call => answer.map_err(unrecorded)?.state,
            () = lease.over() => return Err(Unrecorded::LeaseOver),
        }
    } else {
        let text = report.result.as_ref().map(to_raw_value).transpose();
        let text =
            text.map_err(|error| Unrecorded::Refused(Problem::new(Kind::Malformed, error.to_string())))?;
        // The value may be large, and its text says it all.
        let Report { outcome, result, .. } = report;
        drop(result);
        node.reporter.report(lease, outcome, text).await?
    };
    tracing::info!(outcome, %state, "reported");
    Ok(())
}

fn unrecorded(error: ClientError) -> Unrecorded {
    match error {
        ClientError::Problem(problem) if problem.kind == Kind::LeaseLost => Unrecorded::LeaseOver,
        ClientError::Problem(problem) => Unrecorded::Refused(*problem),
        error => Unrecorded::Refused(Problem::new(Kind::Unknown, error.to_string())),
    }
}

pub(super) async fn remove_files(directory: Directory) {
    if let Err(error) = tokio::task::spawn_blocking(move || directory.remove()).await {
        tracing::warn!(%error, "cannot remove what an attempt left");
    }
}
