//! What an operator, a planner or a task asks for: a [`NewTask`] and everything inside it.
//!
//! Every field but the image has a default that a newcomer never needs to touch. Unknown fields are refused, so a
//! misspelt policy is an error and not a silent default. [`NewTask::validate`] is the one set of rules; the CLI, the
//! node and the coordinator all call it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::duration::Span;
use crate::ids::ArtifactId;
use crate::problem::FieldError;
use crate::quantity::Bytes;

/// The queue of a task that names none.
pub const DEFAULT_QUEUE: &str = "default";

/// Who runs a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A worker node; the container returns a result.
    #[default]
    Work,
    /// A planner node; the container returns a plan, or a result where there is nothing to plan. Such a task is a goal.
    Plan,
}

/// A task to enqueue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewTask {
    /// Names the task inside its plan or batch, for `depends_on` and for the results its dependents receive. Unique there.
    /// Letters, digits, `.`, `_`, `-`, `/`; at most 128 bytes; not a UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A name for people; need not be unique. Defaults to `key`, or to the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who runs it.
    #[serde(default)]
    pub role: Role,
    /// The queue it waits in. Letters, digits, `.`, `_`, `-`; at most 128 bytes.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// Higher goes first; -100 to 100.
    #[serde(default)]
    pub priority: i16,
    /// Not before this instant (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// What to run.
    pub container: ContainerSpec,
    /// Any JSON, at most 1 MiB; the program finds it on standard input and in a file.
    #[serde(default)]
    pub input: Value,
    /// Files that are put into the container before it starts, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<InputArtifact>,
    /// What the container may use.
    #[serde(default)]
    pub resources: Resources,
    /// What the container may reach.
    #[serde(default)]
    pub network: Network,
    /// When to try again.
    #[serde(default)]
    pub retry: Retry,
    /// How long things may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Keys of tasks in the same plan or batch, or ids of tasks that exist, that must succeed first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// What becomes of this task when one of its dependencies does not succeed.
    #[serde(default)]
    pub on_dependency_failure: OnDependencyFailure,
    /// What becomes of this task when one of the tasks under it (its plan's, or those it spawned) does not succeed.
    #[serde(default)]
    pub on_child_failure: OnChildFailure,
    /// For people and filters; at most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The container of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// An OCI image reference, such as `debian:bookworm-slim` or `ghcr.io/me/tool@sha256:…`.
    pub image: String,
    /// The program and its arguments. When empty, the image's own entrypoint and command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment variables, over those of the image. Not for secrets. Names that begin with `ORCA_` are Orca's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// User (`name`, `uid` or `uid:gid`), when not the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory (absolute), when not the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// How the image is got.
    #[serde(default)]
    pub pull: Pull,
}

/// When an image is fetched from its registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Pull {
    /// Only if the node's engine does not hold it.
    #[default]
    Missing,
    /// Before every attempt.
    Always,
    /// Never; an absent image is refused.
    Never,
}

/// A stored file to put into the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct InputArtifact {
    /// Which one.
    pub id: ArtifactId,
    /// Its name under `$ORCA_DIR/files/`. Letters, digits, `.`, `_`, `-`; does not begin with a dot.
    pub name: String,
    /// Unpack a tar archive into a directory of that name. Links, devices, absolute names and `..` are refused.
    #[serde(default)]
    pub unpack: bool,
}

/// What a container may use. Enforced by the engine, without swap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Processor cores; 0.01 to 1024.
    pub cpus: f64,
    /// Memory; at least 16MiB (the agent lives there too).
    pub memory: Bytes,
    /// Processes and threads; 8 to 1,000,000.
    pub pids: u32,
    /// Size of the writable `/tmp`; counts as memory where it is used. At least 1MiB.
    pub tmp: Bytes,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: 1.0, memory: Bytes::mib(512), pids: 512, tmp: Bytes::mib(64) }
    }
}

