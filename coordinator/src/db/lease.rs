//! Leases: held, renewed, taken away. They are kept by grant: what a node took in one go, under one fencing token.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use orca_proto::ids::{FencingToken, NodeId, TaskId};
use orca_proto::node::LeaseRef;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Time, millis};
use crate::sabotage::{Guard, without};

/// Ends the leases of these tasks under these tokens.
pub(crate) async fn release(connection: &mut PgConnection, leases: &[LeaseRef]) -> sqlx::Result<()> {
    let tasks: Vec<Uuid> = leases.iter().map(|lease| lease.task.0).collect();
    let tokens: Vec<i64> = leases.iter().map(|lease| lease.token.0).collect();
    sqlx::query!(
        r#"UPDATE orca.grants g SET
               open = g.open - (SELECT count(*) FROM unnest(g.tasks) AS x WHERE x = ANY (r.tasks)),
               special = ARRAY(SELECT x FROM unnest(g.special) AS x WHERE NOT x = ANY (r.tasks)),
               tasks = ARRAY(SELECT x FROM unnest(g.tasks) WITH ORDINALITY AS u(x, place)
                             WHERE NOT x = ANY (r.tasks) ORDER BY place)
           FROM (SELECT u.token, array_agg(u.task) AS tasks FROM unnest($1::uuid[], $2::bigint[]) AS u(task, token)
                 GROUP BY u.token) AS r
           WHERE g.token = r.token AND g.open > 0 AND g.tasks && r.tasks"#,
        &tasks,
        &tokens
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Makes the ends of these attempts go the long way, where their leases stand: more follows from them by now.
pub(crate) async fn make_special(connection: &mut PgConnection, leases: &[LeaseRef]) -> sqlx::Result<()> {
    let tasks: Vec<Uuid> = leases.iter().map(|lease| lease.task.0).collect();
    let tokens: Vec<i64> = leases.iter().map(|lease| lease.token.0).collect();
    sqlx::query!(r#"SELECT orca.make_special($1, $2) AS "done: _""#, &tasks, &tokens)
        .execute(connection)
        .await
        .map(drop)
}

/// Whether this lease stands and is held by a node of this subject. Keeps it from being released until the transaction
/// ends.
pub(crate) async fn hold(
    connection: &mut PgConnection,
    lease: LeaseRef,
    namespace: &str,
    subject: &str,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"SELECT orca.hold($1, $2, $3, $4) AS "held!""#,
        namespace,
        subject,
        lease.task.0,
        lease.token.0
    )
    .fetch_one(connection)
    .await
}

/// A grant as its tasks see it.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) token: i64,
    pub(crate) node: NodeId,
    pub(crate) node_name: String,
    pub(crate) granted_at: Time,
}

/// The tokens of the grants that hold these tasks, which are all of these lanes. Locks nothing; but a task whose row is locked
/// stays under its token until it ends. Those that have succeeded are among them.
pub(crate) async fn tokens_of(
    connection: &mut PgConnection,
    lanes: &[i32],
    tasks: &[Uuid],
) -> sqlx::Result<BTreeMap<Uuid, i64>> {
    // To compare arrays of hundreds with one of thousands takes longer than to look through all that is running.
    let few = tasks.len() <= 200;
    let rows = sqlx::query!(
        "SELECT token, tasks FROM orca.grants WHERE lane = ANY($1) AND open > 0 AND (NOT $3 OR tasks && $2)",
        lanes,
        tasks,
        few
    )
    .fetch_all(connection)
    .await?;
    let wanted: HashSet<Uuid> = tasks.iter().copied().collect();
    let mut tokens = BTreeMap::<Uuid, i64>::new();
    for row in rows {
        for task in row.tasks.into_iter().filter(|task| wanted.contains(task)) {
            let token = tokens.entry(task).or_insert(row.token);
            *token = row.token.max(*token);
        }
    }
    Ok(tokens)
}

/// Locks the grants under these tokens, which hold these tasks; answers for each task that still is in one the grant.
///
/// All parts of a grant are locked, by their order and whatever is left in them, as everybody does who locks several: so a
/// part that is set aside meanwhile can be locked after others without anybody waiting in a circle.
pub(crate) async fn lock_holding(
    connection: &mut PgConnection,
    holding: &BTreeMap<Uuid, i64>,
) -> sqlx::Result<BTreeMap<Uuid, Held>> {
    let tokens: Vec<i64> = holding.values().copied().collect::<BTreeSet<i64>>().into_iter().collect();
    loop {
        let rows = sqlx::query!(
            r#"SELECT token, node, node_name, granted_at AS "granted_at: Time", tasks FROM orca.grants
               WHERE token = ANY($1) ORDER BY token, part FOR UPDATE"#,
            &tokens
        )
        .fetch_all(&mut *connection)
        .await?;
        let (parts, mut held) = (rows.len(), BTreeMap::new());
        for row in rows {
            let grant = Held {
                token: row.token,
                node: NodeId(row.node),
                node_name: row.node_name,
                granted_at: row.granted_at,
            };
            for task in row.tasks.into_iter().filter(|task| holding.get(task) == Some(&row.token)) {
                held.insert(task, grant.clone());
            }
        }
        // A renewal that was waited for may have set some of them aside, in a part that is not locked then.
        if held.len() == holding.len() || parts >= count_parts(connection, &tokens).await? {
            return Ok(held);
        }
    }
}

async fn count_parts(connection: &mut PgConnection, tokens: &[i64]) -> sqlx::Result<usize> {
    let count =
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM orca.grants WHERE token = ANY($1)"#, tokens)
            .fetch_one(connection)
            .await?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// Locks the heads of these lanes until the transaction ends: nothing is granted of them meanwhile.
pub(crate) async fn lock_heads(connection: &mut PgConnection, lanes: &[i32]) -> sqlx::Result<()> {
    sqlx::query!(r#"SELECT orca.lock_heads($1) AS "done: _""#, lanes).fetch_all(connection).await.map(drop)
}

/// Locks the heads of those of these lanes that nobody else has locked; answers them.
pub(crate) async fn lock_free_heads(
    connection: &mut PgConnection,
    lanes: &[i32],
) -> sqlx::Result<HashSet<i32>> {
    if lanes.is_empty() {
        return Ok(HashSet::new());
    }
    let locked = sqlx::query_scalar!(r#"SELECT orca.lock_free_heads($1) AS "lane!""#, lanes)
        .fetch_all(connection)
        .await?;
    Ok(locked.into_iter().collect())
}

/// Locks the grants under those of these tokens of which nobody else has locked any part; answers the tokens.
pub(crate) async fn lock_free_grants(
    connection: &mut PgConnection,
    tokens: &[i64],
) -> sqlx::Result<HashSet<i64>> {
    if tokens.is_empty() {
        return Ok(HashSet::new());
    }
    let locked = sqlx::query_scalar!(
        "SELECT token FROM orca.grants WHERE token = ANY($1) ORDER BY token, part FOR UPDATE SKIP LOCKED",
        tokens
    )
    .fetch_all(&mut *connection)
    .await?;
    let all = sqlx::query_scalar!("SELECT token FROM orca.grants WHERE token = ANY($1)", tokens)
        .fetch_all(connection)
        .await?;
    let count = |of: &[i64]| -> BTreeMap<i64, usize> {
        let mut parts = BTreeMap::new();
        of.iter().for_each(|token| *parts.entry(*token).or_default() += 1);
        parts
    };
    let (locked, all) = (count(&locked), count(&all));
    Ok(tokens.iter().filter(|token| locked.get(token) == all.get(token)).copied().collect())
}

/// One grant to renew.
struct Renewing {
    token: i64,
    part: i16,
    tasks: Vec<Uuid>,
    stands: bool,
}

/// Renews those of these leases that the node still holds; answers them, each with whether it is to be cancelled. What the
/// node holds by the same grants and does not name is set apart, and runs out.
pub(crate) async fn renew(
    connection: &mut PgConnection,
    node: NodeId,
    leases: &[LeaseRef],
    lease: Duration,
) -> sqlx::Result<Vec<(LeaseRef, bool)>> {
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let mut tokens: Vec<i64> = leases.iter().map(|lease| lease.token.0).collect();
    tokens.sort_unstable();
    tokens.dedup();
    let named: HashSet<LeaseRef> = leases.iter().copied().collect();
    let mut grants = sqlx::query_as!(
        Renewing,
        r#"SELECT token, part, tasks, open > 0 AND expires_at > orca.now() AS "stands!" FROM orca.grants
           WHERE node = $1 AND token = ANY($2) ORDER BY token, part FOR NO KEY UPDATE"#,
        node.0,
        &tokens
    )
    .fetch_all(&mut *connection)
    .await?;
    grants.retain(|grant| grant.stands);
    let all: Vec<Uuid> = grants.iter().flat_map(|grant| grant.tasks.iter().copied()).collect();
    let done = done(connection, &all).await?;
    let mut kept = Vec::new();
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    for grant in &grants {
        let held = grant.tasks.iter().filter(|task| !done.contains(task));
        let (mine, others): (Vec<Uuid>, Vec<Uuid>) =
            held.partition(|task| named.contains(&reference(**task, grant.token)));
        if mine.is_empty() {
            continue;
        }
        if others.is_empty() {
            whole.push((grant.token, grant.part));
        } else {
            parts.push((grant, mine.clone(), others));
        }
        kept.extend(mine.into_iter().map(|task| reference(task, grant.token)));
    }
    for (grant, mine, others) in parts {
        split(connection, grant, &mine, &others).await?;
        whole.push((grant.token, grant.part));
    }
    let (tokens, numbers): (Vec<i64>, Vec<i16>) = whole.into_iter().unzip();
    sqlx::query!(
        r#"UPDATE orca.grants g SET expires_at = orca.now() + $3::bigint * interval '1 millisecond'
           FROM unnest($1::bigint[], $2::smallint[]) AS u(token, part) WHERE g.token = u.token AND g.part = u.part"#,
        &tokens,
        &numbers,
        millis(lease)
    )
    .execute(&mut *connection)
    .await?;
    let cancelled: HashSet<LeaseRef> = cancels(connection, node).await?.into_iter().collect();
    Ok(kept.into_iter().map(|lease| (lease, cancelled.contains(&lease))).collect())
}

/// Leaves `mine` to a grant and sets `others` apart under the same token, to run out when the grant would have.
async fn split(
    connection: &mut PgConnection,
    grant: &Renewing,
    mine: &[Uuid],
    others: &[Uuid],
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"INSERT INTO orca.grants (token, part, lane, seq, upto, node, node_name, granted_at, expires_at, open, tasks, special)
           SELECT g.token, (SELECT max(p.part) + 1 FROM orca.grants p WHERE p.token = g.token), g.lane, g.seq, g.upto, g.node,
                  g.node_name, g.granted_at, g.expires_at, cardinality($3::uuid[]), $3,
                  ARRAY(SELECT x FROM unnest(g.special) AS x WHERE x = ANY ($3))
           FROM orca.grants g WHERE g.token = $1 AND g.part = $2"#,
        grant.token,
        grant.part,
        others
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        r#"UPDATE orca.grants g SET open = cardinality($3::uuid[]), tasks = $3,
               special = ARRAY(SELECT x FROM unnest(g.special) AS x WHERE x = ANY ($3))
           WHERE g.token = $1 AND g.part = $2"#,
        grant.token,
        grant.part,
        mine
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Which of these have succeeded by the plain way.
pub(crate) async fn done(connection: &mut PgConnection, tasks: &[Uuid]) -> sqlx::Result<HashSet<Uuid>> {
    if tasks.is_empty() {
        return Ok(HashSet::new());
    }
    let done = sqlx::query_scalar!(
        "SELECT d.task FROM unnest($1::uuid[]) AS u(id) JOIN orca.done d ON d.task = u.id",
        tasks
    )
    .fetch_all(connection)
    .await?;
    Ok(done.into_iter().collect())
}

/// The node's leases that are to be cancelled.
pub(crate) async fn cancels(connection: &mut PgConnection, node: NodeId) -> sqlx::Result<Vec<LeaseRef>> {
    let rows = sqlx::query!(
        r#"SELECT t.id AS "task!", g.token FROM orca.grants g CROSS JOIN LATERAL unnest(g.special) AS s(task)
           JOIN orca.tasks t ON t.id = s.task AND t.cancel_requested
           WHERE g.node = $1 AND g.open > 0 AND g.expires_at > orca.now() AND g.special <> '{}'"#,
        node.0
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| reference(row.task, row.token)).collect())
}

/// Locks all grants of a node, by their order, for whoever goes on to renew some of them and to end others.
pub(crate) async fn lock_node(connection: &mut PgConnection, node: NodeId) -> sqlx::Result<()> {
    sqlx::query!(
        r#"SELECT token, part FROM orca.grants
           WHERE token IN (SELECT token FROM orca.grants WHERE node = $1 AND open > 0)
           ORDER BY token, part FOR NO KEY UPDATE"#,
        node.0
    )
    .fetch_all(connection)
    .await
    .map(drop)
}

/// Lets the leases of a node run out now, but for those that were just renewed: its daemon was replaced. Under the locks of
/// [`lock_node`].
pub(crate) async fn expire_node(
    connection: &mut PgConnection,
    node: NodeId,
    renewed: &[LeaseRef],
) -> sqlx::Result<i64> {
    let tasks: Vec<Uuid> = renewed.iter().map(|lease| lease.task.0).collect();
    let tokens: Vec<i64> = renewed.iter().map(|lease| lease.token.0).collect();
    sqlx::query_scalar!(
        r#"WITH ended AS (UPDATE orca.grants g SET expires_at = orca.now()
                          WHERE g.node = $1 AND g.open > 0
                            AND NOT EXISTS (SELECT FROM unnest($2::uuid[], $3::bigint[]) AS kept(task, token)
                                            WHERE kept.token = g.token AND kept.task = ANY (g.tasks))
                          RETURNING g.open)
           SELECT coalesce(sum(open), 0)::bigint AS "leases!" FROM ended"#,
        node.0,
        &tasks,
        &tokens
    )
    .fetch_one(connection)
    .await
}

/// Leases that have run out, of at most `most` grants under other tokens than these. Locks nothing: the caller locks the tasks, and asks
/// [`still_expired`].
pub(crate) async fn expired(
    connection: &mut PgConnection,
    most: i64,
    passed_over: &[i64],
) -> sqlx::Result<Vec<LeaseRef>> {
    #[cfg(feature = "sabotage")]
    if without(Guard::LeaseExpiry) {
        return super::sabotage::unexpired(connection, most).await;
    }
    let rows = sqlx::query!(
        r#"SELECT x AS "task!", g.token FROM (SELECT token, tasks FROM orca.grants WHERE open > 0 AND expires_at <= orca.now()
                                              AND NOT token = ANY($2) ORDER BY expires_at LIMIT $1) AS g
           CROSS JOIN LATERAL unnest(g.tasks) AS x
           WHERE NOT EXISTS (SELECT FROM orca.done d WHERE d.task = x)"#,
        most,
        passed_over
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| reference(row.task, row.token)).collect())
}

/// Takes out of grants that have run out what does not run under them: these leases, and whatever else has ended. Answers
/// in how many there was any. Nothing should ever be left in a grant so; but it would fill its node, and keep others from
/// being reclaimed, for ever.
pub(crate) async fn drop_strays(connection: &mut PgConnection, strays: &[LeaseRef]) -> sqlx::Result<u64> {
    let holding: BTreeMap<Uuid, i64> = strays.iter().map(|lease| (lease.task.0, lease.token.0)).collect();
    lock_holding(connection, &holding).await?;
    let (tasks, tokens): (Vec<Uuid>, Vec<i64>) = holding.into_iter().unzip();
    // Counted anew, not counted down: of what was removed meanwhile nobody knows whether it was counted.
    let done = sqlx::query!(
        r#"UPDATE orca.grants g SET tasks = l.tasks, open = cardinality(l.tasks),
               special = ARRAY(SELECT x FROM unnest(g.special) AS x WHERE x = ANY (l.tasks))
           FROM (SELECT s.token, s.part, ARRAY(
                     SELECT x.task FROM unnest(s.tasks) WITH ORDINALITY AS x(task, place)
                     JOIN orca.tasks t ON t.id = x.task AND t.state = 'queued'
                     WHERE NOT EXISTS (SELECT FROM orca.done d WHERE d.task = x.task)
                       AND NOT EXISTS (SELECT FROM unnest($1::uuid[], $2::bigint[]) AS u(task, token)
                                       WHERE u.task = x.task AND u.token = s.token)
                     ORDER BY x.place) AS tasks
                 FROM orca.grants s
                 WHERE s.token = ANY ($2) AND s.open > 0 AND s.expires_at <= orca.now()) AS l
           WHERE g.token = l.token AND g.part = l.part AND g.open > cardinality(l.tasks)"#,
        &tasks,
        &tokens
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Which of these tokens' leases have run out by now, of locked tasks.
pub(crate) async fn still_expired(
    connection: &mut PgConnection,
    leases: &[LeaseRef],
) -> sqlx::Result<HashSet<LeaseRef>> {
    if without(Guard::LeaseExpiry) {
        return Ok(leases.iter().copied().collect());
    }
    let tasks: Vec<Uuid> = leases.iter().map(|lease| lease.task.0).collect();
    let tokens: Vec<i64> = leases.iter().map(|lease| lease.token.0).collect();
    let rows = sqlx::query!(
        r#"SELECT u.task AS "task!", u.token AS "token!" FROM unnest($1::uuid[], $2::bigint[]) AS u(task, token)
           JOIN orca.grants g ON g.token = u.token AND g.open > 0 AND g.expires_at <= orca.now() AND u.task = ANY (g.tasks)"#,
        &tasks,
        &tokens
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| reference(row.task, row.token)).collect())
}

pub(super) fn reference(task: Uuid, token: i64) -> LeaseRef {
    LeaseRef { task: TaskId(task), token: FencingToken(token) }
}
