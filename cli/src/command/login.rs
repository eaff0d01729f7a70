//! `orca login`: checks an address and a token, and saves them as a profile.

use std::io::{IsTerminal, Read};

use orca_proto::client::Client;
use orca_proto::task::TaskFilter;

use crate::connection::{ConnectionArgs, Given, token_from_file};
use crate::error::{Exit, Failure};
use crate::output::{Output, escape};
use crate::profile::{Profile, Profiles};

/// No token is longer.
const LONGEST_TOKEN: u64 = 64 << 10;

/// Save a coordinator's address and token as a profile
///
/// The address comes from --url or ORCA_URL; the token from --token-file, --token, their environment variables, or
/// standard input.
#[derive(Debug, clap::Args)]
pub(crate) struct LoginArgs {
    /// Name to save it under
    #[arg(long, default_value = "default")]
    name: String,
    /// Save without asking the coordinator whether the token is good
    #[arg(long)]
    no_check: bool,
}

impl LoginArgs {
    /// Does it.
    pub(crate) async fn run(
        self,
        connection: &ConnectionArgs,
        given: Given,
        output: Output,
    ) -> Result<Exit, Failure> {
        given.empty(connection)?;
        let url = connection.url.clone().filter(|url| !url.is_empty()).ok_or_else(|| {
            Failure::invalid("which coordinator?").hint("orca login --url http://HOST:7070 < token-file")
        })?;
        let token = match (&connection.token, &connection.token_file) {
            (_, Some(path)) => token_from_file(path, output)?,
            (Some(token), None) => token.trim().to_owned(),
            (None, None) => from_standard_input()?,
        };
        let client = Client::new(&url, &token)?;
        if !self.no_check {
            client.tasks(&TaskFilter { limit: Some(1), ..TaskFilter::default() }).await?;
        }
        let mut profiles = Profiles::load()?;
        profiles.put(&self.name, Profile { url: url.clone(), token }, true);
        let path = profiles.save()?;
        output.remark(&format!(
            "saved profile {} for {} in {}",
            escape::line(&self.name),
            escape::line(&url),
            path.display()
        ));
        Ok(Exit::Done)
    }
}

fn from_standard_input() -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Failure::invalid("no token was given")
            .hint("orca login --url URL --token-file PATH, or pipe the token in: … | orca login --url URL"));
    }
    let mut text = String::new();
    stdin
        .lock()
        .take(LONGEST_TOKEN)
        .read_to_string(&mut text)
        .map_err(|error| Failure::file("cannot read the token from standard input", &error))?;
    match text.trim() {
        "" => Err(Failure::invalid("standard input holds no token")),
        token => Ok(token.to_owned()),
    }
}
