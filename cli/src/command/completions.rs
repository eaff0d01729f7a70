//! `orca completions`: scripts that complete commands and flags.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Arguments;
use crate::error::{Exit, Failure};
use crate::output::Output;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

impl CompletionsArgs {
    /// Does it.
    pub(crate) fn run(self, output: Output) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "orca", &mut script);
        output.bytes(&script)?;
        Ok(Exit::Done)
    }
}
