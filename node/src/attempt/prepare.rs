//! Everything that must be there before the container: image, directories, input, the served socket. The slow parts run
//! side by side; a drop in the middle leaves only files, which the settlement removes.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

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
use orca_proto::spec::{Network, Resources};
use orca_proto::task::Outcome;
use tokio::time::Instant;

use super::directory::Directory;
use super::intent::Intent;
use super::redact::Redactor;
use super::session::{Given, Session, Token};
use super::socket::Server;
use super::{Interrupted, pulled};
use crate::daemon::Node;
use crate::egress::Allowance;
use crate::files::{FilesError, InUse};
use crate::retry::a_few_times;
use crate::runtime::gpus::Gpus;
use crate::runtime::{Image, Launch, Shown};
use crate::settings::RuntimeKind;

/// A container that can be started, and what is needed to watch over it.
pub(super) struct Prepared {
    pub(super) launch: Launch,
    pub(super) attended: Attended,
}

/// What is needed to watch over a container, whoever started it.
pub(super) struct Attended {
    pub(super) session: Arc<Session>,
    pub(super) server: Server,
    /// The container's.
    pub(super) name: String,
    pub(super) resources: Resources,
    /// How long the program may go without reporting progress.
    pub(super) heartbeat: Option<Duration>,
    /// How long the program has run under an earlier daemon.
    pub(super) ran: Duration,
    pub(super) _kept: Kept,
}

/// What is an attempt's own for as long as it lasts.
pub(super) struct Kept {
    /// Keeps the input artifacts in the cache.
    pub(super) _inputs: Vec<InUse>,
    pub(super) _gpus: Gpus,
}

/// Directories in the making. Goes on when nobody waits, so whoever removes them waits for it first.
pub(super) type Making = Shared<BoxFuture<'static, Result<Token, String>>>;

/// Begins to make the attempt's directories; answers the socket's token once they are there.
pub(super) fn make_directories(node: &Node, grant: &Grant, lease: &HeldLease) -> Making {
    let directory = Directory::of(&node.state, lease.lease);
    let grant = grant.clone();
    let mounted = node.settings.runtime.kind == RuntimeKind::Docker;
    let making = tokio::task::spawn_blocking(move || {
        let token = Token::generate()?;
        directory.create(&grant, token.expose(), mounted)?;
        Ok(token)
    });
    let made = making.map(|made| match made {
        Ok(made) => made.map_err(|error: io::Error| error.to_string()),
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
    let egress = egress(node, &grant.spec.network)
        .map_err(|reason| Interrupted::Unfit(Outcome::Rejected { reason }))?;
    let directory = Directory::of(&node.state, lease.lease);
    let name = super::container_name(grant);
    let made = async { making.await.map_err(here) };
    let image = pulled::image(node, grant, lease);
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
    let secrets = secrets(node, !grant.spec.secrets.is_empty(), lease);
    let gpus = async {
        let gpus = node.gpus.take(grant.spec.resources.gpus).await;
        gpus.map_err(|reason| Interrupted::Unfit(Outcome::Rejected { reason }))
    };
    let (token, (image, preface), inputs, dependencies, gpus, secrets) =
        tokio::try_join!(made, image, inputs, dependencies, gpus, secrets)?;

    let intent = Intent {
        lease: lease.lease,
        container: name.clone(),
        token: token.expose().to_owned(),
        brief: brief(node, grant, &image)?,
        image: image.digest.clone(),
        log_start: pulled::log_start(node, lease, preface).await?,
        readable: readable(grant, dependencies.as_ref()),
        heartbeat: grant.spec.timeouts.heartbeat.map(Span::get),
        resources: grant.spec.resources.clone(),
        gpus: gpus.numbers().to_vec(),
        network: grant.spec.network.clone(),
        has_inputs: !inputs.is_empty(),
        deadline: lease.deadline.map(|at| SystemTime::now() + at.saturating_duration_since(Instant::now())),
    };
    let into = directory.clone();
    let writing = tokio::task::spawn_blocking(move || {
        if let Some(dependencies) = dependencies {
            into.put_dependencies(&dependencies)?;
        }
        into.put_intent(&intent)?;
        io::Result::Ok(intent)
    });
    let intent = writing.await.map_err(here)?.map_err(here)?;
    let launch = Launch {
        labels: labels(node, grant),
        name: name.clone(),
        user: grant.spec.container.user.clone(),
        resources: grant.spec.resources.clone(),
        network: grant.spec.network.clone(),
        directory: directory.shared.clone(),
        gpus: gpus.clone(),
        secrets: !grant.spec.secrets.is_empty(),
        artifacts: grant
            .spec
            .artifacts
            .iter()
            .zip(&inputs)
            .map(|(input, in_use)| Shown { name: input.name.clone(), source: in_use.path.clone() })
            .collect(),
        image,
    };
    let (secrets, redactor) = secrets;
    let given = Given { secrets, redactor, egress };
    let attended =
        attend(node, lease, intent, given, directory, Duration::ZERO, Kept { _inputs: inputs, _gpus: gpus })
            .map_err(here)?;
    Ok(Prepared { launch, attended })
}

/// Serves the socket of an attempt whose intent is written.
pub(super) fn attend(
    node: &Arc<Node>,
    lease: &Arc<HeldLease>,
    intent: Intent,
    given: Given,
    directory: Directory,
    ran: Duration,
    kept: Kept,
) -> io::Result<Attended> {
    let (name, resources, heartbeat) = (intent.container.clone(), intent.resources.clone(), intent.heartbeat);
    let session = Arc::new(Session::new(Arc::clone(node), Arc::clone(lease), intent, directory, given)?);
    let server = Server::start(Arc::clone(&session))?;
    Ok(Attended { session, server, name, resources, heartbeat, ran, _kept: kept })
}

/// The secrets that the task names. One that is not there any more is not there for another node either.
pub(super) async fn secrets(
    node: &Node,
    has_secrets: bool,
    lease: &HeldLease,
) -> Result<(Bytes, Redactor), Interrupted> {
    if !has_secrets {
        return Ok((Bytes::new(), Redactor::none()));
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
    let given = move || -> Result<(Bytes, Redactor), String> {
        let text = serde_json::to_vec(&secrets).map_err(|error| error.to_string())?;
        Ok((text.into(), Redactor::new(&secrets.secrets)?))
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
        egress: matches!(spec.network, Network::Egress(_)),
        has_dependencies: grant.has_dependencies,
        has_secrets: !spec.secrets.is_empty(),
        start_to_close: spec.timeouts.start_to_close,
        grace: spec.timeouts.grace,
        // A node that is silent for longer has lost the lease anyway.
        orphan_after: Span::from(node.member.lease()),
    })
}

/// What the attempt may reach, where its task names hosts.
///
/// # Errors
/// In words, if it may reach none of that from here.
pub(super) fn egress(node: &Node, network: &Network) -> Result<Option<Allowance>, String> {
    let Network::Egress(list) = network else { return Ok(None) };
    if node.gate.is_shut() {
        let reason = "it names hosts to reach (network.egress), which this node does not allow (--no-egress)";
        return Err(reason.to_owned());
    }
    Allowance::new(Arc::clone(&node.gate), list).map(Some)
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
