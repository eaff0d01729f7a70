//! What the agent in a container and its node say to each other, over two unix sockets in the attempt's directory.
//!
//! Inside the container that directory is `/orca` (with the process runtime, wherever `ORCA_DIR` says):
//!
//! | name | what |
//! |---|---|
//! | `node.sock` | served by the node: the routes of [`routes`], for the agent and for the task's own program |
//! | `agent.sock` | served by the agent, for the node: `GET /v1/health`, `POST /v1/cancellation` |
//! | `token` | backs the socket: sent as `Authorization: Bearer …` on every request in both directions |
//! | `bin/orca-agent` | the agent, read-only |
//! | `in/input.json`, `in/dependencies.json` | the task's input; [`crate::attempt::Dependencies`] |
//! | `files/NAME` | the input artifacts, read-only |
//! | `secrets/NAME` | the task's secrets, in memory; written by the agent before it starts the program |
//! | `out/result.json`, `out/plan.json` | where a program may leave its result or plan instead of posting it |
//! | `spool/report.json` | the agent's report, written and fsynced before it is posted |
//!
//! The program finds the environment variables of [`mod@env`]. Errors are [`crate::problem::Problem`]s here too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::duration::Span;
use crate::ids::{FencingToken, TaskId};
use crate::plan::Plan;
use crate::spec::{InputArtifact, Role};
use crate::task::{Outcome, Step, Timeout};

/// Paths on `node.sock`.
pub mod routes {
    /// `GET` → [`super::Brief`].
    pub const ATTEMPT: &str = "/v1/attempt";
    /// `POST` [`super::Started`] → 204.
    pub const STARTED: &str = "/v1/started";
    /// `POST` [`crate::task::Progress`] → 204.
    pub const PROGRESS: &str = "/v1/progress";
    /// `POST` [`crate::log::LogAppend`] → [`crate::log::LogAck`]. The agent only.
    pub const LOGS: &str = "/v1/logs";
    /// `PUT` bytes to `/v1/artifacts/{name}` → [`crate::artifact::Artifact`];
    /// `GET` of `/v1/artifacts/{id}` → the bytes of an input's or a dependency's artifact.
    pub const ARTIFACTS: &str = "/v1/artifacts";
    /// `PUT` any JSON → 204. The program's result; the last one before the end counts.
    pub const RESULT: &str = "/v1/result";
    /// `PUT` [`crate::plan::Plan`] → 204, or 422 `plan-invalid` and nothing staged. The planner's plan; the last one counts.
    pub const PLAN: &str = "/v1/plan";
    /// `POST` [`crate::attempt::Children`] → [`crate::plan::Enqueued`].
    pub const CHILDREN: &str = "/v1/children";
    /// `GET /v1/signals/{name}?wait=SPAN` → [`crate::attempt::Received`], or 204 when none came while it was held.
    pub const SIGNALS: &str = "/v1/signals";
    /// `GET` → [`crate::attempt::Dependencies`].
    pub const DEPENDENCIES: &str = "/v1/dependencies";
    /// `GET /v1/egress/{host}:{port}` with `Connection: upgrade` and `Upgrade:` [`super::TUNNEL`] → 101, and then the bytes
    /// of a connection to that host, in both directions. 403 `egress-refused` where the task may not reach it, 502
    /// `unreachable`, 504 `timeout`, 429 where too many are open.
    pub const EGRESS: &str = "/v1/egress";
    /// `GET` → [`crate::secret::AttemptSecrets`].
    pub const SECRETS: &str = "/v1/secrets";
    /// `POST` [`super::AgentReport`] → 204 once the node has it on disk. The agent only.
    pub const REPORT: &str = "/v1/report";
    /// `GET` on `agent.sock` → [`super::Health`].
    pub const HEALTH: &str = "/v1/health";
    /// `POST` [`super::Stop`] on `agent.sock` → 202.
    pub const CANCELLATION: &str = "/v1/cancellation";
}

/// What a connection on `node.sock` becomes once it is a tunnel to a host outside.
pub const TUNNEL: &str = "orca-tunnel";

