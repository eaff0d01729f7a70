//! `orca artifact`: files that outlive a container.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use jiff::Timestamp;
use orca_proto::artifact::{Artifact, is_valid_name};
use orca_proto::client::{ArtifactStream, Client};
use orca_proto::ids::{ArtifactId, TaskId};
use orca_proto::quantity::Bytes;
use tokio::io::AsyncWriteExt;

use super::enqueue::upload;
use crate::error::{Exit, Failure};
use crate::output::table::{Rows, text};
use crate::output::{Output, escape, time};

/// List, fetch and store files that outlive a container
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ArtifactCommand {
    /// List what a task's attempts kept
    Ls {
        /// The task
        #[arg(value_parser = super::id::<TaskId>)]
        task: TaskId,
    },
    /// Fetch one
    Get {
        /// Which
        #[arg(value_parser = super::id::<ArtifactId>)]
        id: ArtifactId,
        /// File to write, or - for standard output; a file of the artifact's own name unless told
        to: Option<PathBuf>,
        /// Replace the file if it is there
        #[arg(long)]
        force: bool,
    },
    /// Store a file, or a directory as a tar archive, for tasks to use as an input
    Put {
        /// What to store
        path: PathBuf,
        /// Name to store it under; its own unless told
        #[arg(long)]
        name: Option<String>,
    },
}

impl ArtifactCommand {
    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        match self {
            Self::Ls { task } => list(client, task, output).await?,
            Self::Get { id, to, force } => fetch(client, id, to, force, output).await?,
            Self::Put { path, name } => store(client, &path, name, output).await?,
        }
        Ok(Exit::Done)
    }
}

async fn list(client: &Client, task: TaskId, output: Output) -> Result<(), Failure> {
    let page = client.artifacts(task).await.map_err(|error| Failure::about(error, "task", task))?;
    if output.is_json() {
        return output.json(&page);
    }
    let now = Timestamp::now();
    let mut rows = Rows::new(output, &["ID", "NAME", "SIZE", "KEPT", "SHA-256"]);
    for artifact in &page.items {
        rows.add(vec![
            text(artifact.id.to_string()),
            text(&artifact.name),
            text(Bytes(artifact.size).to_string()),
            text(time::relative(artifact.created_at, now)),
            text(&artifact.sha256),
        ]);
    }
    rows.print("the task kept no artifacts")
}

async fn store(client: &Client, path: &Path, name: Option<String>, output: Output) -> Result<(), Failure> {
    let own = || path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.unwrap_or_else(own);
    let (artifact, _) = upload::upload(client, &name, path, output).await?;
    if output.is_json() { output.json(&artifact) } else { output.line(&artifact.id.to_string()) }
}

async fn fetch(
    client: &Client,
    id: ArtifactId,
    to: Option<PathBuf>,
    force: bool,
    output: Output,
) -> Result<(), Failure> {
    let artifact = client.artifact(id).await.map_err(|error| Failure::about(error, "artifact", id))?;
    let to = match to {
        Some(path) => path,
        // The name is the server's word: it must be a plain name before it becomes a path.
        None if is_valid_name(&artifact.name) => PathBuf::from(&artifact.name),
        None => {
            return Err(Failure::invalid(format!("{} is not a name for a file here", artifact.name))
                .hint(format!("orca artifact get {id} PATH")));
        }
    };
    let to = to.as_path();
    if !force && to != Path::new("-") && to.exists() {
        return Err(
            Failure::invalid(format!("{} is there already", to.display())).hint("--force replaces it")
        );
    }
    let mut bytes = client.download(id).await?;
    if to == Path::new("-") {
        while let Some(chunk) = bytes.next().await {
            output.bytes(&chunk?)?;
        }
        return Ok(());
    }
    save(&artifact, bytes, to).await?;
    if output.is_json() {
        return output.json(&artifact);
    }
    output.remark(&format!(
        "saved {} ({}) as {}",
        escape::line(&artifact.name),
        Bytes(artifact.size),
        to.display()
    ));
    Ok(())
}

/// Writes beside the file first, so that a download that breaks leaves no half of it.
async fn save(artifact: &Artifact, mut bytes: ArtifactStream, to: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::file(format!("cannot write {}", to.display()), &error);
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let part = tempfile::Builder::new()
        .prefix(".orca-")
        // What a person saves is as readable as what other programs save: the process's umask decides.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)
        .map_err(failed)?;
    let (file, path) = part.into_parts();
    let mut file = tokio::fs::File::from_std(file);
    let mut size = 0_u64;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk?;
        size += chunk.len() as u64;
        file.write_all(&chunk).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    if size != artifact.size {
        return Err(Failure::new(Exit::Other, "the download is not whole")
            .because(format!("{size} bytes of {} came", artifact.size))
            .hint("try again"));
    }
    path.persist(to).map_err(|error| failed(error.error))
}
