//! Cancelling all tasks of a selection, in many transactions: those with nothing under them a thousand at a time, the others
//! each with its tree.

use std::sync::Arc;

use orca_proto::ids::TaskId;
use orca_proto::selector::{Affected, BulkCancel};
use uuid::Uuid;

use super::cancel::{cancel_level, settle_alone};
use super::transaction::transaction;
use super::{App, Error, Principal};
use crate::db::selection::{self, Wanted};
use crate::db::snapshot::{self, Locked};

/// Tasks that one look goes through.
const LOOK: i64 = 10_000;
/// Tasks in one transaction.
const CHUNK: usize = 1_000;

impl App {
    /// Cancels every open task of a selection and everything under it; answers how many tasks that were which nobody had
    /// asked to end before. Tasks that are enqueued meanwhile are not among them. If it is cut off, a repeat goes on.
    ///
    /// # Errors
    /// `validation`, or the database's.
    pub async fn cancel_matching(&self, who: &Principal, cancel: BulkCancel) -> Result<Affected, Error> {
        let mut errors = Vec::new();
        cancel.validate(&mut errors);
        if !errors.is_empty() {
            return Err(Error::validation(errors));
        }
        let flow = (cancel.selector.queue.as_deref(), cancel.selector.group.as_deref());
        self.check_flow(&who.namespace, flow, ("/selector/queue", "/selector/group")).await?;
        let wanted = Wanted::new(&cancel.selector)?;
        let order = Arc::new((who.namespace.clone(), cancel));
        let newest = selection::newest(&mut *self.0.pool.acquire().await?, &who.namespace).await?;
        let Some(TaskId(upto)) = newest else { return Ok(Affected { count: 0 }) };
        let (mut after, mut count) = (Uuid::nil(), 0);
        loop {
            let found = {
                let mut connection = self.0.pool.acquire().await?;
                selection::open(&mut connection, &who.namespace, &wanted, (after, upto), LOOK).await?
            };
            for chunk in found.ids.chunks(CHUNK) {
                let ids: Vec<TaskId> = chunk.iter().copied().map(TaskId).collect();
                let (ended, trees) = self.cancel_leaves(&order, ids).await?;
                count += ended;
                for tree in trees {
                    count += self.cancel_tree(&order, tree).await?;
                }
            }
            match found.last {
                Some(last) => after = last,
                None => return Ok(Affected { count }),
            }
            self.going_on()?;
        }
    }

    /// # Errors
    /// `unavailable` once the coordinator goes down.
    pub(crate) fn going_on(&self) -> Result<(), Error> {
        if self.0.shutdown.is_cancelled() {
            return Err(Error::Unavailable(
                "the coordinator is going down; a repeat goes on with what is left",
            ));
        }
        Ok(())
    }

    /// Cancels those of these tasks that have nothing under them; answers how many, and the others.
    async fn cancel_leaves(
        &self,
        order: &Arc<(String, BulkCancel)>,
        ids: Vec<TaskId>,
    ) -> Result<(u64, Vec<TaskId>), Error> {
        let (app, order) = (self.clone(), Arc::clone(order));
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                let mut locked = snapshot::lock(tx, &ids).await?;
                locked.retain(|task| is_meant(&order, task));
                let (leaves, trees): (Vec<Locked>, Vec<Locked>) =
                    locked.into_iter().partition(|task| task.snapshot.open_children == 0);
                let count = cancel_level(tx, leaves, order.1.reason.as_deref(), effects).await?;
                Ok((count, trees.into_iter().map(|task| task.id).collect()))
            })
        })
        .await
    }

    async fn cancel_tree(&self, order: &Arc<(String, BulkCancel)>, id: TaskId) -> Result<u64, Error> {
        let (app, order, turn) = (self.clone(), Arc::clone(order), self.settlement_turn().await?);
        self.spawned(async move {
            let _turn = turn;
            transaction!(app, |tx, effects| {
                settle_alone(tx).await?;
                let mut root = snapshot::lock(tx, &[id]).await?;
                root.retain(|task| is_meant(&order, task));
                cancel_level(tx, root, order.1.reason.as_deref(), effects).await
            })
        })
        .await
    }
}

/// Whether a locked task is still one of those meant.
fn is_meant((namespace, cancel): &(String, BulkCancel), task: &Locked) -> bool {
    let (states, state) = (&cancel.selector.states, task.snapshot.state);
    task.namespace == *namespace
        && !state.is_terminal()
        && !task.snapshot.cancel_requested
        && (states.is_empty() || states.contains(&state))
}
