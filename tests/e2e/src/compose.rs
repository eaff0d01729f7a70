//! The Compose stack, brought up from binaries that are built already, under a project name of its own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use bollard::Docker;
use bollard::models::HealthStatusEnum;
use bollard::query_parameters::{
    InspectContainerOptions, ListImagesOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
};
use tempfile::TempDir;
use tokio::process::Command;
use uuid::Uuid;

use crate::command::{printed, run};
use crate::watch::eventually;
use crate::{engine, settings};

/// How long one Compose command may take.
const COMMAND: Duration = Duration::from_secs(150);
/// How long the services may take to become healthy once they are created.
const HEALTHY: Duration = Duration::from_secs(60);

/// A stack, and the directory that stands for the operator's home.
pub struct Stack {
    program: Vec<&'static str>,
    project: String,
    port: u16,
    home: TempDir,
    docker: Docker,
}

impl Stack {
    /// Names a stack; nothing runs yet.
    ///
    /// # Panics
    /// If no Docker engine or no Compose is there.
    pub async fn new() -> Self {
        let program = program().await;
        let docker = engine::connect().await;
        let home = tempfile::tempdir().expect("a temporary directory");
        let id = Uuid::now_v7().simple().to_string().split_off(24);
        Self { program, project: format!("orca-e2e-{id}"), port: settings::free_port(), home, docker }
    }

    /// Where its API will listen.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The operator's home directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    fn image(&self) -> String {
        format!("{}:prebuilt", self.project)
    }

    /// Runs a Compose command on the stack.
    ///
    /// # Panics
    /// If it takes longer than 150 s.
    pub async fn compose(&self, arguments: &[&str]) -> Output {
        let folder = settings::workspace().join("compose");
        let (first, rest) = self.program.split_first().expect("a program has a name");
        let mut command = Command::new(first);
        command.args(rest).arg("-f").arg(folder.join("compose.yaml"));
        command.arg("-f").arg(folder.join("compose.prebuilt.yaml")).args(arguments);
        command
            .env("COMPOSE_PROJECT_NAME", &self.project)
            .env("ORCA_PORT", self.port.to_string())
            .env("ORCA_IMAGE", self.image())
            .env("ORCA_POSTGRES_IMAGE", settings::postgres_image())
            .env("ORCA_DIST", absolute(settings::binaries()))
            .env("ORCA_PREBUILT_DOCKERFILE", folder.join("Dockerfile.prebuilt"));
        run(command, b"", COMMAND).await
    }

    /// Builds the image from the binaries and brings everything up, and returns once all services are healthy.
    ///
    /// # Panics
    /// If a command fails, or a service is not healthy in time.
    pub async fn up(&self) {
        for arguments in [&["build", "secrets"][..], &["up", "-d"]] {
            let output = self.compose(arguments).await;
            assert!(output.status.success(), "compose {arguments:?}: {}", printed(&output));
        }
        const SERVICES: [&str; 5] = ["postgres", "coordinator", "planner", "worker-1", "worker-2"];
        for service in SERVICES {
            eventually(&format!("the service {service} is healthy"), HEALTHY, async || {
                let label = format!("com.docker.compose.project={}", self.project);
                for container in engine::containers(&self.docker, &label).await {
                    let found =
                        self.docker.inspect_container(&container, None::<InspectContainerOptions>).await;
                    let Ok(found) = found else { continue };
                    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
                    let health = found.state.and_then(|state| state.health).and_then(|health| health.status);
                    if labels.get("com.docker.compose.service").is_some_and(|name| name == service)
                        && health == Some(HealthStatusEnum::HEALTHY)
                    {
                        return Some(());
                    }
                }
                None
            })
            .await;
        }
    }

    /// Takes everything down and removes it, and says what was left nevertheless.
    pub async fn down(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let output = self.compose(&["down", "--volumes", "--remove-orphans", "--timeout", "60"]).await;
        if !output.status.success() {
            wrong.push(format!("compose down: {}", printed(&output)));
        }
        engine::remove_image(&self.docker, &self.image()).await;

        let label = format!("com.docker.compose.project={}", self.project);
        let containers = engine::containers(&self.docker, &label).await;
        if !containers.is_empty() {
            wrong.push(format!("containers were left behind: {}", containers.join(", ")));
            engine::remove(&self.docker, &containers).await;
        }
        let by_label = HashMap::from([("label", vec![label.as_str()])]);
        let options = ListVolumesOptionsBuilder::new().filters(&by_label).build();
        let volumes = self.docker.list_volumes(Some(options)).await.expect("the engine lists volumes");
        let volumes = volumes.volumes.unwrap_or_default();
        wrong.extend(volumes.iter().map(|volume| format!("the volume {} was left behind", volume.name)));
        let options = ListNetworksOptionsBuilder::new().filters(&by_label).build();
        let networks = self.docker.list_networks(Some(options)).await.expect("the engine lists networks");
        wrong
            .extend(networks.iter().map(|network| format!("the network {:?} was left behind", network.name)));
        let by_name = HashMap::from([("reference", vec![self.project.as_str()])]);
        let options = ListImagesOptionsBuilder::new().filters(&by_name).build();
        let images = self.docker.list_images(Some(options)).await.expect("the engine lists images");
        wrong.extend(images.iter().map(|image| format!("the image {} was left behind", image.id)));
        wrong
    }

    /// Prints the state and the logs of all services.
    pub async fn describe(&self) {
        for arguments in [&["ps"][..], &["logs", "--tail", "60"]] {
            eprintln!("--- compose {arguments:?}: {}", printed(&self.compose(arguments).await));
        }
    }
}

/// `docker compose` where it is installed, else `docker-compose`.
async fn program() -> Vec<&'static str> {
    for words in [vec!["docker", "compose"], vec!["docker-compose"]] {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("version").kill_on_drop(true);
        if command.output().await.is_ok_and(|output| output.status.success()) {
            return words;
        }
    }
    panic!(
        "neither `docker compose` nor `docker-compose` is installed; `cargo xtask test` installs one where it can \
         (Debian's package is docker-compose)"
    )
}

fn absolute(path: PathBuf) -> PathBuf {
    path.canonicalize().unwrap_or(path)
}
