//! Everything that must be there before the container: image, directories, input, the served socket. The slow parts run
//! side by side; a drop in the middle leaves only files, which the settlement removes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, try_join_all};
use orca_proto::agent::Brief;
use orca_proto::attempt::Dependencies;
use orca_proto::client::ClientError;
use orca_proto::client::worker::HeldLease;
use orca_proto::duration::Span;
use orca_proto::ids::ArtifactId;
use orca_proto::node::Grant;
use orca_proto::problem::Kind;
use orca_proto::task::Outcome;

use super::Interrupted;
use super::directory::Directory;
use super::redact::Redactor;
use super::session::{Given, Session, Token};
use super::socket::Server;
use crate::daemon::Node;
use crate::files::{FilesError, InUse};
use crate::retry::a_few_times;
use crate::runtime::{Image, Launch, Shown};
use crate::settings::RuntimeKind;

/// A container that can be started.
pub(super) struct Prepared {
    pub(super) session: Arc<Session>,
    pub(super) server: Server,
    pub(super) launch: Launch,
    /// How long the program may go without reporting progress.
    pub(super) heartbeat: Option<Duration>,
    /// Keeps the input artifacts in the cache.
    pub(super) _inputs: Vec<InUse>,
}

/// Directories in the making. Goes on when nobody waits, so whoever removes them waits for it first.
pub(super) type Making = Shared<BoxFuture<'static, Result<Token, String>>>;

/// Begins to make the attempt's directories; answers the socket's token once they are there.
pub(super) fn make_directories(node: &Node, grant: &Grant, lease: &HeldLease) -> Making {
    let directory = Directory::of(&node.state, lease.lease);
    let (grant, name) = (grant.clone(), super::container_name(grant));
    let mounted = node.settings.runtime.kind == RuntimeKind::Docker;
    let making = tokio::task::spawn_blocking(move || {
        let token = Token::generate()?;
        directory.create(&grant, &name, token.expose(), mounted)?;
        Ok(token)
    });
    let made = making.map(|made| match made {
        Ok(made) => made.map_err(|error: std::io::Error| error.to_string()),
        Err(error) => Err(error.to_string()),
    });
    made.boxed().shared()
}

/// Prepares an attempt.
pub(super) async fn prepare(
    node: &Arc<Node>,
    grant: &Grant,
    lease: &Arc<HeldLease>,
    making: Making,
) -> Result<Prepared, Interrupted> {
    let directory = Directory::of(&node.state, lease.lease);
    let name = super::container_name(grant);
    let made = async { making.await.map_err(here) };
    let image = async { node.runtime.image(&grant.spec.container).await.map_err(Interrupted::from) };
    let inputs = async {
        let fetches = grant.spec.artifacts.iter().map(|input| node.files.fetch(node.client(), input));
        try_join_all(fetches).await.map_err(Interrupted::from)
    };
    let dependencies = async {
        if !grant.has_dependencies {
            return Ok(None);
        }
        let fetched = a_few_times(|| node.client().dependencies(lease.lease)).await;
        fetched.map(Some).map_err(|error| {
            Interrupted::Unfit(Outcome::RuntimeError {
                reason: format!("the results of the dependencies could not be fetched: {error}"),
            })
        })
    };
    let secrets = secrets(node, grant, lease);
    let (token, image, inputs, dependencies, secrets) =
        tokio::try_join!(made, image, inputs, dependencies, secrets)?;

    let brief = brief(node, grant, &image)?;
    let readable = readable(grant, dependencies.as_ref());
    if let Some(dependencies) = dependencies {
        let directory = directory.clone();
        let put = move || directory.put_dependencies(&dependencies);
        tokio::task::spawn_blocking(put).await.map_err(here)?.map_err(here)?;
    }
    let launch = Launch {
        labels: labels(node, grant),
        name,
        user: grant.spec.container.user.clone(),
        resources: grant.spec.resources.clone(),
        network: grant.spec.network,
        directory: directory.shared.clone(),
        secrets: brief.has_secrets,
        artifacts: grant
            .spec
            .artifacts
            .iter()
            .zip(&inputs)
            .map(|(input, in_use)| Shown { name: input.name.clone(), source: in_use.path.clone() })
            .collect(),
        image,
    };
    let session =
        Session::new(Arc::clone(node), Arc::clone(lease), brief, token, directory, readable, secrets);
    let session = Arc::new(session.map_err(here)?);
    let server = Server::start(Arc::clone(&session)).map_err(here)?;
    let heartbeat = grant.spec.timeouts.heartbeat.map(Span::get);
    Ok(Prepared { session, server, launch, heartbeat, _inputs: inputs })
}

