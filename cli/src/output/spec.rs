//! What was asked for, for people: always what runs, and of the rest what is not as usual.

use std::collections::BTreeMap;

use orca_proto::spec::{
    Approval, Backoff, Network, NewTask, OnTimeout, Resources, Retry, RetryOn, SecretFile, UniqueWhile,
};

use super::escape;
use crate::error::Failure;

/// Gives the parts of `spec` to `field`, each with its name.
pub(crate) fn fields(
    spec: &NewTask,
    field: &impl Fn(&str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if spec.container.image.is_empty() {
        // It came by SQL and was none.
        return field("submitted", &escape::line(&spec.input.to_string()));
    }
    field("image", &escape::line(&spec.container.image))?;
    if !spec.container.command.is_empty() {
        let words: Vec<String> = spec.container.command.iter().map(|word| quoted(word)).collect();
        field("command", &escape::line(&words.join(" ")))?;
    }
    let mut limits = format!(
        "cpus {}, memory {}, time {}",
        spec.resources.cpus, spec.resources.memory, spec.timeouts.start_to_close
    );
    limits.push_str(&unusual(&spec.resources));
    if let Some(heartbeat) = spec.timeouts.heartbeat {
        limits.push_str(&format!(", heartbeat {heartbeat}"));
    }
    if let Some(limit) = spec.timeouts.schedule_to_start {
        limits.push_str(&format!(", in line {limit}"));
    }
    field("limits", &limits)?;
    if !spec.secrets.is_empty() {
        let one = |secret: &SecretFile| match &secret.r#as {
            Some(file) => format!("{} as {file}", secret.name),
            None => secret.name.clone(),
        };
        let all: Vec<String> = spec.secrets.iter().map(one).collect();
        field("secrets", &escape::line(&all.join(", ")))?;
    }
    match &spec.network {
        Network::None => {}
        Network::Egress(hosts) => field("network", &escape::line(&format!("only {}", hosts.join(", "))))?,
        Network::Open => field("network", "open")?,
    }
    for (name, wanted) in [("requires", &spec.requires), ("prefers", &spec.prefers)] {
        if !wanted.is_empty() {
            field(name, &escape::line(&pairs(wanted)))?;
        }
    }
    let retry = retry(&spec.retry);
    if !retry.is_empty() {
        field("retry", &retry)?;
    }
    if let Some(unique) = &spec.unique {
        let until = match unique.r#while {
            UniqueWhile::Open => "ended",
            UniqueWhile::Queued => "begun",
        };
        field("unique", &escape::line(&format!("{} until it has {until}", unique.key)))?;
    }
    if let Some(Approval { prompt, timeout, on_timeout }) = &spec.approval {
        let limit =
            timeout.map_or_else(String::new, |timeout| format!(" ({} after {timeout})", then(*on_timeout)));
        field("approval", &escape::line(&format!("{}{limit}", prompt.as_deref().unwrap_or("needed"))))?;
    }
    for wait in &spec.wait_for {
        let limit = wait
            .timeout
            .map_or_else(String::new, |timeout| format!(" ({} after {timeout})", then(wait.on_timeout)));
        field("signal", &escape::line(&format!("{}{limit}", wait.signal)))?;
    }
    Ok(())
}

/// The limits that are not as usual.
fn unusual(resources: &Resources) -> String {
    let usual = Resources::default();
    let Resources { cpus: _, memory: _, pids, tmp, disk, shm, open_files, gpus } = resources;
    let mut text = String::new();
    for (name, size, of) in [("tmp", tmp, usual.tmp), ("disk", disk, usual.disk), ("shm", shm, usual.shm)] {
        if *size != of {
            text.push_str(&format!(", {name} {size}"));
        }
    }
    for (name, count, of) in [
        ("processes", pids, usual.pids),
        ("open files", open_files, usual.open_files),
        ("GPUs", gpus, usual.gpus),
    ] {
        if *count != of {
            text.push_str(&format!(", {name} {count}"));
        }
    }
    text
}

fn then(on_timeout: OnTimeout) -> &'static str {
    match on_timeout {
        OnTimeout::Cancel => "cancelled",
        OnTimeout::Proceed => "goes on",
    }
}

/// What is not as usual about trying again; how often is told beside the state.
fn retry(retry: &Retry) -> String {
    let Retry { max_attempts: _, backoff, retry_on, exit_codes, except_exit_codes } = retry;
    let usual = Retry::default();
    let mut parts = Vec::new();
    if *backoff != usual.backoff {
        let Backoff { initial, factor, max, jitter: _ } = backoff;
        parts.push(if *factor == 1.0 {
            format!("after {initial} each time")
        } else {
            format!("after {initial}, {factor} times as long each time, at most {max}")
        });
    }
    if *retry_on != usual.retry_on {
        let outcomes: Vec<String> = retry_on.iter().map(outcome).collect();
        parts.push(if outcomes.is_empty() {
            "never".to_owned()
        } else {
            format!("only {}", outcomes.join(", "))
        });
    }
    let codes = |codes: &[i32]| codes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if !exit_codes.is_empty() {
        parts.push(format!("only exit codes {}", codes(exit_codes)));
    }
    if !except_exit_codes.is_empty() {
        parts.push(format!("not exit codes {}", codes(except_exit_codes)));
    }
    parts.join("; ")
}

fn outcome(outcome: &RetryOn) -> String {
    match outcome {
        RetryOn::Failed => "failed",
        RetryOn::TimedOut => "timed out",
        RetryOn::OutOfMemory => "out of memory",
        RetryOn::Killed => "killed",
        RetryOn::Lost => "lost",
    }
    .to_owned()
}

fn pairs(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
