//! `orca-agent get ID` and `get KEY/NAME`: an artifact by its id, or by its name at the dependency that kept it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use orca_proto::agent::routes;
use orca_proto::attempt::Dependencies;
use orca_proto::ids::ArtifactId;

use super::{VerbError, node, show};
use crate::attempt_dir::AttemptDir;
use crate::node_client::CallError;

#[derive(Args)]
pub(crate) struct Get {
    /// The artifact's id, or the key of a dependency and the artifact's name there
    #[arg(value_name = "ID|KEY/NAME")]
    artifact: String,
    /// Where to put it, instead of standard output
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Get {
    pub(super) async fn run(self, dir: &AttemptDir) -> Result<(), VerbError> {
        let id = match self.artifact.parse::<ArtifactId>() {
            Ok(id) => id,
            Err(_) => find(&show::read_dependencies(dir)?, &self.artifact)?,
        };
        let path = format!("{}/{id}", routes::ARTIFACTS);
        let response = node(dir)?.open(Method::GET, &path, None, http_body_util::Empty::new()).await?;
        match &self.out {
            None => copy(response.into_body(), &mut io::stdout().lock(), "standard output").await,
            Some(out) => save(response.into_body(), out).await,
        }
    }
}

/// The newest dependency of that key that kept an artifact of that name.
fn find(dependencies: &Dependencies, wanted: &str) -> Result<ArtifactId, VerbError> {
    let absent = |what: String| Err(VerbError::Usage(what));
    let Some((key, name)) = wanted.rsplit_once('/') else {
        return absent(format!("{wanted:?} is neither an artifact's id nor KEY/NAME"));
    };
    let with_key = || dependencies.tasks.iter().rev().filter(|task| task.key.as_deref() == Some(key));
    if with_key().next().is_none() {
        return absent(format!("this task depends on none with the key {key:?}"));
    }
    let kept = with_key().find_map(|task| task.artifacts.iter().rfind(|artifact| artifact.name == name));
    match kept {
        Some(artifact) => Ok(artifact.id),
        None => absent(format!("the dependency {key:?} kept no artifact {name:?}")),
    }
}

/// Under its final name only once it is whole.
async fn save(body: Incoming, out: &Path) -> Result<(), VerbError> {
    let mut name = out.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let failed = |error: io::Error| VerbError::Usage(format!("cannot write {}: {error}", out.display()));
    let mut file = File::create(&part).map_err(failed)?;
    let copied = match copy(body, &mut file, &out.display().to_string()).await {
        Ok(()) => std::fs::rename(&part, out).map_err(failed),
        Err(error) => Err(error),
    };
    if copied.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    copied
}

async fn copy(mut body: Incoming, to: &mut dyn Write, name: &str) -> Result<(), VerbError> {
    let failed = |error: io::Error| VerbError::Usage(format!("cannot write {name}: {error}"));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CallError::Unreadable(format!("it broke off: {error}")))?;
        if let Some(piece) = frame.data_ref() {
            to.write_all(piece).map_err(failed)?;
        }
    }
    to.flush().map_err(failed)
}
