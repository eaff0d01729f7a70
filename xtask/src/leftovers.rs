//! What a test run must not leave behind: containers of Orca's, its processes, and throw-away databases.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bollard::query_parameters::ListContainersOptionsBuilder;

use crate::engine::Engine;
use crate::{proc_status, workspace};

/// Labels of Orca's own containers begin so; testcontainers' begin otherwise.
const LABELS: &[&str] = &["orca.", "org.testcontainers"];
const PROGRAMS: &[&str] =
    &["orca", "orca-coordinator", "orca-planner", "orca-worker", "orca-agent", "survey", "postgres"];

/// What was there before, and is somebody else's.
pub(crate) struct Before {
    containers: HashSet<String>,
    processes: HashSet<u32>,
}

impl Before {
    /// Looks around.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub(crate) async fn look(engine: Option<&Engine>) -> Result<Self> {
        let containers = match engine {
            Some(engine) => containers(engine).await?.into_iter().map(|(id, _)| id).collect(),
            None => HashSet::new(),
        };
        Ok(Self { containers, processes: processes().into_iter().map(|(pid, _)| pid).collect() })
    }

    /// Checks that nothing is there now that was not there before.
    ///
    /// # Errors
    /// If something is; names each thing.
    pub(crate) async fn check(&self, engine: Option<&Engine>) -> Result<()> {
        let mut left = Vec::new();
        if let Some(engine) = engine {
            for (id, name) in containers(engine).await? {
                if !self.containers.contains(&id) {
                    left.push(format!("container {name}"));
                }
            }
        }
        for (pid, program) in processes() {
            if !self.processes.contains(&pid) {
                left.push(format!("process {pid} ({program})"));
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        bail!("the tests left {} things behind:\n    {}", left.len(), left.join("\n    "))
    }
}

async fn containers(engine: &Engine) -> Result<Vec<(String, String)>> {
    let options = ListContainersOptionsBuilder::new().all(true).build();
    let list = engine.docker.list_containers(Some(options)).await.context("cannot list the containers")?;
    Ok(list
        .into_iter()
        .filter(|container| {
            container
                .labels
                .iter()
                .flatten()
                .any(|(label, _)| LABELS.iter().any(|prefix| label.starts_with(prefix)))
        })
        .map(|container| {
            let name = container.names.into_iter().flatten().next().unwrap_or_default();
            (container.id.unwrap_or_default(), name.trim_start_matches('/').to_owned())
        })
        .collect())
}

/// Processes of Orca's programs that were started from this repository, and databases in directories of Orca's.
fn processes() -> Vec<(u32, String)> {
    let ours = [workspace::root().join("dist"), workspace::target()];
    proc_status::programs()
        .into_iter()
        .filter_map(|(pid, path)| {
            let name = path.file_name()?.to_str()?.trim_end_matches(" (deleted)").to_owned();
            let known = PROGRAMS.contains(&name.as_str());
            let here = match name.as_str() {
                "postgres" => works_for_orca(pid),
                _ => ours.iter().any(|directory| path.starts_with(directory)),
            };
            (known && here && !in_container(pid)).then(|| (pid, describe(pid, &path)))
        })
        .collect()
}

/// A server works in its cluster's directory.
fn works_for_orca(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|place| place.to_string_lossy().contains("orca"))
}

/// A container's processes are counted with their container. This program may itself run in one.
fn in_container(pid: u32) -> bool {
    let groups = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let theirs = groups(&pid.to_string());
    theirs != groups("self") && theirs.contains("docker")
}

fn describe(pid: u32, path: &Path) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
    if line.trim().is_empty() { path.display().to_string() } else { line.trim().to_owned() }
}