/// What a container may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Nothing but its own loopback and its node's socket.
    #[default]
    None,
    /// Whatever the node's engine lets a bridge reach. A node refuses it unless its settings allow it.
    Open,
}

/// When a task is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts in all, the first included; 1 to 100. A failure of the engine itself does not count.
    pub max_attempts: i32,
    /// How long to wait in between.
    pub backoff: Backoff,
    /// Which outcomes are worth another attempt.
    pub retry_on: Vec<RetryOn>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            backoff: Backoff::default(),
            retry_on: vec![
                RetryOn::Failed,
                RetryOn::TimedOut,
                RetryOn::OutOfMemory,
                RetryOn::Killed,
                RetryOn::Lost,
            ],
        }
    }
}

/// The wait before attempt n+1: `initial × factor^(n-1)`, at most `max`, less a random part of up to `jitter` of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Backoff {
    /// Before the second attempt.
    pub initial: Span,
    /// Growth per attempt; 1 to 10.
    pub factor: f64,
    /// Upper bound.
    pub max: Span,
    /// Share of the wait that is random; 0 to 1.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Span::secs(1), factor: 2.0, max: Span::secs(300), jitter: 0.1 }
    }
}

/// An outcome that may be tried again. `rejected` and `cancelled` never are; `runtime_error` always is, within a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// The program exited with a code other than 0.
    Failed,
    /// A time limit was reached.
    TimedOut,
    /// The kernel killed it for memory.
    OutOfMemory,
    /// A signal that Orca did not send ended it.
    Killed,
    /// Its node went away.
    Lost,
}

/// How long things may take. Absent means no limit, except where a default is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From ready to running; the task then expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_to_start: Option<Span>,
    /// One attempt, from the start of its program; 1 hour unless told.
    pub start_to_close: Span,
    /// Between SIGTERM and SIGKILL when a limit is reached or the task is cancelled; 10 s unless told.
    pub grace: Span,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { schedule_to_start: None, start_to_close: Span::secs(3_600), grace: Span::secs(10) }
    }
}

/// What becomes of a task when a dependency did not succeed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[serde(rename_all = "snake_case")]
pub enum OnDependencyFailure {
    /// It ends as `skipped`.
    #[default]
    Skip,
    /// It runs once all dependencies have ended, and finds their outcomes among its inputs.
    Run,
}

/// What becomes of a task when one of the tasks under it did not succeed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
#[serde(rename_all = "snake_case")]
pub enum OnChildFailure {
    /// The rest under it are cancelled and it fails, naming the one that failed.
    #[default]
    Fail,
    /// The rest go on; a goal's finish step sees all outcomes and decides. A task that spawned keeps its own result.
    Continue,
}

fn default_queue() -> String {
    DEFAULT_QUEUE.to_owned()
}

impl NewTask {
    /// A worker task for `image` with every default.
    #[must_use]
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            key: None,
            name: None,
            role: Role::Work,
            queue: default_queue(),
            priority: 0,
            run_at: None,
            container: ContainerSpec { image: image.into(), ..ContainerSpec::default() },
            input: Value::Null,
            artifacts: Vec::new(),
            resources: Resources::default(),
            network: Network::None,
            retry: Retry::default(),
            timeouts: Timeouts::default(),
            depends_on: Vec::new(),
            on_dependency_failure: OnDependencyFailure::default(),
            on_child_failure: OnChildFailure::default(),
            labels: BTreeMap::new(),
        }
    }

    /// The name shown to people: `name`, else `key`, else the image.
    #[must_use]
    pub fn display_name(&self) -> &str {
        self.name.as_deref().or(self.key.as_deref()).unwrap_or(&self.container.image)
    }

    /// Checks every field against its documented range and appends what is wrong to `errors`, each with a JSON pointer
    /// (RFC 6901) below `at`. Dependencies are checked by [`crate::plan::validate`].
    pub fn validate(&self, at: &str, errors: &mut Vec<FieldError>) {
        check::task(self, at, errors);
    }
}

pub use check::{holds_nul, nests_deeper_than};
pub(crate) mod check;
