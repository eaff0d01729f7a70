//! Settings: one struct per concern, from flags and environment variables, and what they are checked for.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use orca_proto::duration::Span;
use orca_proto::quantity::Bytes;
use orca_proto::token::{SigningKey, Verifier};
use sqlx::postgres::PgConnectOptions;

use crate::app::{AppSettings, StartError};
use crate::clock::Clock;

/// The most that is read of a key or password file, in bytes.
const SECRET_FILE: u64 = 64 << 10;
/// The address when none is given.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);

/// Text that must not be seen: its `Debug` prints nothing of it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` out of sight.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one who must have it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

/// All that a coordinator can be told.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Where it is reached.
    #[command(flatten)]
    pub server: ServerSettings,
    /// Where its truth is.
    #[command(flatten)]
    pub database: DatabaseSettings,
    /// Whom it believes.
    #[command(flatten)]
    pub auth: AuthSettings,
    /// Where it keeps files.
    #[command(flatten)]
    pub storage: StorageSettings,
    /// How the queue behaves.
    #[command(flatten)]
    pub queue: QueueSettings,
}

/// Where the coordinator is reached.
#[derive(Clone, Debug, Args)]
pub struct ServerSettings {
    /// Address and port to serve on. The binary binds it; with `run` the listener decides
    #[arg(long, env = "ORCA_LISTEN", default_value_t = LISTEN, value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Connections open at once; 16 to 65536. More wait
    #[arg(long, env = "ORCA_MAX_CONNECTIONS", default_value_t = 4_096, value_name = "COUNT")]
    pub max_connections: u32,
}

/// Where the coordinator's database is.
#[derive(Clone, Debug, Args)]
pub struct DatabaseSettings {
    /// The Postgres to use, such as postgres://orca@localhost/orca
    #[arg(long = "database-url", env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub url: Secret,
    /// A file with the database's password, instead of one in the URL
    #[arg(long = "database-password-file", env = "ORCA_DATABASE_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Connections in the pool; 3 to 1000
    #[arg(
        long = "database-connections",
        env = "ORCA_DATABASE_CONNECTIONS",
        default_value_t = 20,
        value_name = "COUNT"
    )]
    pub connections: u32,
}

/// Whom the coordinator believes.
#[derive(Clone, Debug, Args)]
pub struct AuthSettings {
    /// The Ed25519 key (PKCS #8 PEM) that signs tokens; only its owner may read the file. `orca token key` makes one
    #[arg(long, env = "ORCA_SIGNING_KEY_FILE", value_name = "FILE")]
    pub signing_key_file: PathBuf,
}

/// Where the coordinator keeps files.
#[derive(Clone, Debug, Args)]
pub struct StorageSettings {
    /// The directory for artifacts' bytes; replicas must share it
    #[arg(long, env = "ORCA_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// How the queue behaves.
#[derive(Clone, Debug, Args)]
pub struct QueueSettings {
    /// How long a node may be silent before its tasks go to another; 1s to 1h
    #[arg(long, env = "ORCA_LEASE", default_value = "30s", value_name = "DURATION")]
    pub lease: Span,
    /// How long ended tasks are kept, and up to an eighth of it longer (an hour at the least); 1m to 10 years
    #[arg(long, env = "ORCA_RETENTION", default_value = "168h", value_name = "DURATION")]
    pub retention: Span,
    /// Log text that is kept of one attempt; what comes after is counted and dropped; 1MiB to 1TiB
    #[arg(long, env = "ORCA_LOG_LIMIT", default_value = "128MiB", value_name = "SIZE")]
    pub log_limit: Bytes,
}

/// Settings that were checked, with the files that they name read.
pub(crate) struct Resolved {
    /// For the application.
    pub(crate) app: AppSettings,
    /// For the API.
    pub(crate) verifier: Verifier,
    /// For the server.
    pub(crate) connections: u32,
}

impl Settings {
    /// The given essentials, and defaults for all else.
    pub fn new(
        database_url: impl Into<String>,
        data_dir: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        Self {
            server: ServerSettings { listen: LISTEN, max_connections: 4_096 },
            database: DatabaseSettings {
                url: Secret::new(database_url),
                password_file: None,
                connections: 20,
            },
            auth: AuthSettings { signing_key_file: key.into() },
            storage: StorageSettings { data_dir: data_dir.into() },
            queue: QueueSettings {
                lease: Span::secs(30),
                retention: Span::secs(168 * 3_600),
                log_limit: Bytes::mib(128),
            },
        }
    }

    /// Whether the settings, by themselves, would let a coordinator start.
    ///
    /// # Errors
    /// [`StartError::Setting`], with what to do about it.
    pub fn check(&self) -> Result<(), StartError> {
        self.resolve(Clock::system()).map(drop)
    }

