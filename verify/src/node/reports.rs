//! Reports: one at a time, or many in one request.

use std::time::Duration;

use orca_proto::attempt::{AttemptReport, RefusedKind, Report, Reports, Settled};
use orca_proto::client::ClientError;
use orca_proto::node::LeaseRef;
use orca_proto::problem::Kind;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::{Node, PAUSE, patiently};
use crate::history::{Answer, Asked, Call, What, refusal};

/// Reports in one request.
const MANY: usize = 64;
/// Tries of one report.
const TRIES: u32 = 12;

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was answered, one way or the other.
    Answered,
    /// It was not.
    Unknown,
}

/// A report that waits to be sent with others.
pub(super) struct Waiting {
    lease: LeaseRef,
    report: Report,
    fate: oneshot::Sender<Fate>,
}

/// Takes reports for the requests that carry many.
pub(super) struct Reporter {
    outbox: mpsc::Sender<Waiting>,
}

impl Reporter {
    pub(super) fn new() -> (Self, mpsc::Receiver<Waiting>) {
        let (outbox, inbox) = mpsc::channel(1_024);
        (Self { outbox }, inbox)
    }
}

impl Node {
    /// Reports until it is answered, or for too many tries.
    pub(super) async fn report(
        &self,
        lease: LeaseRef,
        report: &Report,
        plan: Option<(Vec<Asked>, bool)>,
    ) -> Fate {
        for _ in 0..TRIES {
            let fate = if self.settings.batch_reports && report.plan.is_none() {
                let (fate, told) = oneshot::channel();
                let waiting = Waiting { lease, report: report.clone(), fate };
                let _ = self.reporter.outbox.send(waiting).await;
                told.await.unwrap_or(Fate::Unknown)
            } else {
                self.report_alone(lease, report, plan.clone()).await
            };
            if fate == Fate::Answered {
                return fate;
            }
            self.coordinators.turn();
            tokio::time::sleep(PAUSE * 2).await;
        }
        Fate::Unknown
    }

    async fn report_alone(&self, lease: LeaseRef, report: &Report, plan: Option<(Vec<Asked>, bool)>) -> Fate {
        let call = call(lease, report, plan);
        let request = patiently(Duration::ZERO, self.coordinators.current().report(lease, report));
        let answer = |reported: &orca_proto::attempt::Reported| Answer::Reported { state: reported.state };
        match self.recorder.call(self.who(), call, request, answer).await {
            Err(error) if error.is_transient() => Fate::Unknown,
            _ => Fate::Answered,
        }
    }
}

fn call(lease: LeaseRef, report: &Report, plan: Option<(Vec<Asked>, bool)>) -> Call {
    let body = json!({ "outcome": report.outcome, "result": report.result, "plan": plan.as_ref().map(|(asked, _)| asked) });
    let bad = plan.as_ref().is_some_and(|(_, bad)| *bad);
    Call::Report {
        lease,
        outcome: report.outcome.name().to_owned(),
        body,
        plan: plan.map(|(asked, _)| asked),
        bad,
    }
}

/// Sends what waits, as much at a time as there is.
pub(super) async fn send(node: &Node, mut inbox: mpsc::Receiver<Waiting>) {
    let mut waiting = Vec::new();
    let mut left: Vec<Waiting> = Vec::new();
    loop {
        if left.is_empty() && inbox.recv_many(&mut waiting, MANY).await == 0 {
            return;
        }
        waiting.append(&mut left);
        // A lease at most once in a request.
        let mut batch: Vec<Waiting> = Vec::new();
        for one in waiting.drain(..) {
            let twice = batch.iter().any(|other| other.lease == one.lease);
            if twice { left.push(one) } else { batch.push(one) }
        }
        send_batch(node, batch).await;
    }
}

async fn send_batch(node: &Node, batch: Vec<Waiting>) {
    let Some(id) = node.id() else { return };
    let who = node.who();
    let calls: Vec<u64> =
        batch.iter().map(|one| node.recorder.sent(who, call(one.lease, &one.report, None))).collect();
    let reports = batch.iter().map(|one| AttemptReport {
        task: one.lease.task,
        token: one.lease.token,
        outcome: one.report.outcome.clone(),
        result: one.report.result.clone(),
    });
    let request = Reports { instance: node.instance, reports: reports.collect() };
    let outcome = patiently(Duration::ZERO, node.coordinators.current().report_many(id, &request)).await;
    for (at, (one, id)) in batch.into_iter().zip(calls).enumerate() {
        let (answer, fate) = match &outcome {
            Ok(settled) => match settled.settled.get(at) {
                Some(Settled::State(state)) => (Answer::Reported { state: *state }, Fate::Answered),
                Some(Settled::Refused(refused)) => {
                    (refused_as(refused.kind, &refused.detail), Fate::Answered)
                }
                None => (Answer::None { why: "the answer is too short".to_owned() }, Fate::Unknown),
            },
            Err(error) => (refusal(error), fate_of(error)),
        };
        node.recorder.note(who, What::Answer { id, answer });
        let _ = one.fate.send(fate);
    }
}

fn fate_of(error: &ClientError) -> Fate {
    if error.is_transient() { Fate::Unknown } else { Fate::Answered }
}

fn refused_as(kind: RefusedKind, detail: &str) -> Answer {
    let kind = match kind {
        RefusedKind::LeaseLost => Kind::LeaseLost,
        RefusedKind::ResultConflict => Kind::ResultConflict,
        RefusedKind::Validation => Kind::Validation,
    };
    let problem = kind.urn().rsplit(':').next().unwrap_or_default().to_owned();
    Answer::Refused { status: kind.status(), problem, detail: detail.to_owned() }
}