/// Environment variables of the task's program (and, `DIR` alone, of the agent).
pub mod env {
    /// The attempt's directory.
    pub const DIR: &str = "ORCA_DIR";
    /// Path of `orca-agent`; its directory is also in front of `PATH`.
    pub const AGENT: &str = "ORCA_AGENT";
    /// Path of `node.sock`.
    pub const SOCKET: &str = "ORCA_SOCKET";
    /// The task's id.
    pub const TASK_ID: &str = "ORCA_TASK_ID";
    /// The attempt's number.
    pub const ATTEMPT: &str = "ORCA_ATTEMPT";
    /// The image that the container was made from.
    pub const IMAGE: &str = "ORCA_IMAGE";
    /// `plan` or `finish`, in planners' containers.
    pub const STEP: &str = "ORCA_STEP";
    /// Path of `in/input.json`.
    pub const INPUT: &str = "ORCA_INPUT";
    /// Path of `in/dependencies.json`; set where there are some.
    pub const DEPENDENCIES: &str = "ORCA_DEPENDENCIES";
    /// Path of the directory of input artifacts.
    pub const FILES: &str = "ORCA_FILES";
    /// Path of the directory of secrets; set where there are some.
    pub const SECRETS: &str = "ORCA_SECRETS_DIR";
    /// Path of `out/result.json`.
    pub const RESULT: &str = "ORCA_RESULT";
    /// Path of `out/plan.json`.
    pub const PLAN: &str = "ORCA_PLAN";
}

/// Names in the attempt's directory.
pub mod files {
    /// Served by the node.
    pub const NODE_SOCKET: &str = "node.sock";
    /// Served by the agent.
    pub const AGENT_SOCKET: &str = "agent.sock";
    /// Backs the sockets.
    pub const TOKEN: &str = "token";
    /// The agent.
    pub const AGENT: &str = "bin/orca-agent";
    /// The task's input.
    pub const INPUT: &str = "in/input.json";
    /// The results of its dependencies.
    pub const DEPENDENCIES: &str = "in/dependencies.json";
    /// The directory of input artifacts.
    pub const FILES: &str = "files";
    /// The directory of secrets, which is in memory.
    pub const SECRETS: &str = "secrets";
    /// Where a program may leave its result.
    pub const RESULT: &str = "out/result.json";
    /// Where a program may leave its plan.
    pub const PLAN: &str = "out/plan.json";
    /// The agent's report.
    pub const REPORT: &str = "spool/report.json";
}

/// What the agent is to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Brief {
    /// The task.
    pub task: TaskId,
    /// The fencing token.
    pub token: FencingToken,
    /// The attempt's number.
    pub attempt: i32,
    /// Attempts in all.
    pub max_attempts: i32,
    /// Who runs it.
    pub role: Role,
    /// For planners' tasks, which step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// The image's reference.
    pub image: String,
    /// The program and its arguments; never empty. A program without a `/` is looked up in `PATH`.
    pub command: Vec<String>,
    /// Environment variables to add to the agent's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory, when not the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Goes to standard input.
    #[serde(default)]
    pub input: Value,
    /// The input artifacts, under `files/`.
    #[serde(default)]
    pub artifacts: Vec<InputArtifact>,
    /// Whether the task may reach hosts by the node's tunnels, so that the agent offers a proxy. Which hosts, the node knows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub egress: bool,
    /// Whether `in/dependencies.json` is there.
    pub has_dependencies: bool,
    /// Whether there are secrets to fetch before the program is started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_secrets: bool,
    /// How long the program may run.
    pub start_to_close: Span,
    /// Between SIGTERM and SIGKILL.
    pub grace: Span,
    /// How long the agent waits for a node that does not answer before it stops the program and itself.
    pub orphan_after: Span,
}

/// The program was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Started {
    /// Its process id, as the agent sees it.
    pub pid: u32,
}

/// How the program ended, as the agent saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AgentReport {
    /// How it ended: `succeeded`, `failed`, `timed_out`, `out_of_memory`, `killed`, `cancelled` or `rejected`.
    pub outcome: Outcome,
    /// From `out/result.json`, when the program left one there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// From `out/plan.json`, when the program left one there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// Whether the agent could see the kernel's count of kills for memory: then its word on that is better than the engine's,
    /// which knows that there was one but not when.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub memory_watched: bool,
}

/// Ask the agent to stop its program: SIGTERM, the brief's grace, SIGKILL. A cancel, unless a limit is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Instead of the brief's grace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Span>,
    /// The limit that was reached; the outcome is then `timed_out`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Timeout>,
}

/// The agent lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Orca's version.
    pub version: String,
    /// Its program's process id, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}