    /// Checks every setting and reads the files they name.
    ///
    /// # Errors
    /// [`StartError::Setting`], with what to do about it.
    pub(crate) fn resolve(&self, clock: Clock) -> Result<Resolved, StartError> {
        within("ORCA_MAX_CONNECTIONS", self.server.max_connections, 16, 65_536)?;
        within("ORCA_DATABASE_CONNECTIONS", self.database.connections, 3, 1_000)?;
        within("ORCA_LEASE", self.queue.lease, Span::secs(1), Span::secs(3_600))?;
        within("ORCA_RETENTION", self.queue.retention, Span::secs(60), Span::secs(3_660 * 86_400))?;
        within("ORCA_LOG_LIMIT", self.queue.log_limit, Bytes::mib(1), Bytes::mib(1 << 20))?;
        Ok(Resolved {
            app: AppSettings {
                database: self.database.options()?,
                connections: self.database.connections,
                data_dir: self.storage.data_dir.clone(),
                lease: self.queue.lease.get(),
                retention: self.queue.retention.get(),
                log_limit: i64::try_from(self.queue.log_limit.0).unwrap_or(i64::MAX),
                clock,
            },
            verifier: self.auth.verifier()?,
            connections: self.server.max_connections,
        })
    }
}

impl DatabaseSettings {
    fn options(&self) -> Result<PgConnectOptions, StartError> {
        let url = self.url.expose();
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(StartError::Setting(
                "DATABASE_URL must be like postgres://user@host/database".to_owned(),
            ));
        }
        // The library's message is not shown: it may quote the password.
        let options = PgConnectOptions::from_str(url).map_err(|_| {
            StartError::Setting(
                "DATABASE_URL cannot be read; it must be like postgres://user@host/database, with special characters in \
                 the password written as %XX (or use ORCA_DATABASE_PASSWORD_FILE)"
                    .to_owned(),
            )
        })?;
        match &self.password_file {
            None => Ok(options),
            Some(path) => {
                let text = read_secret("ORCA_DATABASE_PASSWORD_FILE", path, File::open(path))?;
                Ok(options.password(text.trim_end_matches(['\r', '\n'])))
            }
        }
    }
}

impl AuthSettings {
    fn verifier(&self) -> Result<Verifier, StartError> {
        const NAME: &str = "ORCA_SIGNING_KEY_FILE";
        let path = &self.signing_key_file;
        let file = File::open(path);
        if let Ok(mode) = file.as_ref().map_err(drop).and_then(|file| file.metadata().map_err(drop))
            && mode.mode() & 0o077 != 0
        {
            return Err(StartError::Setting(format!(
                "{NAME}: others can read {} (mode {:04o}), and whoever reads it can sign tokens; run: chmod 600 {0}",
                path.display(),
                mode.mode() & 0o7777,
            )));
        }
        let text = read_secret(NAME, path, file)?;
        let key = SigningKey::from_pem(&text).map_err(|error| {
            StartError::Setting(format!(
                "{NAME}: {} is {error}; make one with: orca token key --out {0}",
                path.display()
            ))
        })?;
        Ok(Verifier::new([&key]))
    }
}

fn read_secret(name: &str, path: &Path, file: std::io::Result<File>) -> Result<String, StartError> {
    let mut text = String::new();
    match file.and_then(|file| file.take(SECRET_FILE).read_to_string(&mut text)) {
        Ok(_) => Ok(text),
        Err(error) => Err(StartError::Setting(format!("{name}: cannot read {}: {error}", path.display()))),
    }
}

fn within<T: PartialOrd + fmt::Display>(name: &str, value: T, least: T, most: T) -> Result<(), StartError> {
    if (&least..=&most).contains(&&value) {
        return Ok(());
    }
    Err(StartError::Setting(format!("{name} is {value}; it must be {least} to {most}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refusal(settings: &Settings) -> String {
        settings.check().unwrap_err().to_string()
    }

    fn with_key(mode: u32) -> (tempfile::TempDir, Settings) {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key.pem");
        std::fs::write(&key, SigningKey::generate().unwrap().to_pem()).unwrap();
        std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
        let settings = Settings::new("postgres://orca@localhost/orca", dir.path(), key);
        (dir, settings)
    }

    #[test]
    fn the_defaults_are_accepted_with_a_private_key_file() {
        let (_dir, settings) = with_key(0o600);
        settings.check().unwrap();
        let (_dir, settings) = with_key(0o400);
        settings.check().unwrap();
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused_with_the_command_to_run() {
        for mode in [0o640, 0o604, 0o644] {
            let (_dir, settings) = with_key(mode);
            assert!(refusal(&settings).contains("run: chmod 600 "));
        }
    }

    #[test]
    fn what_is_out_of_range_absent_or_unreadable_is_refused_by_its_name() {
        let (_dir, good) = with_key(0o600);
        let mut settings = good.clone();
        settings.queue.lease = Span::millis(10);
        assert!(refusal(&settings).starts_with("ORCA_LEASE is 10ms"));
        let mut settings = good.clone();
        settings.database.connections = 0;
        assert!(refusal(&settings).starts_with("ORCA_DATABASE_CONNECTIONS is 0"));
        let mut settings = good.clone();
        settings.auth.signing_key_file = "/nonexistent/key".into();
        assert!(refusal(&settings).starts_with("ORCA_SIGNING_KEY_FILE: cannot read"));
        let mut settings = good;
        settings.database.url = Secret::new("mysql://x");
        assert!(refusal(&settings).starts_with("DATABASE_URL must be"));
    }

    #[test]
    fn neither_debug_nor_an_error_shows_the_database_password() {
        let (_dir, mut settings) = with_key(0o600);
        settings.database.url = Secret::new("postgres://orca:sword%zzfish@local host:bad/x");
        assert!(!format!("{settings:?}").contains("fish"));
        assert!(!refusal(&settings).contains("fish"));
    }
}
