//! Queues and groups that a filter names have to be there: a mistyped one would answer that all is well.

use orca_proto::spec::DEFAULT_QUEUE;

use super::check::Check;
use super::{App, Error};
use crate::db::queue_settings;

impl App {
    /// Refuses a queue or group of a filter that the namespace has never seen; `at` are the pointers to the two.
    ///
    /// # Errors
    /// `validation`, or the database's.
    pub(crate) async fn check_flow(
        &self,
        namespace: &str,
        (queue, group): (Option<&str>, Option<&str>),
        at: (&str, &str),
    ) -> Result<(), Error> {
        if queue.is_none() && group.is_none() {
            return Ok(());
        }
        let mut connection = self.0.pool.acquire().await?;
        let known = queue_settings::known(&mut connection, namespace, queue, group).await?;
        let mut check = Check::default();
        match (queue, group) {
            (Some(queue), _) if !known.queue && queue != DEFAULT_QUEUE => {
                check.fail(at.0, format!("there is no queue {queue:?} in this namespace"));
            }
            (Some(queue), Some(group)) if !known.group => {
                check.fail(at.1, format!("there is no group {group:?} in queue {queue:?}"));
            }
            (None, Some(group)) if !known.group => {
                check.fail(at.1, format!("there is no group {group:?} in this namespace"));
            }
            _ => {}
        }
        check.done()
    }
}
