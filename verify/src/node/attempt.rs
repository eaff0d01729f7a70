//! One attempt of a pretend task, from its grant to what it says after its end.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orca_proto::attempt::{AttemptStart, Children, Report};
use orca_proto::log::{LogAppend, LogLine, Stream};
use orca_proto::node::{Grant, LeaseRef};
use orca_proto::plan::Plan;
use orca_proto::spec::{NewTask, Role};
use orca_proto::task::{Outcome, Progress, Step};
use serde_json::json;

use super::{Behaviour, End, Held, Node, patiently};
use crate::checker::log_text;
use crate::history::{Answer, Asked, Call, Trespass, What};
use crate::load::pretend;

/// What the task is to do; success where its input does not say.
pub(super) fn behaviour(grant: &Grant) -> Behaviour {
    if grant.step == Some(Step::Finish) {
        return Behaviour::default();
    }
    serde_json::from_value(grant.spec.input.clone()).unwrap_or_default()
}

/// Runs the attempt.
pub(super) async fn run(node: &Arc<Node>, grant: Grant, held: Held) {
    let lease = super::lease_of(&grant);
    let behaviour = behaviour(&grant);
    let end = behaviour.end(grant.attempt);
    node.recorder.note(node.who(), What::ProgramStarted { lease });
    node.fenced(lease, "start").await;
    node.logs(lease, &behaviour).await;
    if behaviour.children > 0 {
        node.spawn(lease, &grant, behaviour.children).await;
    }
    let work = async {
        if end == End::Hang {
            tokio::time::sleep(node.lease() * 3 / 2).await;
        } else {
            tokio::time::sleep(Duration::from_millis(behaviour.ms)).await;
        }
    };
    let cancelled = tokio::select! {
        () = held.cancel.cancelled() => true,
        () = held.lost.cancelled() => false,
        () = work => false,
    };
    if cancelled && grant.attempt % 2 == 1 {
        // Some programs take their time.
        tokio::time::sleep(node.lease() / 3).await;
    }
    if lease.token.0 % 3 == 0 || end == End::Hang {
        node.fenced(lease, "progress").await;
    }
    if let Some(impostor) = &node.impostor {
        node.impersonate(impostor, lease).await;
    }
    let outcome = if cancelled { Outcome::Cancelled } else { end.outcome() };
    settle(node, lease, &grant, &behaviour, outcome).await;
    node.held().remove(&lease);
}

async fn settle(node: &Arc<Node>, lease: LeaseRef, grant: &Grant, behaviour: &Behaviour, outcome: Outcome) {
    let success = outcome == Outcome::Succeeded;
    let plans = success && grant.spec.role == Role::Plan && grant.step != Some(Step::Finish);
    if plans && behaviour.bad_plan {
        let (plan, asked) = plan(grant, lease, 3, true);
        let report = Report { outcome: outcome.clone(), result: None, plan: Some(plan) };
        node.report(lease, &report, Some((asked, true))).await;
    }
    let (report, asked) = if plans && behaviour.plan > 0 {
        let (plan, asked) = plan(grant, lease, behaviour.plan, false);
        (Report { outcome, result: None, plan: Some(plan) }, Some((asked, false)))
    } else {
        let result = success.then(|| json!({ "token": lease.token, "by": node.who() }));
        (Report { outcome, result, plan: None }, None)
    };
    node.report(lease, &report, asked.clone()).await;
    if behaviour.repeat {
        node.report(lease, &report, asked).await;
    }
    if behaviour.contradict {
        let outcome = if success { Outcome::OutOfMemory } else { Outcome::Succeeded };
        let result = (!success).then(|| json!("another one"));
        node.report(lease, &Report { outcome, result, plan: None }, None).await;
    }
    if behaviour.afterwards {
        node.fenced(lease, "start").await;
        node.fenced(lease, "progress").await;
        node.append(lease, behaviour.lines, 1).await;
        node.spawn(lease, grant, 1).await;
    }
}

/// A plan of tasks that each need the one before; with a cycle where it is to be refused.
fn plan(grant: &Grant, lease: LeaseRef, count: u32, bad: bool) -> (Plan, Vec<Asked>) {
    // By its id and not by its own name: a retry has the same name.
    let ask = grant.task;
    let kind = if bad { "bad" } else { "plan" };
    let mut tasks: Vec<NewTask> = (0..count)
        .map(|n| {
            let mut task = pretend(&format!("{ask}/{kind}{}/{n}", lease.token), &grant.spec.queue, &quick());
            task.key = Some(format!("t{n}"));
            task.depends_on = n.checked_sub(1).map(|before| format!("t{before}")).into_iter().collect();
            task
        })
        .collect();
    if bad && let Some(first) = tasks.first_mut() {
        first.depends_on = vec![format!("t{}", count - 1)];
    }
    let asked = tasks.iter().map(asked_for).collect();
    (Plan { tasks }, asked)
}

