//! Cancelling a whole tree: what does not run ends at once, what runs is told to.

use orca_proto::ids::TaskId;
use orca_proto::problem::Kind;
use orca_proto::task::{Cancellation, TaskSummary};
use sqlx::PgConnection;

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
        let (app, namespace) = (self.clone(), who.namespace.clone());
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                settlement::lock(tx).await?;
                let found = snapshot::lock_one(tx, &namespace, id).await?.ok_or_else(Error::not_found)?;
                if found.snapshot.state.is_terminal() && !without(Guard::TerminalFinal) {
                    let detail = format!("the task has ended already: it is {}", found.snapshot.state);
                    return Err(Error::refused(Kind::Conflict, detail));
                }
                cancel_level(tx, vec![found], cancellation.reason.as_deref(), effects).await?;
                task::get_summary(tx, &namespace, id).await?.ok_or_else(Error::not_found)
            })
        })
        .await
    }
}

/// Cancels everything under these tasks. The settlement lock is held.
pub(crate) async fn cancel_under(
    connection: &mut PgConnection,
    parents: &[TaskId],
    reason: &str,
    effects: &mut Effects,
) -> Result<(), Error> {
    let level = snapshot::lock_open_children(connection, parents).await?;
    cancel_level(connection, level, Some(reason), effects).await.map(drop)
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
