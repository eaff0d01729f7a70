//! The specs that tests enqueue.

use orca_proto::duration::Span;
use orca_proto::quantity::Bytes;
use orca_proto::spec::{NewTask, Pull, Role};
use serde_json::Value;

use crate::settings;

/// A task that runs `script` with `sh` in the base image, with little memory, and retries that do not wait long.
#[must_use]
pub fn shell(name: &str, script: &str) -> NewTask {
    let mut task = in_image(name, &settings::base_image());
    task.container.command = vec!["/bin/sh".into(), "-euc".into(), script.into()];
    task
}

/// A task that runs what `image` itself says.
#[must_use]
pub fn in_image(name: &str, image: &str) -> NewTask {
    let mut task = NewTask::new(image);
    task.name = Some(name.to_owned());
    task.container.pull = Pull::Never;
    task.resources.memory = Bytes::mib(64);
    task.resources.tmp = Bytes::mib(8);
    task.retry.backoff.initial = Span::millis(100);
    task.timeouts.start_to_close = Span::secs(60);
    task.timeouts.grace = Span::secs(2);
    task
}

/// A goal whose planner runs `script` with `sh`, once, and finds `input`.
#[must_use]
pub fn goal(name: &str, script: &str, input: Value) -> NewTask {
    let mut task = shell(name, script);
    task.role = Role::Plan;
    task.input = input;
    task.retry.max_attempts = 1;
    task
}

/// A script that answers with `json`.
#[must_use]
pub fn answer(json: &Value) -> String {
    format!("\"$ORCA_AGENT\" result '{json}'")
}