fn quick() -> Behaviour {
    Behaviour { ms: 5, ..Behaviour::default() }
}

/// What a history keeps of a task that is asked for.
fn asked_for(task: &NewTask) -> Asked {
    Asked { ask: task.labels.get("ask").cloned().unwrap_or_default() }
}

impl Node {
    async fn fenced(&self, lease: LeaseRef, verb: &str) {
        let client = self.coordinators.current();
        let call = Call::Fenced { lease, verb: verb.to_owned() };
        let progress = Progress { percent: Some(50.0), message: Some("half".to_owned()) };
        let request = patiently(Duration::ZERO, async {
            match verb {
                "start" => client.report_start(lease, AttemptStart::default()).await,
                _ => client.report_progress(lease, &progress).await,
            }
        });
        if self
            .recorder
            .call(self.who(), call, request, |()| Answer::Done)
            .await
            .is_err_and(|e| e.is_transient())
        {
            self.coordinators.turn();
        }
    }

    async fn impersonate(&self, impostor: &super::Coordinators, lease: LeaseRef) {
        let call = Call::Probe { verb: "start".to_owned(), why: Trespass::OthersLease, thing: None };
        let request =
            patiently(Duration::ZERO, impostor.current().report_start(lease, AttemptStart::default()));
        let _ = self.recorder.call(self.who(), call, request, |()| Answer::Done).await;
        let report = Report { outcome: Outcome::OutOfMemory, result: None, plan: None };
        let call = Call::Probe { verb: "report".to_owned(), why: Trespass::OthersLease, thing: None };
        let request = patiently(Duration::ZERO, impostor.current().report(lease, &report));
        let answer = |reported: &orca_proto::attempt::Reported| Answer::Reported { state: reported.state };
        let _ = self.recorder.call(self.who(), call, request, answer).await;
    }

    async fn logs(&self, lease: LeaseRef, behaviour: &Behaviour) {
        if behaviour.lines == 0 {
            return;
        }
        let half = behaviour.lines / 2;
        if behaviour.messy {
            // Not yet wanted: a gap is before it.
            self.append(lease, half + 1, behaviour.lines - half).await;
        }
        let mut next = 0;
        for _ in 0..8 {
            let count = if behaviour.messy { half.max(1) } else { behaviour.lines };
            match self.append(lease, next, count.min(behaviour.lines - next)).await {
                Some(stored) if stored >= behaviour.lines => break,
                Some(stored) => next = stored,
                None => {}
            }
        }
        if behaviour.messy {
            self.append(lease, 0, behaviour.lines).await;
        }
    }

    /// Appends lines; answers which is wanted next.
    async fn append(&self, lease: LeaseRef, first: i64, count: i64) -> Option<i64> {
        let line =
            |seq| LogLine { seq, stream: Stream::Stdout, at: Timestamp::now(), text: log_text(lease, seq) };
        let lines = LogAppend { lines: (first..first + count).map(line).collect() };
        let call = Call::Log { lease, first, count };
        let request = patiently(Duration::ZERO, self.coordinators.current().append_logs(lease, &lines));
        let answer = |ack: &orca_proto::log::LogAck| Answer::Logged { next: ack.next_seq };
        match self.recorder.call(self.who(), call, request, answer).await {
            Ok(ack) => Some(ack.next_seq),
            Err(error) => {
                if error.is_transient() {
                    self.coordinators.turn();
                }
                None
            }
        }
    }

    async fn spawn(&self, lease: LeaseRef, grant: &Grant, count: u32) {
        let ask = grant.task;
        // What is sent after the end must not pass for a repeat of what was sent before.
        let key = format!("spawn-{count}");
        let child =
            |n| pretend(&format!("{ask}/child{}-{count}/{n}", lease.token), &grant.spec.queue, &quick());
        let tasks: Vec<NewTask> = (0..count).map(child).collect();
        let asked: Vec<Asked> = tasks.iter().map(asked_for).collect();
        let children = Children { idempotency_key: key, tasks };
        for _ in 0..3 {
            let call = Call::Spawn { lease, tasks: asked.clone() };
            let request =
                patiently(Duration::ZERO, self.coordinators.current().spawn_children(lease, &children));
            let answer = |done: &orca_proto::plan::Enqueued| Answer::Enqueued {
                ids: done.ids.clone(),
                existing: Vec::new(),
            };
            match self.recorder.call(self.who(), call, request, answer).await {
                Err(error) if error.is_transient() => self.coordinators.turn(),
                _ => return,
            }
        }
    }
}
