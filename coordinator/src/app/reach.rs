//! What a task may reach bounds what the tasks under it may: a container that was given no way out must not get one by spawning
//! or planning a task that has it.

use orca_proto::problem::{FieldError, Problem};
use orca_proto::spec::{Network, NewTask};
use sqlx::PgConnection;

use super::Error;
use super::graph::Place;
use crate::db::task;

/// Checks that none of `tasks` reaches more than the task that they go under.
///
/// # Errors
/// [`Error::Refused`] that names each that does.
pub(super) async fn check(
    connection: &mut PgConnection,
    place: &Place<'_>,
    tasks: &[NewTask],
) -> Result<(), Error> {
    let Some(parent) = place.parent else { return Ok(()) };
    if tasks.iter().all(|task| task.network == Network::None) {
        return Ok(());
    }
    let own = task::spec(connection, parent.id).await?.network;
    let beyond = tasks.iter().enumerate().filter(|(_, task)| !own.includes(&task.network));
    let errors: Vec<FieldError> = beyond
        .map(|(index, _)| {
            let detail = "reaches more than the task that it goes under; whoever enqueues that must let it reach as much";
            FieldError::new(place.pointer(index, "/network"), detail)
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(Error::Refused(Box::new(Problem::validation(errors)))) }
}
