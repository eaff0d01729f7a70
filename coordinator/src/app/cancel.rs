//! Cancelling a whole tree: what does not run ends at once, what runs is told to.

use std::sync::Arc;
use std::time::Duration;

use orca_proto::ids::TaskId;
use orca_proto::problem::Kind;
use orca_proto::task::{Cancellation, TaskSummary};
use sqlx::PgConnection;
use tokio::sync::OwnedSemaphorePermit;

use super::check::Check;
use super::transaction::transaction;
use super::{App, Error, Principal};
use crate::db::apply::{Effects, apply};
use crate::db::snapshot::{self, Locked};
use crate::db::{settlement, task};
use crate::lifecycle::{Event, transition};
use crate::sabotage::{Guard, without};

/// The longest reason of a cancel, in bytes.
const REASON: usize = 1_024;
/// How long a call waits for its turn at the settlement lock.
const TURN: Duration = Duration::from_secs(10);
const BUSY: Error =
    Error::Unavailable("large graphs of tasks are being cancelled or settled just now; try again");

impl App {
    /// Cancels a task and everything under it. Once this returns, nothing of it is granted any more.
    ///
    /// # Errors
    /// `not-found`; `conflict` if it has ended.
    pub async fn task_cancel(
        &self,
        who: &Principal,
        id: TaskId,
        cancellation: Cancellation,
    ) -> Result<TaskSummary, Error> {
        let mut check = Check::default();
        if let Some(reason) = &cancellation.reason {
            check.text(reason, "/reason", REASON);
        }
        check.done()?;
        // Most tasks have nothing under them, and wait for nobody who cancels or settles large graphs.
        if let Some(summary) = self.cancel_found(who, id, &cancellation, None).await? {
            return Ok(summary);
        }
        let turn = self.settlement_turn().await?;
        self.cancel_found(who, id, &cancellation, Some(turn)).await?.ok_or_else(Error::not_found)
    }

    /// Without a turn only what has nothing under it; answers nothing for the others.
    async fn cancel_found(
        &self,
        who: &Principal,
        id: TaskId,
        cancellation: &Cancellation,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Result<Option<TaskSummary>, Error> {
        let (app, namespace, reason) = (self.clone(), who.namespace.clone(), cancellation.reason.clone());
        self.spawned(async move {
            let alone = turn.is_some();
            let _turn = turn;
            transaction!(app, |tx, effects| {
                if alone {
                    settle_alone(tx).await?;
                }
                let found = snapshot::lock_one(tx, &namespace, id).await?.ok_or_else(Error::not_found)?;
                if found.snapshot.state.is_terminal() && !without(Guard::TerminalFinal) {
                    let detail = format!("the task has ended already: it is {}", found.snapshot.state);
                    return Err(Error::refused(Kind::Conflict, detail));
                }
                if !alone && found.snapshot.open_children > 0 {
                    return Ok(None);
                }
                cancel_level(tx, vec![found], reason.as_deref(), effects).await?;
                task::get_summary(tx, &namespace, id).await?.map(Some).ok_or_else(Error::not_found)
            })
        })
        .await
    }

    /// A turn to take the settlement lock, of which one call in this process waits at a time: waiting for a turn costs no
    /// connection.
    ///
    /// # Errors
    /// `unavailable` if none came for long.
    pub(crate) async fn settlement_turn(&self) -> Result<OwnedSemaphorePermit, Error> {
        let turn = Arc::clone(&self.0.settling).acquire_owned();
        match tokio::time::timeout(TURN, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(BUSY),
        }
    }
}

/// Takes the settlement lock, after [`App::settlement_turn`].
pub(crate) async fn settle_alone(connection: &mut PgConnection) -> Result<(), Error> {
    settlement::lock(connection).await.map_err(|error| match Error::from(error) {
        error if error.is_held() => BUSY,
        error => error,
    })
}

/// Cancels the first `most` tasks directly under this one, in the order of their ids, after `after`; what is under them is
/// noted. Answers how many were looked at, and the last of them. The settlement lock is held.
pub(crate) async fn cancel_under(
    connection: &mut PgConnection,
    parent: TaskId,
    after: TaskId,
    most: usize,
    reason: &str,
    effects: &mut Effects,
) -> Result<(usize, TaskId), Error> {
    let found = snapshot::open_children(connection, parent, after, most).await?;
    let mut changes = Vec::with_capacity(found.len());
    for task in snapshot::lock(connection, &found).await? {
        if let Ok(mut change) =
            transition(&task.snapshot, Event::CancelRequested { reason: Some(reason.to_owned()) })
        {
            change.cancel_children = task.snapshot.open_children > 0;
            changes.push((task, change));
        }
    }
    apply(connection, &changes, effects).await?;
    Ok((found.len(), found.last().copied().unwrap_or(after)))
}

/// Level by level: a locked task takes no new ones under it, so what is found under a level is all there is. Answers how
/// many tasks of the whole tree had not been asked to end before.
pub(super) async fn cancel_level(
    connection: &mut PgConnection,
    mut level: Vec<Locked>,
    reason: Option<&str>,
    effects: &mut Effects,
) -> Result<u64, Error> {
    let mut count = 0;
    while !level.is_empty() {
        let ids: Vec<TaskId> = level.iter().map(|task| task.id).collect();
        let mut changes = Vec::with_capacity(level.len());
        for task in level {
            let event = Event::CancelRequested { reason: reason.map(str::to_owned) };
            if let Ok(mut change) = transition(&task.snapshot, event) {
                // They are next on this very walk.
                change.cancel_children = false;
                count += u64::from(!task.snapshot.cancel_requested);
                changes.push((task, change));
            }
        }
        apply(connection, &changes, effects).await?;
        level = snapshot::lock_open_children(connection, &ids).await?;
    }
    Ok(count)
}
