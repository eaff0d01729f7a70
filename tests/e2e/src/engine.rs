//! What tests ask of the Docker engine itself, past Orca.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{
    BuildImageOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
};
use futures_util::StreamExt;
use orca_proto::ids::TaskId;

use crate::watch::eventually;

/// A connection to the engine that `DOCKER_HOST` names, or to the machine's own.
///
/// # Panics
/// If there is none.
pub async fn connect() -> Docker {
    let docker = Docker::connect_with_defaults().expect("the engine's address can be used");
    let negotiated = docker.negotiate_version().await;
    negotiated.expect("a Docker engine answers; `cargo xtask test` installs and starts one where it can")
}

/// Ids of the containers, running or not, with this label (`key` or `key=value`).
///
/// # Panics
/// If the engine does not answer.
pub async fn containers(docker: &Docker, label: &str) -> Vec<String> {
    let filters = HashMap::from([("label", vec![label])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let list = docker.list_containers(Some(options)).await.expect("the engine lists containers");
    list.into_iter().filter_map(|container| container.id).collect()
}

/// The container that runs the task.
///
/// # Panics
/// If there is not exactly one within 10 s.
pub async fn container_of(docker: &Docker, task: TaskId) -> String {
    eventually(&format!("exactly one container runs {task}"), Duration::from_secs(10), async || {
        let mut found = containers(docker, &format!("orca.task={task}")).await;
        (found.len() == 1).then(|| found.remove(0))
    })
    .await
}

/// Sends the container a signal, as `docker kill` does.
///
/// # Panics
/// If it is not running.
pub async fn kill(docker: &Docker, container: &str, signal: &str) {
    let options = KillContainerOptionsBuilder::new().signal(signal).build();
    docker.kill_container(container, Some(options)).await.expect("the container runs and can be killed");
}

/// Removes containers, with their anonymous volumes, as tests that failed leave them.
pub async fn remove(docker: &Docker, containers: &[String]) {
    for container in containers {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        if let Err(error) = docker.remove_container(container, Some(options)).await {
            eprintln!("cannot remove the container {container}: {error}");
        }
    }
}

/// Builds an image with the classic builder from a Dockerfile's text and some files, as `tag`.
///
/// # Panics
/// If it cannot be built.
pub async fn build(docker: &Docker, tag: &str, dockerfile: &str, files: &[(&str, &Path)]) {
    let mut context = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(dockerfile.len()).expect("a short text"));
    header.set_mode(0o644);
    context.append_data(&mut header, "Dockerfile", dockerfile.as_bytes()).expect("the context is packed");
    for (name, path) in files {
        context.append_path_with_name(path, name).expect("the context is packed");
    }
    let context = context.into_inner().expect("the context is packed");
    let options = BuildImageOptionsBuilder::new().t(tag).rm(true).forcerm(true).build();
    let body = bollard::body_full(context.into());
    let mut steps = docker.build_image(options, None, Some(body));
    while let Some(step) = steps.next().await {
        let step = step.unwrap_or_else(|error| panic!("the image {tag} cannot be built: {error}"));
        if let Some(error) = step.error_detail {
            panic!("the image {tag} cannot be built: {error:?}");
        }
    }
}

/// Removes the image `tag`.
pub async fn remove_image(docker: &Docker, tag: &str) {
    let options = RemoveImageOptionsBuilder::new().force(true).build();
    if let Err(error) = docker.remove_image(tag, Some(options), None).await {
        eprintln!("cannot remove the image {tag}: {error}");
    }
}
