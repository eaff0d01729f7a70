//! `orca profile`: saved addresses and tokens.

use orca_proto::page::Page;
use serde::Serialize;

use crate::error::{Exit, Failure};
use crate::output::Output;
use crate::output::table::{Rows, text};
use crate::profile::Profiles;

/// List, choose and remove saved profiles
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ProfileCommand {
    /// List them
    Ls,
    /// Make one the current profile
    Use {
        /// Which
        name: String,
    },
    /// Forget one
    Rm {
        /// Which
        name: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Shown {
    name: String,
    url: String,
    current: bool,
}

impl ProfileCommand {
    /// Does it.
    pub(crate) fn run(self, output: Output) -> Result<Exit, Failure> {
        let mut profiles = Profiles::load()?;
        match self {
            Self::Ls => list(&profiles, output)?,
            Self::Use { name } => {
                profiles.named(&name)?;
                profiles.current = Some(name);
                profiles.save()?;
            }
            Self::Rm { name } => {
                profiles.named(&name)?;
                profiles.remove(&name);
                profiles.save()?;
            }
        }
        Ok(Exit::Done)
    }
}

fn list(profiles: &Profiles, output: Output) -> Result<(), Failure> {
    let items: Vec<Shown> = profiles
        .profiles
        .iter()
        .map(|(name, profile)| Shown {
            name: name.clone(),
            url: profile.url.clone(),
            current: profiles.current.as_ref() == Some(name),
        })
        .collect();
    if output.is_json() {
        return output.json(&Page { items, next: None });
    }
    let mut rows = Rows::new(output, &["", "NAME", "URL"]);
    for shown in items {
        rows.add(vec![text(if shown.current { "*" } else { " " }), text(shown.name), text(shown.url)]);
    }
    rows.print("no profiles: `orca dev` and `orca login` save one")
}
