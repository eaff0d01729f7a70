//! What an operator, a planner or a task asks for: a [`NewTask`] and everything inside it.
//!
//! Every field but the image has a default that a newcomer never needs to touch. Unknown fields are refused, so a
//! misspelt policy is an error and not a silent default. [`NewTask::validate`] is the one set of rules; the CLI, the
//! node and the coordinator all call it.
//!
//! Written compactly: a field that has its default is left out, and reads back as that default. Specs are stored and sent
//! by the hundred thousand, and most say little more than an image and an input.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::duration::Span;
use crate::instant;
use crate::problem::FieldError;

pub(crate) mod check;
mod container;
mod egress;
mod placement;
mod retry;
mod secrets;
mod waits;

pub use check::{CALENDAR, holds_nul, is_in_calendar, is_valid_name, nests_deeper_than};
pub use container::{ContainerSpec, InputArtifact, Network, Pull, Resources};
pub use egress::{Destination, EgressRule, Host, USUAL_PORTS};
pub use placement::{gpu_label, meets};
pub use retry::{Backoff, Retry, RetryOn, Timeouts};
pub use secrets::SecretFile;
pub use waits::{Approval, OnTimeout, Unique, UniqueWhile, WaitFor};

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
    #[serde(default, skip_serializing_if = "is_default")]
    pub role: Role,
    /// The queue it waits in. Letters, digits, `.`, `_`, `-`; at most 128 bytes.
    #[serde(default = "default_queue", skip_serializing_if = "is_default_queue")]
    pub queue: String,
    /// The group in that queue that it belongs to: groups share the queue by their weights and may have limits of their own.
    /// Letters, digits, `.`, `_`, `-`; at most 128 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Higher goes first; -100 to 100.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i16,
    /// Not before this instant (RFC 3339); years 1970 to 2999.
    #[serde(default, deserialize_with = "instant::perhaps", skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// Not before so long after it was enqueued, by the coordinator's clock; not together with `run_at`. At most 366 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// If it has not begun by this instant (RFC 3339) it ends as `expired`; a running attempt is ended as `timed_out` and
    /// not tried again. In the future; years 1970 to 2999.
    #[serde(default, deserialize_with = "instant::perhaps", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// What to run.
    pub container: ContainerSpec,
    /// Any JSON, at most 1 MiB; the program finds it on standard input and in a file. Numbers are IEEE doubles where they are
    /// no 64-bit integers (write longer ones as strings); of a name given twice in one object the last counts.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
    /// Files that are put into the container before it starts, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<InputArtifact>,
    /// Secrets of the namespace that its program finds as files in `$ORCA_SECRETS_DIR`; at most 32, 256 KiB together. A task
    /// that a program plans or spawns may name only those that the program's own task names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretFile>,
    /// What the container may use.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Resources,
    /// What the container may reach.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: Network,
    /// Labels that a node must have to run it, such as `{"gpu": "a100", "os": "!windows"}`: the very value, `*` for any
    /// value, `!value` for any other value or none, `!*` for none. At most 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requires: BTreeMap<String, String>,
    /// Labels, written as in `requires`, of the nodes that it should rather run on: for its first 3 s in line only those get
    /// it, if one such is alive. At most 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prefers: BTreeMap<String, String>,
    /// When to try again.
    #[serde(default, skip_serializing_if = "Retry::is_usual")]
    pub retry: Retry,
    /// How long things may take.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
    /// Keys of tasks in the same plan or batch, or ids of tasks that exist, that must succeed first. One that has succeeded
    /// already is taken, as it may end between two commands. One that has ended otherwise is refused, unless
    /// `on_dependency_failure` is `run`; in a plan, among children and by SQL the task ends as `skipped` instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// What becomes of this task when one of its dependencies does not succeed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_dependency_failure: OnDependencyFailure,
    /// What becomes of this task when one of the tasks under it (its plan's, or those it spawned) does not succeed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_child_failure: OnChildFailure,
    /// At most one open task of the namespace has the same unique key; enqueueing another answers the one there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique: Option<Unique>,
    /// Stays `blocked` until an operator approves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// Stays `blocked` until each of these signals has arrived; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wait_for: Vec<WaitFor>,
    /// For people and filters; at most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Carried and shown, never looked at; at most 32, values of at most 1,024 bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
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

