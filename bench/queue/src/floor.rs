//! The floor: what the server itself can do with a table of payloads and SQL in batches. No queue can be faster that does the
//! same work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio_postgres::Client;

use crate::database::{Cost, Database};
use crate::load;
use crate::payload::Payload;

/// Connections tried; the best counts.
const CONNECTIONS: [usize; 3] = [1, 2, 4];
/// Rows per statement.
const BATCH: usize = 1_000;

const INSERT: &str = "INSERT INTO floor (payload) SELECT unnest($1::text[])";
/// An array is computed once whatever the planner makes of the rest, and leads to the rows by the index.
const TAKE: &str = "DELETE FROM floor WHERE id = ANY (ARRAY
    (SELECT id FROM floor ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED)) RETURNING id, payload";

async fn set_up(database: &Database) -> Result<()> {
    let table = "DROP TABLE IF EXISTS floor;
                 CREATE TABLE floor (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload text NOT NULL)";
    database.connect().await?.batch_execute(table).await?;
    Ok(())
}

async fn connections(database: &Database, count: usize) -> Result<Arc<Vec<Client>>> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(database.connect().await?);
    }
    Ok(Arc::new(clients))
}

async fn insert(database: &Database, count: usize, connections_used: usize) -> Result<f64> {
    let clients = connections(database, connections_used).await?;
    let mut statements = Vec::new();
    for client in clients.iter() {
        statements.push(client.prepare(INSERT).await?);
    }
    let statements = Arc::new(statements);
    let rows = Arc::new(vec![Payload::json().to_string(); BATCH]);
    load::in_batches(count, connections_used, BATCH, move |producer| {
        let (clients, statements, rows) = (Arc::clone(&clients), Arc::clone(&statements), Arc::clone(&rows));
        async move {
            if let (Some(client), Some(statement)) = (clients.get(producer), statements.get(producer)) {
                client.execute(statement, &[&*rows]).await?;
            }
            Ok(())
        }
    })
    .await
}

/// Takes rows on `connections_used` connections until none is left; rows per second.
async fn take(database: &Database, count: usize, connections_used: usize) -> Result<f64> {
    let clients = connections(database, connections_used).await?;
    let begun = Instant::now();
    let mut work = tokio::task::JoinSet::new();
    for index in 0..connections_used {
        let clients = Arc::clone(&clients);
        work.spawn(async move {
            let Some(client) = clients.get(index) else { return anyhow::Ok(()) };
            let statement = client.prepare(TAKE).await?;
            while !client.query(&statement, &[]).await?.is_empty() {}
            Ok(())
        });
    }
    while let Some(done) = work.join_next().await {
        done??;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

/// Rows per second, inserted in batches: the best of 1, 2 and 4 connections.
///
/// # Errors
/// If a statement fails.
pub(crate) async fn enqueue_bulk(database: &Database, count: usize) -> Result<f64> {
    let mut best: f64 = 0.0;
    for connections in CONNECTIONS {
        set_up(database).await?;
        best = best.max(insert(database, count, connections).await?);
    }
    Ok(best)
}

/// Rows per second, claimed and deleted in batches: the best of 1, 2 and 4 connections.
///
/// # Errors
/// If a statement fails.
pub(crate) async fn drain(database: &Database, count: usize) -> Result<(f64, Cost)> {
    let mut best: Option<(f64, Cost)> = None;
    for connections in CONNECTIONS {
        let count = load(database, count).await?;
        let mark = database.mark().await?;
        let rate = take(database, count, connections).await?;
        let cost = database.cost(mark).await?.per(count);
        if best.is_none_or(|(before, _)| rate > before) {
            best = Some((rate, cost));
        }
    }
    best.ok_or_else(|| anyhow::anyhow!("nothing was measured"))
}

/// An empty table filled with `count` rows, rounded up to whole batches.
async fn load(database: &Database, count: usize) -> Result<usize> {
    set_up(database).await?;
    insert(database, count, 2).await?;
    database.settle().await?;
    Ok(count.div_ceil(BATCH) * BATCH)
}

/// Rows per second, inserted one by one on `clients` connections.
///
/// # Errors
/// If a statement fails.
pub(crate) async fn enqueue_single(database: &Database, clients: usize, time: Duration) -> Result<f64> {
    set_up(database).await?;
    let connections = connections(database, clients).await?;
    let mut statements = Vec::new();
    for client in connections.iter() {
        statements.push(client.prepare("INSERT INTO floor (payload) VALUES ($1)").await?);
    }
    let statements = Arc::new(statements);
    let payload = Arc::new(Payload::json().to_string());
    load::one_at_a_time(clients, time, move |index| {
        let (connections, statements, payload) =
            (Arc::clone(&connections), Arc::clone(&statements), Arc::clone(&payload));
        async move {
            if let (Some(client), Some(statement)) = (connections.get(index), statements.get(index)) {
                client.execute(statement, &[&*payload]).await?;
            }
            Ok(())
        }
    })
    .await
}

/// For rounds that insert and take on one table again and again.
pub(crate) struct Rounds<'a>(&'a Database);

impl<'a> Rounds<'a> {
    /// On an empty table.
    ///
    /// # Errors
    /// If a statement fails.
    pub(crate) async fn new(database: &'a Database) -> Result<Self> {
        set_up(database).await?;
        Ok(Self(database))
    }

    /// Inserts and takes `count` rows; rows taken per second.
    ///
    /// # Errors
    /// If a statement fails.
    pub(crate) async fn round(&self, count: usize) -> Result<f64> {
        insert(self.0, count, 2).await?;
        take(self.0, count, 2).await
    }
}
