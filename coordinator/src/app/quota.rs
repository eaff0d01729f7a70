//! Quotas of namespaces.

use orca_proto::problem::Kind;
use sqlx::PgConnection;

use super::{App, Error};
use crate::db::quota;

/// Makes sure that `more` tasks may be enqueued. Others who do the same in this namespace wait for each other, if it has a
/// quota.
///
/// # Errors
/// `quota-exceeded`.
pub(crate) async fn check(connection: &mut PgConnection, namespace: &str, more: usize) -> Result<(), Error> {
    let Some(quota) = quota::lock(connection, namespace).await? else { return Ok(()) };
    let Some(most) = quota.max_open else { return Ok(()) };
    let open = quota::open(connection, namespace).await?;
    let more = i64::try_from(more).unwrap_or(i64::MAX);
    if open.saturating_add(more) > most {
        let detail = format!(
            "the namespace {namespace} may have {most} open tasks; it has {open}, and these would be {more} more"
        );
        return Err(Error::refused(Kind::QuotaExceeded, detail));
    }
    Ok(())
}

impl App {
    /// Whether the namespace has a quota of open tasks: then enqueues wait for each other.
    pub(crate) async fn counts_open(&self, namespace: &str) -> Result<bool, Error> {
        Ok(self.rules(namespace).await?.counts_open)
    }
}
