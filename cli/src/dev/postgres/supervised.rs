//! The moment between `orca dev` and its Postgres: arranges that Postgres shuts down when `orca dev` dies, even by
//! SIGKILL, and then becomes Postgres.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use crate::error::{Exit, Failure};

/// The hidden verb that does it.
pub(crate) const SUPERVISED: &str = "internal-postgres";

/// What the hidden verb is told.
#[derive(Debug, clap::Args)]
pub(crate) struct SupervisedArgs {
    /// Process id of `orca dev`.
    #[arg(long)]
    parent: i32,
    /// The server's binary.
    program: PathBuf,
    /// Its arguments.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

impl SupervisedArgs {
    /// Becomes Postgres. Comes back only if it cannot.
    pub(crate) fn exec(self) -> Failure {
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{Signal, getppid, set_parent_process_death_signal};
            // SIGINT is Postgres's fast shutdown.
            if let Err(error) = set_parent_process_death_signal(Some(Signal::INT)) {
                return Failure::file("cannot tie Postgres to its parent", &error.into());
            }
            // The parent may have died before the line above.
            if getppid().map(|parent| parent.as_raw_nonzero().get()) != Some(self.parent) {
                return Failure::new(Exit::Interrupted, "orca dev has gone");
            }
        }
        let error = std::process::Command::new(&self.program).args(&self.arguments).exec();
        Failure::file(format!("cannot run {}", self.program.display()), &error)
    }
}
