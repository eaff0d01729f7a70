//! Quotas of namespaces: what is refused once they hold as much as they may.

use orca_proto::problem::Kind;
use sqlx::PgConnection;

use super::{App, Error};
use crate::db::quota;

/// Tasks of a lane up to which those that ended in line are looked for before an enqueue is refused.
const EXACT: i64 = 5_000;

/// Makes sure that `more` tasks may be enqueued, of which some stand in `queues`. Others who do the same in this namespace wait
/// for each other until their transactions end, if it has a quota. Queues that the transaction has made already are counted.
///
/// # Errors
/// `quota-exceeded`.
pub(crate) async fn check(
    connection: &mut PgConnection,
    namespace: &str,
    more: usize,
    queues: &[String],
) -> Result<(), Error> {
    let Some(quota) = quota::lock(connection, namespace).await? else { return Ok(()) };
    if let Some(most) = quota.max_queues {
        let (known, new) = quota::queues(connection, namespace, queues).await?;
        if new > 0 && known.saturating_add(new) > i64::from(most) {
            let detail = format!(
                "the namespace {namespace} may have {most} queues; it has {known}, and this would be {new} more; use one of \
                 those, or have an admin raise it"
            );
            return Err(Error::refused(Kind::QuotaExceeded, detail));
        }
    }
    let Some(most) = quota.max_open.filter(|_| more > 0) else { return Ok(()) };
    let more = i64::try_from(more).unwrap_or(i64::MAX);
    let mut open = quota::open(connection, namespace, 0).await?;
    if open.saturating_add(more) > most {
        open = quota::open(connection, namespace, EXACT).await?;
    }
    if open.saturating_add(more) > most {
        let detail = format!(
            "the namespace {namespace} may have {most} open tasks; it has {open}, and these would be {more} more; wait until \
             some have ended, or have an admin raise it"
        );
        return Err(Error::refused(Kind::QuotaExceeded, detail));
    }
    Ok(())
}

/// How many more tasks the namespace may have open as of now, if it has a quota of them. Locks nothing, so that it may be fewer
/// once they are enqueued.
pub(crate) async fn room(connection: &mut PgConnection, namespace: &str) -> Result<Option<i64>, Error> {
    let most = quota::get(connection, namespace).await?.and_then(|quota| quota.max_open);
    let Some(most) = most else { return Ok(None) };
    let mut open = quota::open(connection, namespace, 0).await?;
    if open >= most {
        open = quota::open(connection, namespace, EXACT).await?;
    }
    Ok(Some(most.saturating_sub(open).max(0)))
}

/// The most open tasks that the namespace may ever have, if fewer than `more`.
pub(crate) async fn too_many(
    connection: &mut PgConnection,
    namespace: &str,
    more: usize,
) -> Result<Option<i64>, Error> {
    let most = quota::get(connection, namespace).await?.and_then(|quota| quota.max_open);
    Ok(most.filter(|most| i64::try_from(more).unwrap_or(i64::MAX) > *most))
}

impl App {
    /// Whether what is enqueued in the namespace is counted: then enqueues wait for each other.
    pub(crate) async fn counts_open(&self, namespace: &str) -> Result<bool, Error> {
        Ok(self.settings(namespace).await?.counts_open)
    }
}
