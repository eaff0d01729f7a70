//! Throw-away databases: a private cluster from this machine's Postgres, or a container where there is none.

mod cluster;
mod container;

use std::path::PathBuf;

use anyhow::Result;

use crate::engine::Engine;
use crate::{host, stage};

pub(crate) use cluster::Durability;

/// A running database that goes away with this value.
pub(crate) enum Postgres {
    /// A private cluster; stopped and removed when dropped.
    Cluster(cluster::Cluster),
    /// A container; removed by [`Postgres::stop`].
    Container(container::Container),
}

impl Postgres {
    /// Starts a database: from this machine's binaries; else from those that apt installs; else, with an engine, in a
    /// container of the image `orca-postgres`.
    ///
    /// # Errors
    /// If none of them works.
    pub(crate) async fn start(durability: Durability, engine: Option<&Engine>) -> Result<Self> {
        if cluster::binaries().is_none() {
            match host::install(&["postgresql"], "a throw-away Postgres").await {
                Ok(()) => {}
                Err(error) => match engine {
                    Some(engine) => {
                        stage::note(&format!("{error:#}; using a container instead"));
                        return container::Container::start(engine).await.map(Self::Container);
                    }
                    None => return Err(error),
                },
            }
        }
        cluster::Cluster::start(durability).await.map(Self::Cluster)
    }

    /// The address of its administrator's database, with the password.
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Cluster(cluster) => cluster.url(),
            Self::Container(container) => container.url(),
        }
    }

    /// Stops the server without letting anything finish and starts it again. Blocks.
    ///
    /// # Errors
    /// If it does not come up again, or runs in a container.
    pub(crate) fn restart_immediately(&mut self) -> Result<()> {
        match self {
            Self::Cluster(cluster) => cluster.restart_immediately(),
            Self::Container(_) => anyhow::bail!("a Postgres in a container cannot be restarted in place"),
        }
    }

    /// Its `psql`, where it came with one.
    pub(crate) fn psql(&self) -> Option<PathBuf> {
        cluster::binaries().map(|directory| directory.join("psql")).filter(|path| path.is_file())
    }

    /// Stops and removes it.
    ///
    /// # Errors
    /// If something of it stays.
    pub(crate) async fn stop(self) -> Result<()> {
        match self {
            Self::Cluster(cluster) => {
                drop(cluster);
                Ok(())
            }
            Self::Container(container) => container.remove().await,
        }
    }
}
