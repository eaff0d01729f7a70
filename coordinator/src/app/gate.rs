//! What comes to tasks from outside: an operator's approval, and signals, which a task may wait for before it runs or while
//! it does.

use std::time::Duration;

use orca_proto::approval::Decision;
use orca_proto::attempt::Received;
use orca_proto::duration::Span;
use orca_proto::ids::TaskId;
use orca_proto::limits;
use orca_proto::node::LeaseRef;
use orca_proto::problem::Kind;
use orca_proto::signal::Signal;
use orca_proto::spec::is_valid_name;
use orca_proto::task::{State, TaskSummary};
use serde_json::Value;
use tokio::time::Instant;

use super::transaction::transaction;
use super::{App, Error, Principal};
use crate::db::apply::apply;
use crate::db::snapshot::{self, Locked};
use crate::db::{from_json, gate, signal, task, to_json};
use crate::lifecycle::{Event, Refusal, transition};

/// The longest that one request waits for a signal.
const LONGEST: Duration = Duration::from_secs(60);
/// How often such a request looks: another coordinator may have taken the signal, and the lease may go.
const POLL: Duration = Duration::from_millis(500);

impl App {
    /// Lets a task that waits for approval go on, or ends it. Of several decisions the first counts.
    ///
    /// # Errors
    /// `not-found`, `validation`; `not-awaited` if the task does not wait for an approval, or no longer.
    pub async fn task_decide(
        &self,
        who: &Principal,
        id: TaskId,
        decision: Decision,
    ) -> Result<TaskSummary, Error> {
        let mut errors = Vec::new();
        decision.validate(&mut errors);
        if !errors.is_empty() {
            return Err(Error::validation(errors));
        }
        let (app, who) = (self.clone(), who.clone());
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                let found = snapshot::lock_one(tx, &who.namespace, id).await?.ok_or_else(Error::not_found)?;
                let waits = found.snapshot.state == State::Blocked
                    && gate::on_timeout(tx, id, gate::APPROVAL).await?.is_some();
                if !waits {
                    return Err(not_awaited(&found));
                }
                let event = if decision.approve {
                    gate::open(tx, id, gate::APPROVAL, &who.subject, decision.comment.as_deref()).await?;
                    Event::GatesOpened { opened: 1 }
                } else {
                    gate::refuse(tx, id, &who.subject, decision.comment.as_deref()).await?;
                    let why = decision.comment.as_ref().map(|comment| format!(": {comment}"));
                    Event::GateRefused {
                        reason: format!("{} refused it{}", who.subject, why.unwrap_or_default()),
                    }
                };
                let change = transition(&found.snapshot, event).map_err(broken)?;
                apply(tx, &[(found, change)], effects).await?;
                task::get_summary(tx, &who.namespace, id).await?.ok_or_else(Error::not_found)
            })
        })
        .await
    }

    /// Keeps a signal to a task, and lets the task go on if it waits for it. The same again changes nothing.
    ///
    /// # Errors
    /// `not-found`, `validation`; `conflict` if the task has ended, was sent a signal of that name with another payload,
    /// or has as many as it may have that it has not read.
    pub async fn task_signal(&self, who: &Principal, id: TaskId, sent: Signal) -> Result<(), Error> {
        let mut errors = Vec::new();
        sent.validate(&mut errors);
        if !errors.is_empty() {
            return Err(Error::validation(errors));
        }
        let payload = to_json(&sent.payload)?;
        let (app, who) = (self.clone(), who.clone());
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                let found = snapshot::lock_one(tx, &who.namespace, id).await?.ok_or_else(Error::not_found)?;
                let state = found.snapshot.state;
                if state.is_terminal() {
                    let detail = format!("the task has ended already: it is {state}");
                    return Err(Error::refused(Kind::Conflict, detail));
                }
                if let Some(before) = signal::put(tx, id, &sent.name, &payload, &who.subject).await? {
                    let before: Value = from_json(&before, "signals.payload")?;
                    if before == sent.payload {
                        return Ok(());
                    }
                    let detail = format!(
                        "the task was sent the signal {} with another payload before, and that one stands",
                        sent.name
                    );
                    return Err(Error::refused(Kind::Conflict, detail));
                }
                effects.signalled.push(id);
                if state == State::Blocked && gate::open(tx, id, &sent.name, &who.subject, None).await? {
                    signal::read(tx, id, &sent.name).await?;
                    let change =
                        transition(&found.snapshot, Event::GatesOpened { opened: 1 }).map_err(broken)?;
                    apply(tx, &[(found, change)], effects).await?;
                } else if signal::unread(tx, id).await? > limits::UNREAD_SIGNALS {
                    let detail = format!(
                        "the task has {} signals that it has not read; send more once it has read some",
                        limits::UNREAD_SIGNALS
                    );
                    return Err(Error::refused(Kind::Conflict, detail));
                }
                Ok(())
            })
        })
        .await
    }

    /// Waits until a signal has come to the attempt's task, at most as long as asked for; nothing if none came.
    ///
    /// # Errors
    /// `validation`; `lease-lost`, also when it is lost while this waits.
    pub async fn attempt_signal(
        &self,
        who: &Principal,
        lease: LeaseRef,
        name: &str,
        wait: Span,
    ) -> Result<Option<Received>, Error> {
        if !is_valid_name(name) {
            return Err(Error::field("name", "must be 1 to 128 letters, digits or any of ._-"));
        }
        if wait.get() > LONGEST {
            return Err(Error::field("?wait", "must be at most 60s"));
        }
        let deadline = Instant::now() + wait.get();
        loop {
            let arrival = self.0.signals.arrival(lease.task);
            let look = {
                let mut connection = self.0.pool.acquire().await?;
                let look = signal::look(&mut connection, lease, &who.namespace, &who.subject, name).await?;
                if look.held && look.payload.is_some() {
                    signal::read(&mut connection, lease.task, name).await?;
                }
                look
            };
            if !look.held {
                return Err(Error::lease_lost());
            }
            if let Some(payload) = &look.payload {
                return Ok(Some(Received { payload: from_json(payload, "signals.payload")? }));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.0.shutdown.is_cancelled() {
                return Ok(None);
            }
            tokio::select! {
                () = arrival => {}
                () = tokio::time::sleep(left.min(POLL)) => {}
                () = self.0.shutdown.cancelled() => {}
            }
        }
    }
}

fn not_awaited(task: &Locked) -> Error {
    let detail = match task.snapshot.state {
        State::Blocked => "the task waits for other things, but not for an approval, or no longer".to_owned(),
        state => format!("the task does not wait for an approval, or no longer: it is {state}"),
    };
    Error::refused(Kind::NotAwaited, detail)
}

fn broken(refusal: Refusal) -> Error {
    Error::Internal(format!("a gate of a task that is not blocked: {refusal}"))
}
