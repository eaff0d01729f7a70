//! A database for each run, on the one server; and what a run cost that server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio_postgres::{Client, NoTls};

/// How long the sessions of a system that was stopped have to end by themselves, and after they were told to.
const LEAVE: Duration = Duration::from_millis(500);
const GONE: Duration = Duration::from_secs(20);

/// The server, by the address of its administrator's database.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    url: String,
}

/// A fresh database. [`Database::remove`] drops it; the server goes away after the run in any case.
#[derive(Debug)]
pub(crate) struct Database {
    server: Server,
    name: String,
}

/// What the server had done up to a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    wal: f64,
    commits: i64,
    writes: i64,
}

/// What a run cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Bytes of write-ahead log.
    pub(crate) wal: f64,
    /// Transactions committed.
    pub(crate) commits: f64,
    /// Rows inserted, updated and deleted.
    pub(crate) writes: f64,
    /// Dead rows left behind, as Postgres estimates them.
    pub(crate) dead: f64,
}

impl Cost {
    /// For each of `tasks`; the dead rows stay a total.
    pub(crate) fn per(self, tasks: usize) -> Self {
        let tasks = tasks as f64;
        Self {
            wal: self.wal / tasks,
            commits: self.commits / tasks,
            writes: self.writes / tasks,
            dead: self.dead,
        }
    }
}

impl Server {
    /// The server at `url`.
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    /// Its settings that decide about speed, and its version, for the reader.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) async fn settings(&self) -> Result<String> {
        let admin = connect(&self.url).await?;
        let version: String = admin.query_one("SELECT version()", &[]).await?.get(0);
        let names = "fsync,synchronous_commit,full_page_writes,wal_level,shared_buffers,max_wal_size,\
                     checkpoint_timeout,wal_buffers,autovacuum,jit,max_connections";
        let rows = admin
            .query(
                "SELECT name, current_setting(name) FROM pg_settings
                 WHERE name = ANY (string_to_array($1, ',')) ORDER BY name",
                &[&names],
            )
            .await?;
        let settings: Vec<String> =
            rows.iter().map(|row| format!("{} = {}", row.get::<_, &str>(0), row.get::<_, &str>(1))).collect();
        Ok(format!("{version}\n  {}", settings.join(", ")))
    }

    /// A new database of that name; one that an earlier run left there is dropped first.
    ///
    /// # Errors
    /// If the server refuses.
    pub(crate) async fn create(&self, name: &str) -> Result<Database> {
        let admin = connect(&self.url).await?;
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        Ok(Database { server: self.clone(), name: name.to_owned() })
    }
}

impl Database {
    /// Its address.
    pub(crate) fn url(&self) -> String {
        let base = self.server.url.rsplit_once('/').map_or(self.server.url.as_str(), |(base, _)| base);
        format!("{base}/{}", self.name)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A connection to it.
    ///
    /// # Errors
    /// If the server refuses.
    pub(crate) async fn connect(&self) -> Result<Client> {
        connect(&self.url()).await
    }

    /// Puts what was loaded into the state that time would bring by itself: vacuumed, analysed, on disk.
    ///
    /// # Errors
    /// If the server refuses.
    pub(crate) async fn settle(&self) -> Result<()> {
        let connection = self.connect().await?;
        for statement in ["VACUUM (ANALYZE)", "CHECKPOINT"] {
            connection.batch_execute(statement).await.with_context(|| format!("{statement} failed"))?;
        }
        Ok(())
    }

    /// What the server has done up to now. Other sessions must be gone for their part to be counted.
    ///
    /// # Errors
    /// If the server refuses.
    pub(crate) async fn mark(&self) -> Result<Mark> {
        let row = self
            .connect()
            .await?
            .query_one(
                "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8, xact_commit,
                        tup_inserted + tup_updated + tup_deleted
                 FROM pg_stat_database WHERE datname = current_database()",
                &[],
            )
            .await?;
        Ok(Mark { wal: row.get(0), commits: row.get(1), writes: row.get(2) })
    }

    /// What was done since `mark`, once all sessions of the measured system have ended: only then are their counts in.
    ///
    /// # Errors
    /// If they do not end, or the server refuses.
    pub(crate) async fn cost(&self, mark: Mark) -> Result<Cost> {
        let connection = self.connect().await?;
        // Some of the peers leave a session behind for a while; one that is ended hands in its counts as well.
        let others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                      WHERE datname = current_database() AND pid <> pg_backend_pid()
                        AND backend_type = 'client backend'";
        tokio::time::sleep(LEAVE).await;
        let deadline = Instant::now() + GONE;
        while connection.query_one(others, &[]).await?.get::<_, i64>(0) > 0 {
            ensure!(Instant::now() < deadline, "sessions of the measured system are still there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let now = self.mark().await?;
        let dead: i64 = connection
            .query_one("SELECT coalesce(sum(n_dead_tup), 0)::int8 FROM pg_stat_user_tables", &[])
            .await?
            .get(0);
        Ok(Cost {
            wal: now.wal - mark.wal,
            commits: (now.commits - mark.commits) as f64,
            writes: (now.writes - mark.writes) as f64,
            dead: dead as f64,
        })
    }

    /// Drops it.
    ///
    /// # Errors
    /// If the server refuses.
    pub(crate) async fn remove(self) -> Result<()> {
        let admin = connect(&self.server.url).await?;
        admin.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await?;
        Ok(())
    }
}

/// A connection to the database at `url`.
async fn connect(url: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.context("cannot connect to Postgres")?;
    tokio::spawn(async move {
        // Ends with the client; an error shows in the client's own calls.
        let _ = connection.await;
    });
    Ok(client)
}
