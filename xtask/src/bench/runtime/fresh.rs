//! Fresh containers: how long one takes on an idle node, and how many a second a busy one makes; by Orca from the claim to the
//! result, by the bare API from the call of create to the end of remove.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bollard::models::HostConfig;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, WaitContainerOptions,
};
use futures_util::{StreamExt, stream};
use orca_proto::client::Client;
use orca_proto::ids::TaskId;
use orca_proto::task::State;

use crate::bench::figures::{Figure, percentile};
use crate::bench::fleet::Fleet;
use crate::bench::start::{bare, finished, settle, task, template};
use crate::engine::Engine;

/// Containers one after another, of each system.
const SAMPLES: usize = 20;
/// Those before that do not count.
const WARM_UP: usize = 3;
/// Containers made as fast as possible.
const MANY: usize = 48;
/// How many at once the bare API is tried with.
const AT_ONCE: [usize; 4] = [1, 2, 4, 8];
const LIMIT: Duration = Duration::from_secs(180);

/// Measures both.
///
/// # Errors
/// If a container fails.
pub(super) async fn measure(fleet: &mut Fleet, engine: &Engine, image: &str) -> Result<Vec<Figure>> {
    let template = template(fleet, engine, image).await?;
    let scratch = fleet.scratch("bare")?;
    let bare = Bare { engine, image, template: &template, scratch };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..SAMPLES + WARM_UP {
        fleet.check()?;
        let orca = by_orca(&fleet.client, image).await?;
        settle(engine).await?;
        let docker = bare.one(round).await?;
        if round >= WARM_UP {
            ours.push(orca);
            theirs.push(docker);
        }
    }
    let (orca, docker) = (percentile(&ours, 0.5), percentile(&theirs, 0.5));
    let mut figures = vec![
        Figure::new("fresh_ms", "orca", orca, "ms"),
        Figure::new("fresh_ms", "docker", docker, "ms"),
        Figure::new("fresh_ms ratio", "orca/docker", orca / docker, "1"),
    ];
    let mut best = 0.0_f64;
    for at_once in AT_ONCE {
        let rate = bare.many(at_once).await?;
        println!("  docker, {at_once} at once: {rate:.1} containers/s");
        best = best.max(rate);
    }
    let orca = many(&fleet.client, engine, image).await?;
    figures.push(Figure::new("fresh_per_s", "orca", orca, "1/s"));
    figures.push(Figure::new("fresh_per_s", "docker", best, "1/s"));
    figures.push(Figure::new("fresh_per_s ratio", "orca/docker", orca / best, "1"));
    Ok(figures)
}

/// From the claim to the recorded result, in ms, by the coordinator's clock.
pub(super) async fn by_orca(client: &Client, image: &str) -> Result<f64> {
    let id = client.enqueue(&task(image, &[]), None).await?.summary.id;
    finished(client, id).await?;
    let attempt = client.task(id).await?.attempts.pop().context("the task has no attempt")?;
    let ended = attempt.ended_at.context("the attempt has no end")?;
    Ok((ended - attempt.granted_at).total(jiff::Unit::Millisecond)?)
}

/// Tasks a second, from the first enqueue until every container is gone.
async fn many(client: &Client, engine: &Engine, image: &str) -> Result<f64> {
    let begun = Instant::now();
    let mut ids: Vec<TaskId> = Vec::new();
    for _ in 0..MANY {
        ids.push(client.enqueue(&task(image, &[]), None).await?.summary.id);
    }
    for id in ids {
        loop {
            let found = client.task(id).await?.summary;
            match found.state {
                State::Succeeded => break,
                state if state.is_terminal() => {
                    bail!("a task ended as {state}: {}", found.reason.unwrap_or_default())
                }
                _ if begun.elapsed() > LIMIT => bail!("the tasks had not ended after {} s", LIMIT.as_secs()),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
    while engine.labelled("orca.node=worker").await? > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(MANY as f64 / begun.elapsed().as_secs_f64())
}

/// The bare API.
struct Bare<'a> {
    engine: &'a Engine,
    image: &'a str,
    template: &'a HostConfig,
    scratch: PathBuf,
}

impl Bare<'_> {
    /// One container, from create to the end of remove, in ms.
    async fn one(&self, number: usize) -> Result<f64> {
        let place = self.scratch.join(number.to_string());
        let begun = Instant::now();
        self.run(&place, &format!("bench-fresh-{}-{number}", std::process::id())).await?;
        Ok(begun.elapsed().as_secs_f64() * 1_000.0)
    }

    /// Containers a second.
    async fn many(&self, at_once: usize) -> Result<f64> {
        let begun = Instant::now();
        let runs = (0..MANY).map(|number| self.one(1_000 * at_once + number));
        let ended: Vec<Result<f64>> = stream::iter(runs).buffer_unordered(at_once).collect().await;
        ended.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(MANY as f64 / begun.elapsed().as_secs_f64())
    }

    async fn run(&self, place: &Path, name: &str) -> Result<()> {
        let docker = &self.engine.docker;
        let body = bare(self.image, self.template, place)?;
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        docker.create_container(Some(options), body).await?;
        let ran = async {
            docker.start_container(name, None).await?;
            let mut ended = Box::pin(docker.wait_container(name, None::<WaitContainerOptions>));
            let ended =
                tokio::time::timeout(LIMIT, ended.next()).await.context("a container does not end")?;
            ended.context("the engine broke off")??;
            anyhow::Ok(())
        };
        let ran = ran.await;
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        docker.remove_container(name, Some(options)).await?;
        ran
    }
}
