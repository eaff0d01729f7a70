//! Where Postgres's programs are: on the machine, or downloaded.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgresql_embedded::{PostgreSQL, Settings, VersionReq};
use tokio::process::Command;
use tokio::time::timeout;

use crate::error::{Exit, Failure};

/// The oldest major version that will do.
pub(super) const OLDEST: u32 = 14;
/// The major version that is downloaded where the data names no other.
const DOWNLOADED: u32 = 17;
/// Where it is downloaded from.
const RELEASES: &str = "https://github.com/theseus-rs/postgresql-binaries";
/// How long a program may take to say its version.
const ASK: Duration = Duration::from_secs(10);
/// How long a download may take.
const DOWNLOAD: Duration = Duration::from_secs(600);

/// A directory that holds `postgres` and `initdb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    /// The directory.
    pub(super) directory: PathBuf,
    /// The major version.
    pub(super) major: u32,
    /// The whole version.
    pub(super) version: String,
}

impl Binaries {
    /// One of the programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The machine's own: of major version `wanted`, or the first that is not too old. `PATH` goes first, then the
    /// distribution's directories, newest first.
    pub(super) async fn on_this_machine(wanted: Option<u32>) -> Option<Self> {
        for directory in candidates() {
            let Some(found) = Self::in_directory(&directory).await else { continue };
            if wanted.map_or(found.major >= OLDEST, |wanted| found.major == wanted) {
                return Some(found);
            }
        }
        None
    }

    async fn in_directory(directory: &Path) -> Option<Self> {
        if !directory.join("postgres").is_file() || !directory.join("initdb").is_file() {
            return None;
        }
        let mut command = Command::new(directory.join("postgres"));
        let asked = command.arg("--version").kill_on_drop(true).output();
        let said = timeout(ASK, asked).await.ok()?.ok()?;
        let (major, version) = parse_version(&String::from_utf8_lossy(&said.stdout))?;
        Some(Self { directory: directory.to_owned(), major, version })
    }

    /// Downloads Postgres below `place`, unless it was before.
    ///
    /// # Errors
    /// A [`Failure`] that says what else could be done.
    pub(super) async fn downloaded(place: &Path, wanted: Option<u32>) -> Result<Self, Failure> {
        let failed = |why: String| {
            Failure::new(Exit::Other, "there is no Postgres here, and it could not be downloaded")
                .because(why)
                .hint("install it (Debian: apt-get install postgresql), or set DATABASE_URL")
        };
        let major = wanted.unwrap_or(DOWNLOADED);
        let version = VersionReq::parse(&format!("={major}")).map_err(|error| failed(error.to_string()))?;
        std::fs::create_dir_all(place)
            .map_err(|error| Failure::file(format!("cannot make {}", place.display()), &error))?;
        // Only the download is wanted: the cluster itself is made elsewhere, under another account and behind a socket.
        // A data directory that looks initialised keeps the crate from making one.
        let scratch =
            tempfile::tempdir().map_err(|error| Failure::file("cannot make a directory", &error))?;
        std::fs::write(scratch.path().join("postgresql.conf"), "")
            .map_err(|error| Failure::file("cannot write a file", &error))?;
        // Every field by name: the crate's defaults would leave two temporary directories behind.
        let settings = Settings {
            releases_url: RELEASES.to_owned(),
            version,
            installation_dir: place.to_owned(),
            password_file: scratch.path().join("password"),
            data_dir: scratch.path().to_owned(),
            host: String::new(),
            port: 0,
            username: String::new(),
            password: String::new(),
            temporary: false,
            timeout: None,
            configuration: HashMap::new(),
            trust_installation_dir: false,
            socket_dir: None,
        };
        let mut postgres = PostgreSQL::new(settings);
        match timeout(DOWNLOAD, Box::pin(postgres.setup())).await {
            Err(_) => return Err(failed("the download took longer than ten minutes".to_owned())),
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Ok(Ok(())) => {}
        }
        let directory = postgres.settings().binary_dir();
        let found = Self::in_directory(&directory).await;
        found.ok_or_else(|| failed(format!("{} does not hold it", directory.display())))
    }
}

/// Directories to look in, best first.
fn candidates() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = std::env::split_paths(&path).filter(|path| path.is_absolute()).collect();
    for (parent, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")] {
        let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let major = name.strip_prefix(prefix)?.parse().ok()?;
                Some((major, entry.path().join("bin")))
            })
            .collect();
        versions.sort_unstable_by_key(|(major, _)| std::cmp::Reverse(*major));
        found.extend(versions.into_iter().map(|(_, path)| path));
    }
    found
}

/// `postgres (PostgreSQL) 15.14 (Debian …)` → 15 and `15.14`.
fn parse_version(said: &str) -> Option<(u32, String)> {
    let version = said.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let major = version.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()?;
    Some((major, version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_postgres_writes_them() {
        let debian = "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n";
        assert_eq!(parse_version(debian), Some((15, "15.14".to_owned())));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1"), Some((18, "18beta1".to_owned())));
        assert_eq!(parse_version("something else"), None);
    }
}