/// The secrets that the task names. One that is not there any more is not there for another node either.
async fn secrets(node: &Node, grant: &Grant, lease: &HeldLease) -> Result<Given, Interrupted> {
    if grant.spec.secrets.is_empty() {
        return Ok(Given { text: Bytes::new(), redactor: Redactor::none() });
    }
    let fetched = a_few_times(|| node.client().attempt_secrets(lease.lease)).await;
    let secrets = fetched.map_err(|error| {
        Interrupted::Unfit(match error {
            ClientError::Problem(problem) if matches!(problem.kind, Kind::NotFound | Kind::Validation) => {
                Outcome::Rejected { reason: problem.to_string() }
            }
            error => Outcome::RuntimeError { reason: format!("the secrets could not be fetched: {error}") },
        })
    })?;
    // What a task may be given at most takes a while to make ready to be found.
    let given = move || -> Result<Given, String> {
        let text = serde_json::to_vec(&secrets).map_err(|error| error.to_string())?;
        Ok(Given { text: text.into(), redactor: Redactor::new(&secrets.secrets)? })
    };
    tokio::task::spawn_blocking(given).await.map_err(here)?.map_err(here)
}

/// What the agent is to run: the task's command, or else the image's own.
fn brief(node: &Node, grant: &Grant, image: &Image) -> Result<Brief, Interrupted> {
    let spec = &grant.spec;
    let command = if spec.container.command.is_empty() {
        image.command.clone()
    } else {
        spec.container.command.clone()
    };
    if command.first().is_none_or(String::is_empty) {
        let reason = format!(
            "there is nothing to run: the task names no command, and the image {} has neither entrypoint nor command",
            spec.container.image
        );
        return Err(Interrupted::Unfit(Outcome::Rejected { reason }));
    }
    Ok(Brief {
        task: grant.task,
        token: grant.token,
        attempt: grant.attempt,
        max_attempts: grant.max_attempts,
        role: spec.role,
        step: grant.step,
        image: spec.container.image.clone(),
        command,
        env: spec.container.env.clone(),
        workdir: spec.container.workdir.clone(),
        input: spec.input.clone(),
        artifacts: spec.artifacts.clone(),
        has_dependencies: grant.has_dependencies,
        has_secrets: !spec.secrets.is_empty(),
        start_to_close: spec.timeouts.start_to_close,
        grace: spec.timeouts.grace,
        // A node that is silent for longer has lost the lease anyway.
        orphan_after: Span::from(node.member.lease()),
    })
}

/// The artifacts that the attempt may read: its inputs and its dependencies'.
fn readable(grant: &Grant, dependencies: Option<&Dependencies>) -> HashSet<ArtifactId> {
    let inputs = grant.spec.artifacts.iter().map(|input| input.id);
    let kept = dependencies.into_iter().flat_map(|dependencies| &dependencies.tasks);
    inputs.chain(kept.flat_map(|task| &task.artifacts).map(|artifact| artifact.id)).collect()
}

fn labels(node: &Node, grant: &Grant) -> HashMap<String, String> {
    HashMap::from([
        ("orca.node".to_owned(), node.settings.placement.name.clone()),
        ("orca.task".to_owned(), grant.task.to_string()),
        ("orca.attempt".to_owned(), grant.attempt.to_string()),
        ("orca.token".to_owned(), grant.token.to_string()),
    ])
}

/// A fault of this machine: the task may well run on another.
fn here(error: impl std::fmt::Display) -> Interrupted {
    Interrupted::Unfit(Outcome::RuntimeError { reason: format!("the node could not prepare it: {error}") })
}

impl From<FilesError> for Interrupted {
    fn from(error: FilesError) -> Self {
        let reason = error.to_string();
        Self::Unfit(match error {
            FilesError::Rejected { .. } => Outcome::Rejected { reason },
            FilesError::Failed { .. } => Outcome::RuntimeError { reason },
        })
    }
}
