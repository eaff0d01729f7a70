//! The survey's goal: the uploaded directory, and the one task that plans the rest.

use anyhow::{Context, Result};
use orca_proto::client::Client;
use orca_proto::ids::{ArtifactId, TaskId};
use orca_proto::spec::{InputArtifact, NewTask, Role};
use serde_json::json;

use super::archive::Tree;

/// Uploads the directory and returns the artifact's id and size in bytes.
///
/// # Errors
/// If a file cannot be read, or the coordinator refuses.
pub(crate) async fn upload(client: &Client, tree: &Tree) -> Result<(ArtifactId, u64)> {
    let (body, failure) = tree.stream();
    match client.upload("tree.tar", body).await {
        Ok(artifact) => Ok((artifact.id, artifact.size)),
        Err(error) => Err(failure.or(error)).context("cannot upload the directory"),
    }
}

/// Enqueues the goal. `program` is the survey's path in the image, or on this machine under the process runtime.
///
/// # Errors
/// If the coordinator refuses.
pub(crate) async fn enqueue(client: &Client, image: &str, program: &str, tree: ArtifactId) -> Result<TaskId> {
    let mut goal = NewTask::new(image);
    goal.name = Some("survey".into());
    goal.role = Role::Plan;
    goal.container.command = vec![program.to_owned(), "goal".into()];
    goal.container.pull = orca_proto::spec::Pull::Never;
    goal.input = json!({ "tree": tree });
    goal.artifacts = vec![InputArtifact { id: tree, name: "tree".into(), unpack: true }];
    let task =
        client.enqueue(&goal, Some(&format!("demo-{tree}"))).await.context("cannot enqueue the goal")?;
    Ok(task.summary.id)
}
