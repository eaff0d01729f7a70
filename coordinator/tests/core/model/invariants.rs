//! What must be true of the rows, whatever the public reads say.

use super::super::support::SOON;
use super::record::Known;
use super::world::{LIMIT, World};
use orca_proto::spec::UniqueWhile;
use std::collections::HashMap;

/// Each line of the answer is something that must not be.
const BROKEN: &str = "
WITH held AS (
    SELECT x AS task, g.token FROM orca.grants g JOIN orca.lanes l ON l.id = g.lane CROSS JOIN LATERAL unnest(g.tasks) AS x
    WHERE l.namespace = $1 AND g.open > 0 AND NOT EXISTS (SELECT FROM orca.done d WHERE d.task = x)),
line AS (
    SELECT u.task FROM orca.lanes l
    LEFT JOIN LATERAL (SELECT g.seq, g.upto FROM orca.grants g WHERE g.lane = l.id ORDER BY g.seq DESC, g.upto DESC LIMIT 1)
        head ON true
    JOIN orca.segments s ON s.lane = l.id CROSS JOIN LATERAL unnest(s.tasks) WITH ORDINALITY AS u(task, place)
    WHERE l.namespace = $1
      AND (head.seq IS NULL OR s.seq > head.seq OR (s.seq = head.seq AND u.place > head.upto)))
SELECT '2: leases of a task never overlap: ' || task FROM held GROUP BY task HAVING count(*) > 1
UNION ALL
SELECT '8: an expired lease is reclaimed within one sweep: ' || g.token FROM orca.grants g JOIN orca.lanes l ON l.id = g.lane
WHERE l.namespace = $1 AND g.open > 0 AND g.expires_at <= to_timestamp($2::bigint / 1000.0)
UNION ALL
SELECT '8: the limit of a node is never exceeded: ' || n.name FROM orca.nodes n JOIN orca.grants g ON g.node = n.id
WHERE n.namespace = $1 GROUP BY n.id HAVING sum(g.open) > n.slots
UNION ALL
SELECT '8: the limit of a queue is never exceeded' FROM orca.grants g JOIN orca.lanes l ON l.id = g.lane
WHERE l.namespace = $1 AND l.queue = 'other' HAVING sum(g.open) > $3
UNION ALL
SELECT '1: a grant counts what it holds: ' || g.token FROM orca.grants g JOIN orca.lanes l ON l.id = g.lane
WHERE l.namespace = $1
  AND g.open <> (SELECT count(*) FROM unnest(g.tasks) AS x WHERE NOT EXISTS (SELECT FROM orca.done d WHERE d.task = x))
UNION ALL
SELECT '1: a ready task stands in line once: ' || t.id FROM orca.task_now t
WHERE t.namespace = $1 AND t.state = 'ready' AND 1 <> (SELECT count(*) FROM line WHERE line.task = t.id)
UNION ALL
SELECT '2: what is granted has left the line: ' || line.task FROM line
WHERE EXISTS (SELECT FROM held WHERE held.task = line.task) OR EXISTS (SELECT FROM orca.done d WHERE d.task = line.task)
UNION ALL
SELECT '4: a task ends once: ' || t.id FROM orca.tasks t JOIN orca.done d ON d.task = t.id
WHERE t.namespace = $1 AND t.state <> 'queued'
UNION ALL
SELECT '6: a blocked task counts what it waits for: ' || t.id FROM orca.tasks t
WHERE t.namespace = $1 AND t.state = 'blocked'
  AND t.open_dependencies <> (SELECT count(*) FROM orca.dependencies d JOIN orca.task_now n ON n.id = d.needs
                              WHERE d.task = t.id AND d.open
                                AND n.state NOT IN ('succeeded', 'failed', 'cancelled', 'expired', 'skipped'))
UNION ALL
SELECT '1: a task counts what is open under it: ' || t.id FROM orca.task_now t
WHERE t.namespace = $1 AND t.state IN ('running', 'waiting')
  AND t.open_children <> (SELECT count(*) FROM orca.task_now c WHERE c.parent = t.id
                            AND c.state NOT IN ('succeeded', 'failed', 'cancelled', 'expired', 'skipped'))
UNION ALL
SELECT '7: a key is held by an open task: ' || k.key FROM orca.unique_keys k JOIN orca.task_now t ON t.id = k.task
WHERE k.namespace = $1 AND t.state IN ('succeeded', 'failed', 'cancelled', 'expired', 'skipped')
";

/// Each line is something that a drain must not leave.
const LEFT: &str = "
SELECT 'a lease' FROM orca.grants g JOIN orca.lanes l ON l.id = g.lane WHERE l.namespace = $1 AND g.open > 0
UNION ALL SELECT 'a unique key' FROM orca.unique_keys WHERE namespace = $1
UNION ALL SELECT 'an end that nobody settled' FROM orca.unsettled u JOIN orca.tasks t ON t.id = u.task WHERE t.namespace = $1
";

/// Fails by the name of what does not hold.
pub(crate) async fn hold(world: &mut World) {
    let (namespace, now) = (world.namespace.clone(), world.now());
    let most = if world.limited { LIMIT } else { i64::MAX };
    let broken: Vec<String> = sqlx::query_scalar(BROKEN)
        .bind(namespace)
        .bind(now)
        .bind(most)
        .fetch_all(&mut world.connection)
        .await
        .unwrap();
    assert!(broken.is_empty(), "{broken:#?}");
    let mut holders: HashMap<&str, usize> = HashMap::new();
    for (at, task) in world.tasks.iter().enumerate().filter(|(_, task)| holds_key(task)) {
        let key = task.spec.unique.as_ref().map_or("", |unique| &unique.key);
        let before = holders.insert(key, at);
        assert!(before.is_none(), "7: at most one open task per unique key: {before:?} and {at} have {key}");
    }
}

/// Whether a task keeps others of its unique key out.
pub(crate) fn holds_key(task: &Known) -> bool {
    task.ended.is_none()
        && task.spec.unique.as_ref().is_some_and(|unique| match unique.r#while {
            UniqueWhile::Open => true,
            UniqueWhile::Queued => task.tokens.is_empty(),
        })
}

/// Fails if a drain left something. What ended may still be on its way to be settled.
pub(crate) async fn nothing_is_left(world: &mut World) {
    let limit = std::time::Instant::now() + SOON;
    loop {
        let left: Vec<String> = sqlx::query_scalar(LEFT)
            .bind(world.namespace.clone())
            .fetch_all(&mut world.connection)
            .await
            .unwrap();
        if left.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < limit, "1: after a drain there is still {left:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
