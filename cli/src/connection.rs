//! Which coordinator to talk to, and with which token: flags before environment before profile.
//!
//! A profile's token goes only to that profile's address: naming another address means naming a token too.

use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;
use orca_proto::client::Client;

use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::profile::{Profile, Profiles};
use crate::secret_file;

/// The flags that every command takes.
#[derive(Clone, clap::Args)]
pub(crate) struct ConnectionArgs {
    /// Address of the coordinator, such as http://127.0.0.1:7070
    #[arg(long, global = true, env = "ORCA_URL", value_name = "URL", help_heading = "Connection")]
    pub(crate) url: Option<String>,
    /// Token to send; better in a file, as other users of the machine can see command lines
    #[arg(
        long,
        global = true,
        env = "ORCA_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub(crate) token: Option<String>,
    /// File that holds the token
    #[arg(long, global = true, env = "ORCA_TOKEN_FILE", value_name = "PATH", help_heading = "Connection")]
    pub(crate) token_file: Option<PathBuf>,
    /// Saved profile to use instead of the current one
    #[arg(long, global = true, env = "ORCA_PROFILE", value_name = "NAME", help_heading = "Connection")]
    pub(crate) profile: Option<String>,
}

impl std::fmt::Debug for ConnectionArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionArgs")
            .field("url", &self.url)
            .field("token_file", &self.token_file)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

/// Which values stood on the command line itself, rather than in the environment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Given {
    url: bool,
    token: bool,
    token_file: bool,
    profile: bool,
    /// `--data` of `orca dev`.
    pub(crate) data: bool,
}

impl Given {
    /// Reads it off parsed arguments.
    pub(crate) fn from_matches(matches: &ArgMatches) -> Self {
        let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        Self {
            url: given("url"),
            token: given("token"),
            token_file: given("token_file"),
            profile: given("profile"),
            data: matches
                .subcommand_matches("dev")
                .is_some_and(|dev| dev.value_source("data") == Some(ValueSource::CommandLine)),
        }
    }
}

impl Given {
    /// Refuses a flag whose value is empty: most likely a variable that was never set, and nothing else is to take its place.
    ///
    /// # Errors
    /// A [`Failure`] that names the flag.
    pub(crate) fn empty(&self, args: &ConnectionArgs) -> Result<(), Failure> {
        let none = |text: Option<&str>| text.is_some_and(|text| text.trim().is_empty());
        let file = args.token_file.as_ref().and_then(|path| path.to_str());
        for (flag, given, value) in [
            ("--url", self.url, args.url.as_deref()),
            ("--token", self.token, args.token.as_deref()),
            ("--token-file", self.token_file, file),
            ("--profile", self.profile, args.profile.as_deref()),
        ] {
            if given && none(value) {
                return Err(Failure::invalid(format!("{flag} is empty"))
                    .hint("leave it out to use the environment or the profile"));
            }
        }
        Ok(())
    }
}

/// A coordinator and a token for it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The address.
    pub(crate) url: String,
    /// The token.
    pub(crate) token: String,
}

/// Connects to the coordinator that flags, environment or profile name.
///
/// # Errors
/// A [`Failure`] that says what to give.
pub(crate) fn connect(args: &ConnectionArgs, given: Given, output: Output) -> Result<Client, Failure> {
    let profiles = || Profiles::load();
    if let Some(url) = args.url.as_deref().filter(|url| !url.is_empty()) {
        // Before anything is said of tokens for it.
        check_address(url)?;
    }
    given.empty(args)?;
    let target = resolve(args, given, profiles, |path| token_from_file(path, output))?;
    Ok(Client::new(&target.url, &target.token)?)
}

/// The token in a file, with a remark when others can read it.
pub(crate) fn token_from_file(path: &Path, output: Output) -> Result<String, Failure> {
    let (text, mode) = secret_file::read_any(path)?;
    if mode & 0o077 != 0 {
        output.remark(&format!("note: {} can be read by others; chmod 600 keeps it yours", path.display()));
    }
    let token = text.trim();
    if token.is_empty() {
        return Err(Failure::invalid(format!("{} holds no token", path.display())));
    }
    Ok(token.to_owned())
}

