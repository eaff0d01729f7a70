//! Takes guards out that live in the database's own functions, in builds with the feature `sabotage` alone.

use orca_proto::node::LeaseRef;
use sqlx::{Executor, PgConnection};
use uuid::Uuid;

use crate::sabotage::{Guard, without};

/// A guard, the function that it is in, and what its text becomes without it.
const EDITS: &[(Guard, &str, &str, &str)] = &[
    (Guard::TokenPredicate, "orca.hold", "g.token = p_token AND ", ""),
    (Guard::RowLock, "orca.claim", "PERFORM orca.lock_heads(p_lanes);", ""),
    (Guard::QueueLimit, "orca.allowance", "BEGIN\n", "BEGIN\n    RETURN p_want;\n"),
];

/// What an edited function says.
const MARK: &str = " /* a guard was taken out here */ ";

/// Rewrites the functions of guards that are taken out. Called after the migrations, under their lock.
///
/// # Errors
/// The database's; and that a function has changed so that the guard is no longer found in it.
pub(crate) async fn take_out(connection: &mut PgConnection) -> sqlx::Result<()> {
    for (_, function, guard, instead) in EDITS.iter().filter(|(guard, _, _, _)| without(*guard)) {
        let text: String = sqlx::query_scalar("SELECT pg_get_functiondef($1::regproc)")
            .bind(function)
            .fetch_one(&mut *connection)
            .await?;
        // Another coordinator has been here, or this one before.
        if text.contains(MARK) {
            continue;
        }
        if !text.contains(guard) {
            let what = format!("there is nothing like {guard:?} in {function} to take out");
            return Err(sqlx::Error::Configuration(what.into()));
        }
        let text = text.replacen(guard, &format!("{instead}{MARK}"), 1);
        connection.execute(sqlx::AssertSqlSafe(text)).await?;
    }
    Ok(())
}

/// Leases that nodes hold, of at most `most` grants, whether they have run out or not.
///
/// # Errors
/// The database's.
pub(crate) async fn unexpired(connection: &mut PgConnection, most: i64) -> sqlx::Result<Vec<LeaseRef>> {
    let held = "SELECT unnest(g.tasks), g.token FROM (SELECT tasks, token FROM orca.grants WHERE open > 0 LIMIT $1) AS g";
    let leases: Vec<(Uuid, i64)> = sqlx::query_as(held).bind(most).fetch_all(connection).await?;
    Ok(leases.into_iter().map(|(task, token)| super::lease::reference(task, token)).collect())
}
