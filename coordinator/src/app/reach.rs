//! What a task may reach bounds what the tasks under it may: a container that was given no way out must not get one by spawning
//! or planning a task that has it.

use orca_proto::problem::{FieldError, LISTED_ERRORS, Problem};
use orca_proto::spec::{Network, NewTask};
use sqlx::PgConnection;

use super::Error;
use super::check::aside;
use super::graph::Place;
use crate::db::task;

/// Checks that none of `tasks` reaches more than the task that they go under, and gives them back.
///
/// # Errors
/// [`Error::Refused`] that names the first of those that do.
pub(super) async fn check(
    connection: &mut PgConnection,
    place: &Place<'_>,
    tasks: Vec<NewTask>,
) -> Result<Vec<NewTask>, Error> {
    let Some(parent) = place.parent else { return Ok(tasks) };
    if tasks.iter().all(|task| task.network == Network::None) {
        return Ok(tasks);
    }
    let own = task::spec(connection, parent.id).await?.network;
    let compare = move || {
        let beyond = tasks.iter().enumerate().filter(|(_, task)| !own.includes(&task.network));
        let beyond: Vec<usize> = beyond.map(|(index, _)| index).take(LISTED_ERRORS).collect();
        Ok((tasks, beyond))
    };
    let (tasks, beyond) = aside(compare).await?;
    if beyond.is_empty() {
        return Ok(tasks);
    }
    let detail =
        "reaches more than the task that it goes under; whoever enqueues that must let it reach as much";
    let errors = beyond.into_iter().map(|index| FieldError::new(place.pointer(index, "/network"), detail));
    Err(Error::Refused(Box::new(Problem::validation(errors.collect()))))
}
