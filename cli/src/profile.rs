//! Saved profiles: for each name an address and a token, in `$XDG_CONFIG_HOME/orca/config.toml` (mode 0600).

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Exit, Failure};
use crate::secret_file::{self, Existing};

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profiles {
    /// The name of the one that is used unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// By name.
    #[serde(default)]
    pub(crate) profiles: BTreeMap<String, Profile>,
}

/// One coordinator.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// Its address.
    pub(crate) url: String,
    /// The token for it.
    pub(crate) token: String,
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Where the profiles are: under `$XDG_CONFIG_HOME`, else `~/.config`. `None` where neither is set.
pub(crate) fn path() -> Option<PathBuf> {
    let base =
        directory_of("XDG_CONFIG_HOME").or_else(|| directory_of("HOME").map(|home| home.join(".config")))?;
    Some(base.join("orca/config.toml"))
}

/// The absolute directory that an environment variable names.
pub(crate) fn directory_of(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

impl Profiles {
    /// The saved profiles; none where no file is.
    ///
    /// # Errors
    /// A [`Failure`] if the file cannot be read, or others can read it.
    pub(crate) fn load() -> Result<Self, Failure> {
        path().map_or_else(|| Ok(Self::default()), |path| Self::load_from(&path))
    }

    fn load_from(path: &Path) -> Result<Self, Failure> {
        if std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(Self::default());
        }
        let text = secret_file::read(path)?;
        toml::from_str(&text).map_err(|error| {
            // Not the library's rendering: that quotes lines, and a line may be a token.
            let place = error.span().map_or_else(String::new, |span| {
                let line = text.get(..span.start).map_or(0, |before| before.matches('\n').count()) + 1;
                format!("line {line}: ")
            });
            Failure::invalid(format!("{} is not valid", path.display()))
                .because(format!("{place}{}", error.message()))
                .hint("mend or remove the file; `orca login` writes a new one")
        })
    }

    /// Saves the profiles.
    ///
    /// # Errors
    /// A [`Failure`] if there is no place for the file or it cannot be written.
    pub(crate) fn save(&self) -> Result<PathBuf, Failure> {
        let path = path().ok_or_else(|| {
            Failure::invalid("there is no place for profiles")
                .because("neither XDG_CONFIG_HOME nor HOME is set to an absolute path")
        })?;
        self.save_to(&path)?;
        Ok(path)
    }

    fn save_to(&self, path: &Path) -> Result<(), Failure> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .map_err(|error| Failure::file(format!("cannot make {}", directory.display()), &error))?;
        }
        let text = toml::to_string(self)
            .map_err(|error| Failure::new(Exit::Other, "cannot write profiles").because(error.to_string()))?;
        secret_file::write(path, &text, Existing::Replace)
    }

    /// The profile of that name.
    ///
    /// # Errors
    /// A [`Failure`] that names those that there are.
    pub(crate) fn named(&self, name: &str) -> Result<&Profile, Failure> {
        self.profiles.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.profiles.keys().map(String::as_str).collect();
            let failure = Failure::new(Exit::NotFound, format!("there is no profile {name}"));
            match names.as_slice() {
                [] => failure.hint("`orca login` saves one"),
                names => failure.because(format!("there is {}", names.join(", "))),
            }
        })
    }

    /// Adds or replaces a profile; makes it the current one if `current` or if there was none.
    pub(crate) fn put(&mut self, name: &str, profile: Profile, current: bool) {
        self.profiles.insert(name.to_owned(), profile);
        let orphaned = self.current.as_ref().is_none_or(|name| !self.profiles.contains_key(name));
        if current || orphaned {
            self.current = Some(name.to_owned());
        }
    }

    /// Removes a profile, if it is there. Where it was the current one and a single one is left, that is current.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let removed = self.profiles.remove(name).is_some();
        if self.current.as_deref() == Some(name) {
            let mut left = self.profiles.keys();
            self.current = left.next().filter(|_| left.next().is_none()).cloned();
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn profile(url: &str) -> Profile {
        Profile { url: url.into(), token: "t0ken".into() }
    }

    #[test]
    fn profiles_read_back_and_the_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orca/config.toml");
        let mut profiles = Profiles::default();
        profiles.put("dev", profile("http://127.0.0.1:7070"), false);
        profiles.put("prod", profile("https://orca.example"), false);
        assert_eq!(profiles.current.as_deref(), Some("dev"));
        profiles.save_to(&path).unwrap();
        assert_eq!(Profiles::load_from(&path).unwrap(), profiles);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Profiles::load_from(&path).unwrap_err().render().contains("can be read by others"));
    }

    #[test]
    fn when_the_current_profile_goes_a_single_other_takes_its_place() {
        let mut profiles = Profiles::default();
        for name in ["one", "two", "three"] {
            profiles.put(name, profile("http://x"), true);
        }
        assert!(profiles.remove("three"));
        assert_eq!(profiles.current, None, "which of two is not ours to say");
        assert!(profiles.remove("one") && !profiles.remove("one"));
        profiles.put("other", profile("http://x"), true);
        assert!(profiles.remove("other"));
        assert_eq!(profiles.current.as_deref(), Some("two"));
        assert!(profiles.remove("two"));
        assert_eq!(profiles.current, None);
    }

    #[test]
    fn a_broken_file_is_told_by_its_line_and_not_by_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        secret_file::write(&path, "[profiles.a]\nurl = \"http://x\"\ntoken = \"s3cret", Existing::Keep)
            .unwrap();
        let text = Profiles::load_from(&path).unwrap_err().render();
        assert!(text.contains("line 3") && !text.contains("s3cret"), "{text}");
    }

    #[test]
    fn a_token_is_not_printed_for_debugging() {
        assert!(!format!("{:?}", profile("http://x")).contains("t0ken"));
    }
}
