//! How long until a task's process runs: on an idle system of Orca's, and by the bare Docker API with the same container.
//! Both in turn, so that what else the machine does hits both alike.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use orca_proto::client::Client;
use orca_proto::ids::TaskId;
use orca_proto::spec::{NewTask, Pull};
use orca_proto::task::State;

use super::figures::{Figure, percentile};
use super::fleet::Fleet;
use crate::engine::Engine;

/// The longest that one start may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Rounds before those that count.
const WARM_UP: usize = 3;
/// Quiet between two starts.
const QUIET: Duration = Duration::from_millis(300);

/// Measures `samples` starts of each.
///
/// # Errors
/// If a start fails.
pub(crate) async fn measure(
    fleet: &mut Fleet,
    engine: &Engine,
    image: &str,
    samples: usize,
) -> Result<Vec<Figure>> {
    let template = template(fleet, engine, image).await?;
    let (mut orca, mut docker) = (Vec::new(), Vec::new());
    for round in 0..samples + WARM_UP {
        fleet.check()?;
        let ours = by_orca(&fleet.client, image).await.context("a start by Orca failed")?;
        settle(engine).await?;
        let place = fleet.scratch(&format!("bare-{round}"))?;
        let bare =
            by_docker(engine, image, &template, &place, round).await.context("a start by Docker failed")?;
        settle(engine).await?;
        if round >= WARM_UP {
            orca.push(ours);
            docker.push(bare);
            eprint!("\r{:>3} of {samples}   ", orca.len());
        }
    }
    eprintln!();
    let mut figures = Vec::new();
    for (name, part) in [("start p50", 0.5), ("start p95", 0.95), ("start min", 0.0)] {
        let (ours, bare) = (percentile(&orca, part), percentile(&docker, part));
        figures.push(Figure::new(name, "orca", ours, "ms"));
        figures.push(Figure::new(name, "docker", bare, "ms"));
        figures.push(Figure::new(format!("{name} ratio"), "orca/docker", ours / bare, "1"));
    }
    Ok(figures)
}

pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1_000.0)
}

/// From the call of enqueue to the first instruction of the task's own program, in ms.
async fn by_orca(client: &Client, image: &str) -> Result<f64> {
    let begun = now();
    let task = client.enqueue(&task(image, &[]), None).await?.summary.id;
    let result = finished(client, task).await?;
    Ok(result.as_f64().context("the task's result is no number")? / 1e6 - begun)
}

pub(crate) fn task(image: &str, arguments: &[&str]) -> NewTask {
    let mut task = NewTask::new(image);
    task.name = Some("noop".into());
    task.container.pull = Pull::Never;
    task.container.command =
        std::iter::once("/noop").chain(arguments.iter().copied()).map(str::to_owned).collect();
    task
}

/// The result of the task, once it is there. Looks seldom: looking is work for the system that is being measured.
pub(crate) async fn finished(client: &Client, id: TaskId) -> Result<serde_json::Value> {
    let deadline = Instant::now() + LIMIT;
    loop {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let task = client.task(id).await?;
        match task.summary.state {
            State::Succeeded => return task.result.context("the task has no result"),
            state if state.is_terminal() => {
                bail!("the task ended as {state}: {}", task.summary.reason.unwrap_or_default())
            }
            _ if Instant::now() >= deadline => bail!("the task had not ended after {} s", LIMIT.as_secs()),
            _ => {}
        }
    }
}

/// What the node asks the engine for, seen on a container of its own.
pub(crate) async fn template(fleet: &Fleet, engine: &Engine, image: &str) -> Result<HostConfig> {
    let id = fleet.client.enqueue(&task(image, &["2"]), None).await?.summary.id;
    let container = container_of(engine, id).await?;
    let inspected = engine.docker.inspect_container(&container, None).await?;
    finished(&fleet.client, id).await?;
    settle(engine).await?;
    let mut config = inspected.host_config.context("the engine says nothing of the container")?;
    config.mounts = None;
    Ok(config)
}