fn resolve(
    args: &ConnectionArgs,
    given: Given,
    profiles: impl Fn() -> Result<Profiles, Failure>,
    read_token: impl Fn(&Path) -> Result<String, Failure>,
) -> Result<Target, Failure> {
    // With --profile on the command line, what the environment says of address and token is passed over.
    let seen = |by_flag: bool| by_flag || !given.profile;
    let url = args.url.clone().filter(|url| seen(given.url) && !url.is_empty());
    let token = args.token.clone().filter(|token| seen(given.token) && !token.is_empty());
    let file = args.token_file.clone().filter(|path| seen(given.token_file) && !path.as_os_str().is_empty());
    let token = match (token, file) {
        (Some(token), Some(_)) if given.token || !given.token_file => Some(token),
        (_, Some(path)) => Some(read_token(&path)?),
        (token, None) => token,
    };
    if let (Some(url), Some(token)) = (&url, &token) {
        return Ok(Target { url: url.clone(), token: token.clone() });
    }
    let profiles = profiles()?;
    let name = args.profile.clone().filter(|name| !name.is_empty()).or_else(|| profiles.current.clone());
    let profile = name.as_deref().map(|name| profiles.named(name)).transpose()?;
    match (url, token, profile) {
        (Some(url), None, Some(profile)) if same_address(&url, profile) => {
            Ok(Target { url, token: profile.token.clone() })
        }
        (Some(url), None, _) => Err(Failure::new(Exit::NotAllowed, format!("there is no token for {url}"))
            .hint("give one with --token-file or ORCA_TOKEN_FILE, or save it with `orca login`")),
        (None, token, Some(profile)) => {
            Ok(Target { url: profile.url.clone(), token: token.unwrap_or_else(|| profile.token.clone()) })
        }
        (None, _, None) if !profiles.profiles.is_empty() => {
            Err(Failure::invalid("no profile is the current one")
                .because(format!(
                    "there is {}",
                    profiles.profiles.keys().cloned().collect::<Vec<_>>().join(", ")
                ))
                .hint("`orca profile use NAME` chooses one, --profile NAME for once"))
        }
        (None, _, None) => Err(Failure::invalid("no coordinator is known")
            .because("no --url, no ORCA_URL, no saved profile")
            .hint("`orca dev` starts one here, `orca login` saves the address and token of another")),
        (Some(url), Some(token), _) => Ok(Target { url, token }),
    }
}

fn check_address(url: &str) -> Result<(), Failure> {
    match reqwest::Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => Ok(()),
        _ => Err(Failure::invalid(format!("{url} is not the address of a coordinator"))
            .hint("such as http://127.0.0.1:7070")),
    }
}

fn same_address(url: &str, profile: &Profile) -> bool {
    url.trim_end_matches('/') == profile.url.trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_is_told_before_its_token_is_missed() {
        for wrong in ["nonsense", "127.0.0.1:7070", "localhost:7070", "ftp://h/", "http://"] {
            assert_eq!(check_address(wrong).unwrap_err().exit(), Exit::Invalid, "{wrong}");
        }
        check_address("https://orca.example/base").unwrap();
    }

    fn args(url: Option<&str>, token: Option<&str>, file: Option<&str>) -> ConnectionArgs {
        ConnectionArgs {
            url: url.map(Into::into),
            token: token.map(Into::into),
            token_file: file.map(Into::into),
            profile: None,
        }
    }

    fn saved() -> Result<Profiles, Failure> {
        let mut profiles = Profiles::default();
        for name in ["one", "two"] {
            let profile = Profile { url: format!("http://{name}"), token: format!("token-{name}") };
            profiles.put(name, profile, false);
        }
        Ok(profiles)
    }

    fn resolved(args: &ConnectionArgs, given: Given) -> Result<(String, String), Failure> {
        resolve(args, given, saved, |path| Ok(format!("in {}", path.display()))).map(|t| (t.url, t.token))
    }

    #[test]
    fn flags_go_before_the_environment_and_that_before_the_profile() {
        let none = Given::default();
        let pair = |url: &str, token: &str| (url.to_owned(), token.to_owned());
        assert_eq!(resolved(&args(None, None, None), none).unwrap(), pair("http://one", "token-one"));
        assert_eq!(resolved(&args(Some("http://x"), Some("t"), None), none).unwrap(), pair("http://x", "t"));
        assert_eq!(resolved(&args(None, Some("t"), None), none).unwrap(), pair("http://one", "t"));
        let flag_file = Given { token_file: true, ..none };
        let both = args(Some("http://x"), Some("from-env"), Some("f"));
        assert_eq!(resolved(&both, flag_file).unwrap(), pair("http://x", "in f"));
        let mut by_profile = args(Some("http://x"), Some("from-env"), None);
        by_profile.profile = Some("two".into());
        let flag = Given { profile: true, ..none };
        assert_eq!(resolved(&by_profile, flag).unwrap(), pair("http://two", "token-two"));
    }

    #[test]
    fn a_profiles_token_is_never_sent_to_another_address() {
        let failure = resolved(&args(Some("http://elsewhere"), None, None), Given::default()).unwrap_err();
        assert_eq!(failure.exit(), Exit::NotAllowed);
        assert!(resolved(&args(Some("http://one/"), None, None), Given::default()).is_ok());
    }

    #[test]
    fn without_anything_the_next_step_is_named() {
        let failure = resolve(
            &args(None, None, None),
            Given::default(),
            || Ok(Profiles::default()),
            |_| Ok(String::new()),
        );
        let text = failure.err().unwrap().render();
        assert!(text.contains("orca dev") && text.contains("orca login"), "{text}");
    }
}
