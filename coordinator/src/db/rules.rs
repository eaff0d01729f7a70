//! What operators have set for queues, groups and namespaces, and what is in use of it.

use std::collections::HashMap;

use orca_proto::duration::Span;
use orca_proto::queue::{GroupSettings, Paused, QueueSettings, Rate};
use sqlx::PgConnection;

use super::Time;
use crate::dispatch::{Bucket, GroupRules, GroupUsage, QueueRules, QueueUsage, Settings, Usage};

/// One row of settings, as it comes; the empty group stands for the queue itself.
struct Row {
    queue: String,
    grp: String,
    max_running: Option<i32>,
    rate_tasks: Option<i32>,
    rate_per_ms: Option<i64>,
    allowance: Option<f64>,
    allowance_at: Option<Time>,
    ageing_ms: Option<i64>,
    weight: Option<i32>,
    paused_at: Option<Time>,
    paused_by: Option<String>,
    paused_reason: Option<String>,
}

impl Row {
    fn max_running(&self) -> Option<u32> {
        self.max_running.and_then(|max| u32::try_from(max).ok())
    }

    fn rate(&self) -> Option<Rate> {
        let tasks = u32::try_from(self.rate_tasks?).ok()?;
        Some(Rate { tasks, per: span(self.rate_per_ms?) })
    }

    fn paused(&self) -> Option<Paused> {
        self.paused_at.map(|at| Paused {
            at: at.0,
            by: self.paused_by.clone().unwrap_or_default(),
            reason: self.paused_reason.clone(),
        })
    }

    fn bucket(&self) -> Bucket {
        match (self.allowance, self.allowance_at) {
            (Some(allowance), Some(at)) => {
                Bucket { allowance: millionths(allowance), updated_us: at.0.as_microsecond() }
            }
            _ => Bucket::default(),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the cast saturates, and allowances are small")]
fn millionths(allowance: f64) -> i64 {
    (allowance * 1e6) as i64
}

fn span(ms: i64) -> Span {
    Span::from(std::time::Duration::from_millis(u64::try_from(ms).unwrap_or_default()))
}

/// Everything set in a namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// What dispatch keeps to.
    pub(crate) settings: Settings,
    /// What is left of the rates; what runs, where that was asked for.
    pub(crate) usage: Usage,
    /// Whether open tasks are counted at their enqueueing.
    pub(crate) counts_open: bool,
}

/// Everything set in a namespace, and what is left of its rates.
pub(crate) async fn load(connection: &mut PgConnection, namespace: &str) -> sqlx::Result<Rules> {
    let quota = super::quota::get(connection, namespace).await?;
    let max_running = quota.as_ref().and_then(|quota| quota.max_running);
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT queue, grp, max_running, rate_tasks, rate_per_ms, allowance, allowance_at AS "allowance_at: Time", ageing_ms,
                  weight, paused_at AS "paused_at: Time", paused_by, paused_reason
           FROM orca.queues WHERE namespace = $1 ORDER BY queue, grp"#,
        namespace
    )
    .fetch_all(connection)
    .await?;
    let mut settings =
        Settings { max_running: max_running.and_then(|max| u32::try_from(max).ok()), queues: HashMap::new() };
    let mut usage = Usage::default();
    for row in rows {
        let queue: &mut QueueRules = settings.queues.entry(row.queue.clone()).or_default();
        let used: &mut QueueUsage = usage.queues.entry(row.queue.clone()).or_default();
        if row.grp.is_empty() {
            queue.settings = QueueSettings {
                max_running: row.max_running(),
                rate: row.rate(),
                ageing: row.ageing_ms.map(span),
            };
            queue.paused = row.paused();
            used.bucket = row.bucket();
        } else {
            let weight = row.weight.and_then(|weight| u32::try_from(weight).ok());
            let settings = GroupSettings {
                weight: weight.unwrap_or(GroupSettings::default().weight),
                max_running: row.max_running(),
                rate: row.rate(),
            };
            queue.groups.insert(row.grp.clone(), GroupRules { settings, paused: row.paused() });
            used.groups.insert(row.grp.clone(), GroupUsage { bucket: row.bucket(), ..GroupUsage::default() });
        }
    }
    let counts_open = quota.is_some_and(|quota| quota.max_open.is_some() || quota.max_queues.is_some());
    Ok(Rules { settings, usage, counts_open })
}

/// Adds to `usage` what runs in the namespace.
pub(crate) async fn running(
    connection: &mut PgConnection,
    namespace: &str,
    usage: &mut Usage,
) -> sqlx::Result<()> {
    let rows = sqlx::query!(
        r#"SELECT l.queue, l.grp, sum(g.open)::bigint AS "running!" FROM orca.grants g JOIN orca.lanes l ON l.id = g.lane
           WHERE l.namespace = $1 AND g.open > 0 GROUP BY 1, 2"#,
        namespace
    )
    .fetch_all(connection)
    .await?;
    for row in rows {
        let running = u64::try_from(row.running).unwrap_or_default();
        usage.running += running;
        let queue = usage.queues.entry(row.queue).or_default();
        queue.running += running;
        if !row.grp.is_empty() {
            queue.groups.entry(row.grp).or_default().running += running;
        }
    }
    Ok(())
}