/// The id of the container that runs the task.
///
/// # Errors
/// If there is none within a minute.
pub(crate) async fn container_of(engine: &Engine, task: TaskId) -> Result<String> {
    let filters = std::collections::HashMap::from([("label", vec![format!("orca.task={task}")])]);
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        let options = ListContainersOptionsBuilder::new().filters(&filters).build();
        let found = engine.docker.list_containers(Some(options)).await?;
        if let Some(id) = found.into_iter().find_map(|container| container.id) {
            return Ok(id);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("no container of the task {task} appeared within {} s", LIMIT.as_secs())
}

/// The same kind of container for the bare API, with as many mounts as Orca's own: the directory, and one below it that is
/// read-only.
///
/// # Errors
/// If the directories cannot be made.
pub(crate) fn bare(image: &str, template: &HostConfig, place: &Path) -> Result<ContainerCreateBody> {
    use std::os::unix::fs::PermissionsExt;
    for name in ["out", "bin"] {
        std::fs::create_dir_all(place.join(name))?;
        std::fs::set_permissions(place.join(name), std::fs::Permissions::from_mode(0o777))?;
    }
    let binds =
        vec![format!("{}:/orca", place.display()), format!("{}:/orca/bin:ro", place.join("bin").display())];
    Ok(ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(vec!["/noop".to_owned()]),
        env: Some(vec!["ORCA_RESULT=/orca/out/result.json".to_owned()]),
        host_config: Some(HostConfig { binds: Some(binds), ..template.clone() }),
        ..ContainerCreateBody::default()
    })
}

/// From the call of create to the first instruction of the same program in the same kind of container, in ms.
async fn by_docker(
    engine: &Engine,
    image: &str,
    template: &HostConfig,
    place: &Path,
    round: usize,
) -> Result<f64> {
    let body = bare(image, template, place)?;
    let name = format!("bench-bare-{}-{round}", std::process::id());
    let options = CreateContainerOptionsBuilder::new().name(&name).build();
    let begun = now();
    engine.docker.create_container(Some(options), body).await?;
    let work = async {
        engine.docker.start_container(&name, None).await?;
        let result = place.join("out/result.json");
        let deadline = Instant::now() + LIMIT;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if let Ok(text) = std::fs::read_to_string(&result) {
                return Ok(text.trim().parse::<f64>()? / 1e6 - begun);
            }
            if Instant::now() >= deadline {
                bail!("the container left no result within {} s", LIMIT.as_secs());
            }
        }
    };
    let outcome = work.await;
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    engine.docker.remove_container(&name, Some(options)).await?;
    outcome
}

/// Waits until no task's container is left, and a little longer.
pub(crate) async fn settle(engine: &Engine) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while engine.labelled("orca.node=worker").await? > 0 {
        if Instant::now() >= deadline {
            bail!("a task's container was still there after {} s", LIMIT.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(QUIET).await;
    Ok(())
}

/// Enqueues a task that sleeps, and returns it with the id of its first process: the agent.
///
/// # Errors
/// If it does not start.
pub(crate) async fn sleeping_agent(client: &Client, engine: &Engine, image: &str) -> Result<(TaskId, u32)> {
    let id = client.enqueue(&task(image, &["600"]), None).await?.summary.id;
    let container = container_of(engine, id).await?;
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        let started = client.task(id).await?.attempts.iter().any(|attempt| attempt.started_at.is_some());
        let state = engine.docker.inspect_container(&container, None).await?.state;
        if let Some(pid) = state.and_then(|state| state.pid).and_then(|pid| u32::try_from(pid).ok())
            && pid != 0
            && started
        {
            return Ok((id, pid));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the sleeping task did not start within {} s", LIMIT.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::noop;
    use crate::demo::image;

    #[tokio::test]
    async fn a_program_alone_in_an_image_starts_and_says_when() {
        let engine = Engine::find().await.unwrap();
        let image = image::from_scratch(&engine, &noop::compile().await.unwrap(), "noop").await.unwrap();
        let place = tempfile::tempdir().unwrap();
        let template = HostConfig {
            network_mode: Some("none".into()),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".into()]),
            ..HostConfig::default()
        };
        let took = by_docker(&engine, &image, &template, place.path(), 0).await;
        engine.remove_image(&image).await.unwrap();
        assert!((1.0..60_000.0).contains(&took.unwrap()));
        assert!(!engine.has_image(&image).await.unwrap());
    }
}
