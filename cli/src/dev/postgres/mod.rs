//! Which Postgres `orca dev` uses: the one that `DATABASE_URL` names, else a private cluster run by the machine's own
//! binaries, else one by downloaded binaries.

mod account;
mod binaries;
mod cluster;
mod socket_dir;
mod supervised;

use std::path::Path;

pub(crate) use self::supervised::{SUPERVISED, SupervisedArgs};

use self::account::Account;
use self::binaries::Binaries;
use self::cluster::Cluster;
use crate::error::Failure;
use crate::output::Output;

/// A database that is ready, or a server that somebody else runs.
#[derive(Debug)]
pub(super) struct Database {
    /// How to connect. May hold a password.
    pub(super) url: String,
    /// What it is, for people; without secrets.
    pub(super) description: String,
    cluster: Option<Cluster>,
}

impl Database {
    /// The database at `url`, which somebody else runs.
    pub(super) fn existing(url: &str) -> Self {
        Self { url: url.to_owned(), description: describe(url), cluster: None }
    }

    /// Starts a private cluster in `data`; downloads Postgres below `downloads` where the machine has none.
    ///
    /// # Errors
    /// A [`Failure`] that says what could be done instead.
    pub(super) async fn start(data: &Path, downloads: &Path, output: Output) -> Result<Self, Failure> {
        let account = Account::for_postgres()?;
        let wanted = cluster::version_of(data);
        let binaries = match Binaries::on_this_machine(wanted).await {
            Some(binaries) => binaries,
            None => {
                output.remark(&match wanted {
                    Some(major) => {
                        format!("the data is Postgres {major}'s, which is not here: downloading it")
                    }
                    None => {
                        format!("no Postgres {} or newer on this machine: downloading one", binaries::OLDEST)
                    }
                });
                Binaries::downloaded(downloads, wanted).await?
            }
        };
        let cluster = Cluster::start(data, &binaries, account.as_ref()).await?;
        let description =
            format!("Postgres {}, private ({})", binaries.version, binaries.directory.display());
        Ok(Self { url: cluster.url(), description, cluster: Some(cluster) })
    }

    /// Whether it is ours to stop and forget.
    pub(super) fn is_private(&self) -> bool {
        self.cluster.is_some()
    }

    /// Resolves only if a private server ends by itself; says how.
    pub(super) async fn ended(&mut self) -> String {
        match &mut self.cluster {
            Some(cluster) => match cluster.ended().await {
                Ok(status) => format!("Postgres ended by itself ({status})"),
                Err(error) => format!("Postgres cannot be watched: {error}"),
            },
            None => std::future::pending().await,
        }
    }

    /// Stops it, if it is ours.
    pub(super) async fn stop(self) {
        if let Some(cluster) = self.cluster {
            cluster.stop().await;
        }
    }
}

/// A database's address without user, password and options.
fn describe(url: &str) -> String {
    match reqwest::Url::parse(url) {
        Ok(url) => {
            let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
            format!("DATABASE_URL ({}{port}{})", url.host_str().unwrap_or("local"), url.path())
        }
        Err(_) => "DATABASE_URL".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_holds_no_password() {
        let text = describe("postgres://me:s3cret@db.example:5433/orca?password=s3cret");
        assert_eq!(text, "DATABASE_URL (db.example:5433/orca)");
        assert_eq!(describe("s3cret"), "DATABASE_URL");
    }
}
