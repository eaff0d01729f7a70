//! Credentials for registries, from a file as `docker login` writes it. Credential helpers are programs of their own and are
//! not run.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use orca_proto::image::DEFAULT_HOST;
use serde::Deserialize;

use crate::NodeError;

/// No such file is larger.
const LARGEST: u64 = 1 << 20;

/// What to show which registry. Never printed.
#[derive(Clone, Default)]
pub(super) struct RegistryAuth(HashMap<String, DockerCredentials>);

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The parts of Docker's `config.json` that name credentials; there is more in such a file.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    auths: HashMap<String, Entry>,
    #[serde(rename = "credsStore")]
    creds_store: Option<String>,
    #[serde(rename = "credHelpers")]
    cred_helpers: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl RegistryAuth {
    /// Reads the file.
    ///
    /// # Errors
    /// [`NodeError`] if it cannot be read, others can read it, or it is not what `docker login` writes.
    pub(super) fn read(path: &Path) -> Result<Self, NodeError> {
        let wrong = |why: &str| NodeError::Setting {
            setting: "--registry-auth",
            why: format!("names {}, which {why}", path.display()),
        };
        let file = std::fs::File::open(path).map_err(NodeError::io("open", path))?;
        let mode = file.metadata().map_err(NodeError::io("look at", path))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(wrong(&format!(
                "others can read (its mode is {:04o}); chmod 600 it, for it holds secrets",
                mode & 0o777
            )));
        }
        let mut text = String::new();
        file.take(LARGEST).read_to_string(&mut text).map_err(NodeError::io("read", path))?;
        let auth = Self::parse(&text).map_err(|why| wrong(&why))?;
        tracing::info!(registries = ?auth, "credentials are known");
        Ok(auth)
    }

    /// Never says what is in the text: a message of the parser might.
    fn parse(text: &str) -> Result<Self, String> {
        let config: Config = serde_json::from_str(text).map_err(|error| {
            format!("is not a Docker config.json (line {}, column {})", error.line(), error.column())
        })?;
        let mut known = HashMap::new();
        for (registry, entry) in config.auths {
            let host = host(&registry);
            let credentials = entry
                .credentials()
                .map_err(|why| format!("{why} for {registry}; `docker login` writes it anew"))?;
            match credentials {
                Some(credentials) => {
                    let credentials = DockerCredentials { serveraddress: Some(registry), ..credentials };
                    known.insert(host, credentials);
                }
                None => tracing::warn!(
                    registry,
                    "no credentials are written for this registry; a credential helper may hold them, which nodes do not run"
                ),
            }
        }
        if known.is_empty() && (config.creds_store.is_some() || !config.cred_helpers.is_empty()) {
            return Err(
                "names a credential helper and no credentials; nodes run no helpers, so write `auths` \
                        with `auth` into a file of the node's own"
                    .to_owned(),
            );
        }
        Ok(Self(known))
    }

    /// What to show the registry of that name, if anything.
    pub(super) fn of(&self, host: &str) -> Option<DockerCredentials> {
        self.0.get(host).cloned()
    }
}

impl Entry {
    fn credentials(self) -> Result<Option<DockerCredentials>, &'static str> {
        let Self { auth, mut username, mut password, identitytoken, registrytoken } = self;
        if let Some(auth) = auth.filter(|auth| !auth.is_empty()) {
            let decoded = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let decoded = decoded.ok_or("holds an `auth` that is not base64")?;
            let (name, word) = decoded.split_once(':').ok_or("holds an `auth` without a colon")?;
            username = Some(name.to_owned());
            // Docker pads it.
            password = Some(word.trim_end_matches('\0').to_owned());
        }
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (username, password) = (filled(username), filled(password));
        let (identitytoken, registrytoken) = (filled(identitytoken), filled(registrytoken));
        if password.is_none() && identitytoken.is_none() && registrytoken.is_none() {
            return Ok(None);
        }
        Ok(Some(DockerCredentials {
            username,
            password,
            identitytoken,
            registrytoken,
            ..DockerCredentials::default()
        }))
    }
}

/// `docker login` writes some registries as addresses.
fn host(registry: &str) -> String {
    let rest = registry.split_once("://").map_or(registry, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    if matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io") {
        DEFAULT_HOST.to_owned()
    } else {
        host
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const TEXT: &str = r#"{
        "auths": {
            "https://index.docker.io/v1/": { "auth": "bWU6c2VjcmV0OndvcmQ=" },
            "Registry.example.com:5000": { "username": "you", "password": "pass" },
            "token.example.com": { "identitytoken": "t" },
            "helped.example.com": {}
        },
        "credsStore": "secretservice", "psFormat": "table"
    }"#;

    #[test]
    fn credentials_are_found_by_the_registry_of_the_reference() {
        let auth = RegistryAuth::parse(TEXT).unwrap();
        let hub = auth.of("docker.io").unwrap();
        assert_eq!((hub.username.as_deref(), hub.password.as_deref()), (Some("me"), Some("secret:word")));
        assert_eq!(auth.of("registry.example.com:5000").unwrap().username.as_deref(), Some("you"));
        assert_eq!(auth.of("token.example.com").unwrap().identitytoken.as_deref(), Some("t"));
        assert!(auth.of("helped.example.com").is_none() && auth.of("registry.example.com").is_none());
    }

    #[test]
    fn nothing_of_a_secret_is_ever_printed() {
        let auth = RegistryAuth::parse(TEXT).unwrap();
        let shown = format!("{auth:?}");
        assert!(
            shown.contains("docker.io") && !shown.contains("secret") && !shown.contains("pass"),
            "{shown}"
        );
        for bad in [r#"{"auths": {"x": {"auth": "!hidden"}}}"#, r#"{"auths": "hidden"}"#, "hidden"] {
            let why = RegistryAuth::parse(bad).unwrap_err();
            assert!(!why.contains("hidden"), "{why}");
        }
        assert!(RegistryAuth::parse(r#"{"credsStore": "pass"}"#).unwrap_err().contains("helper"));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, TEXT).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let why = RegistryAuth::read(&path).unwrap_err().to_string();
        assert!(why.contains("chmod 600"), "{why}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(RegistryAuth::read(&path).unwrap().of("docker.io").is_some());
    }
}
