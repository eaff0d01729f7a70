//! `orca-agent secret NAME`: one of the task's secrets, for scripts that want it in a variable and not in a file.

use std::io::{self, Write};

use clap::Args;
use hyper::Method;
use orca_proto::agent::routes;

use super::{VerbError, call};
use crate::attempt_dir::AttemptDir;
use crate::secrets;

#[derive(Args)]
pub(crate) struct Secret {
    /// The secret's name
    name: String,
}

impl Secret {
    /// Prints the value as it is, without a newline that is not in it.
    pub(super) async fn run(self, dir: &AttemptDir) -> Result<(), VerbError> {
        let answer = call(dir, Method::GET, routes::SECRETS, Vec::new()).await?;
        let given = secrets::read(&answer).map_err(VerbError::Usage)?.secrets;
        let Some(secret) = given.iter().find(|secret| secret.name == self.name) else {
            let names: Vec<&str> = given.iter().map(|secret| secret.name.as_str()).collect();
            return Err(VerbError::Usage(format!(
                "this task names no secret {:?}; it names {}",
                self.name,
                names.join(", ")
            )));
        };
        let mut out = io::stdout().lock();
        out.write_all(secret.value.expose().as_bytes())
            .and_then(|()| out.flush())
            .map_err(|error| VerbError::Usage(format!("cannot write the secret: {error}")))
    }
}