fn is_default_queue(queue: &str) -> bool {
    queue == DEFAULT_QUEUE
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
            group: None,
            priority: 0,
            run_at: None,
            delay: None,
            deadline: None,
            container: ContainerSpec { image: image.into(), ..ContainerSpec::default() },
            input: Value::Null,
            artifacts: Vec::new(),
            secrets: Vec::new(),
            resources: Resources::default(),
            network: Network::None,
            requires: BTreeMap::new(),
            prefers: BTreeMap::new(),
            retry: Retry::default(),
            timeouts: Timeouts::default(),
            depends_on: Vec::new(),
            on_dependency_failure: OnDependencyFailure::default(),
            on_child_failure: OnChildFailure::default(),
            unique: None,
            approval: None,
            wait_for: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
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
        check::task(self, check::Pointer::Below(at), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_its_default_is_not_written() {
        for text in [
            r#"{"container":{"image":"x"}}"#,
            r#"{"queue":"q","container":{"image":"x"},"input":1,"resources":{"cpus":2.0}}"#,
            r#"{"container":{"image":"x"},"retry":{"max_attempts":1,"backoff":{"initial":"5s"}},"timeouts":{"grace":"0s"}}"#,
            r#"{"container":{"image":"x"},"network":"open"}"#,
            r#"{"container":{"image":"x"},"network":{"egress":["example.com"]}}"#,
            r#"{"container":{"image":"x"},"retry":{"retry_on":[]},"unique":{"key":"k"},"approval":{},"wait_for":[{"signal":"s"}]}"#,
            r#"{"container":{"image":"x"},"secrets":[{"name":"a"},{"name":"b","as":"c.txt"}]}"#,
        ] {
            let task: NewTask = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&task).unwrap(), text);
        }
    }

    #[test]
    fn what_is_not_written_reads_back_as_its_default() {
        let text = serde_json::to_string(&NewTask::new("x")).unwrap();
        assert_eq!(serde_json::from_str::<NewTask>(&text).unwrap(), NewTask::new("x"));
        let mut task = NewTask::new("x");
        task.role = Role::Plan;
        task.retry.exit_codes = vec![3];
        task.timeouts.heartbeat = Some(Span::secs(5));
        task.on_child_failure = OnChildFailure::Continue;
        task.on_dependency_failure = OnDependencyFailure::Run;
        task.network = Network::Egress(vec!["api.example.com".to_owned(), "*.example.com:8443".to_owned()]);
        let text = serde_json::to_string(&task).unwrap();
        assert_eq!(serde_json::from_str::<NewTask>(&text).unwrap(), task);
    }

    #[test]
    fn a_misspelt_policy_is_an_error() {
        for text in [
            r#"{"container":{"image":"x"},"uniqe":{"key":"k"}}"#,
            r#"{"container":{"image":"x"},"unique":{"key":"k","during":"open"}}"#,
            r#"{"container":{"image":"x"},"approval":{"prompts":"?"}}"#,
            r#"{"container":{"image":"x"},"retry":{"exit_code":[1]}}"#,
            r#"{"container":{"image":"x"},"network":{"egres":["a"]}}"#,
            r#"{"container":{"image":"x"},"network":{"egress":["a"],"open":null}}"#,
            r#"{"container":{"image":"x"},"network":"egress"}"#,
            r#"{"container":{"image":"x"},"secrets":[{"name":"a","value":"b"}]}"#,
        ] {
            assert!(serde_json::from_str::<NewTask>(text).is_err(), "{text}");
        }
    }
}
