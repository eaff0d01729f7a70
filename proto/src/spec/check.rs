//! The rules for a task's fields: one function per part of the spec.

mod container;
mod json;
mod network;
mod pointer;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Display;

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::{Approval, Backoff, NewTask, Resources, Retry, SecretFile, Timeouts, Unique, WaitFor};
use crate::duration::Span;
use crate::limits;
use crate::problem::{ENOUGH_ERRORS, FieldError};
use crate::quantity::Bytes;

pub use json::{holds_nul, nests_deeper_than};
pub(crate) use pointer::Pointer;

pub(crate) type Errors = Vec<FieldError>;

/// The punctuation of names of queues, groups, schedules, signals.
pub(crate) const NAME: &str = "._-";
/// The punctuation of labels' keys.
const KEY: &str = "._-/";
/// Seconds since 1970 at the end of the year 2999: later than anybody means, earlier than any part's calendar ends.
const LAST_SECOND: i64 = 32_503_679_999;

pub(crate) fn task(task: &NewTask, at: Pointer<'_>, errors: &mut Errors) {
    // Every field by name, so that none that is added goes unchecked.
    let NewTask {
        key,
        name: people,
        role: _,
        queue,
        group,
        priority,
        run_at,
        delay,
        deadline,
        container: image,
        input,
        artifacts: files,
        secrets: given,
        resources: needs,
        network: reach,
        requires,
        prefers,
        retry: policy,
        timeouts: times,
        depends_on,
        on_dependency_failure: _,
        on_child_failure: _,
        unique: only,
        approval: ask,
        wait_for: signals,
        labels: tags,
        annotations: notes,
    } = task;
    if let Some(key) = key {
        name(key, at.field("key"), KEY, errors);
        if Uuid::parse_str(key).is_ok() {
            fail(errors, at.field("key"), "must not be a UUID: those name tasks that exist");
        }
    }
    if let Some(people) = people {
        text(people, at.field("name"), limits::NAME, errors);
        if people.trim().is_empty() {
            fail(errors, at.field("name"), "must not be empty");
        }
    }
    name(queue, at.field("queue"), NAME, errors);
    if let Some(group) = group {
        name(group, at.field("group"), NAME, errors);
    }
    // Not by `abs`, which the least of all numbers has none of.
    if !(-limits::PRIORITY..=limits::PRIORITY).contains(priority) {
        fail(errors, at.field("priority"), "must lie between -100 and 100");
    }
    instant(*run_at, at.field("run_at"), errors);
    if let Some(delay) = delay {
        span(*delay, at.field("delay"), errors);
        if run_at.is_some() {
            fail(errors, at.field("delay"), "must not be given together with run_at");
        }
    }
    instant(*deadline, at.field("deadline"), errors);
    if let (Some(run_at), Some(deadline)) = (run_at, deadline)
        && deadline <= run_at
    {
        fail(errors, at.field("deadline"), "must be later than run_at");
    }
    container::container(image, at.field("container"), errors);
    json(input, at.field("input"), limits::INPUT, "is larger than 1 MiB; upload it as an artifact", errors);
    artifacts(files, at.field("artifacts"), errors);
    secrets(given, at.field("secrets"), errors);
    resources(needs, at.field("resources"), errors);
    network::network(reach, at.field("network"), errors);
    placement(requires, at.field("requires"), errors);
    placement(prefers, at.field("prefers"), errors);
    retry(policy, at.field("retry"), errors);
    timeouts(times, at.field("timeouts"), errors);
    if let Some(only) = only {
        unique(only, at.field("unique"), errors);
    }
    if let Some(ask) = ask {
        approval(ask, at.field("approval"), errors);
    }
    wait_for(signals, at.field("wait_for"), errors);
    labels(tags, at.field("labels"), errors);
    annotations(notes, at.field("annotations"), errors);
    if depends_on.len() > limits::DEPENDENCIES {
        fail(errors, at.field("depends_on"), "has more than 100,000 entries");
    }
}

/// Notes a fault, while there is use in it: a body of 64 MiB can hold millions.
fn fail(errors: &mut Errors, pointer: impl Display, detail: &str) {
    if errors.len() < ENOUGH_ERRORS {
        errors.push(FieldError { pointer: pointer.to_string(), detail: detail.to_owned() });
    }
}

/// Whether `value` may name a queue, a group, a schedule or a signal: 1 to 128 letters, digits, `.`, `_`, `-`, and neither
/// `.` nor `..`, which no path can hold.
#[must_use]
pub fn is_valid_name(value: &str) -> bool {
    follows(value, NAME)
}

fn follows(value: &str, punctuation: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || punctuation.as_bytes().contains(&b);
    !value.is_empty()
        && value.len() <= limits::NAME
        && value.bytes().all(allowed)
        && !matches!(value, "." | "..")
}

/// A name that may stand in a path, a filter and a terminal.
pub(crate) fn name(value: &str, at: impl Display, punctuation: &str, errors: &mut Errors) {
    if !follows(value, punctuation) {
        fail(errors, at, &format!("must be 1 to 128 letters, digits or any of {punctuation}"));
    }
}

/// A text of one line.
pub(crate) fn text(value: &str, at: impl Display, longest: usize, errors: &mut Errors) {
    if value.len() > longest {
        fail(errors, &at, &format!("is longer than {longest} bytes"));
    }
    if value.chars().any(char::is_control) {
        fail(errors, at, "must not hold control characters");
    }
}

/// What people write to people: lines and tabs are theirs to set.
pub(crate) fn sentence(value: Option<&str>, at: impl Display, longest: usize, errors: &mut Errors) {
    let Some(value) = value else { return };
    if value.len() > longest {
        fail(errors, &at, &format!("is longer than {longest} bytes"));
    }
    if value.contains('\0') {
        fail(errors, at, "must not hold NUL");
    }
}

/// JSON that is carried as it is.
pub(crate) fn json(value: &Value, at: impl Display, most: usize, too_large: &str, errors: &mut Errors) {
    if value.is_null() {
        return;
    }
    if json::is_longer_than(value, most) {
        fail(errors, &at, too_large);
    }
    if nests_deeper_than(value, limits::NESTING) {
        fail(errors, &at, "is nested deeper than 64 levels");
    }
    if holds_nul(value) {
        fail(errors, at, "must not hold NUL characters");
    }
}

/// What is said of a point in time that is not [in the calendar](is_in_calendar).
pub const CALENDAR: &str = "must lie in the years 1970 to 2999";

/// Whether every part's calendar has a point in time: that of the years 1970 to 2999.
#[must_use]
pub fn is_in_calendar(value: Timestamp) -> bool {
    (0..=LAST_SECOND).contains(&value.as_second())
}

/// A point in time that every part's calendar has.
pub(crate) fn instant(value: Option<Timestamp>, at: impl Display, errors: &mut Errors) {
    if value.is_some_and(|value| !is_in_calendar(value)) {
        fail(errors, at, CALENDAR);
    }
}

/// A length of time that is more than nothing.
pub(crate) fn positive(value: Span, at: impl Display, errors: &mut Errors) {
    if value < Span::millis(1) {
        fail(errors, &at, "must be more than nothing");
    }
    span(value, at, errors);
}

/// A length of time.
pub(crate) fn span(value: Span, at: impl Display, errors: &mut Errors) {
    if value > Span::secs(limits::DURATION_SECS) {
        fail(errors, at, "must be at most 366 days");
    }
}

fn artifacts(files: &[super::InputArtifact], at: Pointer<'_>, errors: &mut Errors) {
    if files.len() > limits::INPUT_ARTIFACTS {
        // Not each of them: comparing all with all would take for ever where there are many.
        return fail(errors, at, "has more than 16 entries");
    }
    for (index, artifact) in files.iter().enumerate() {
        let entry = at.index(index);
        let pointer = entry.field("name");
        name(&artifact.name, pointer, NAME, errors);
        if artifact.name.starts_with('.') {
            fail(errors, pointer, "must not begin with a dot");
        }
        if files.iter().take(index).any(|other| other.name == artifact.name) {
            fail(errors, pointer, "is used twice");
        }
    }
}

fn secrets(given: &[SecretFile], at: Pointer<'_>, errors: &mut Errors) {
    if given.len() > limits::SECRETS {
        return fail(errors, at, "has more than 32 entries");
    }
    for (index, secret) in given.iter().enumerate() {
        let entry = at.index(index);
        let SecretFile { name: which, r#as } = secret;
        for (field, value) in [("name", Some(which)), ("as", r#as.as_ref())] {
            let Some(value) = value else { continue };
            let pointer = entry.field(field);
            name(value, pointer, NAME, errors);
            if value.starts_with('.') {
                fail(errors, pointer, "must not begin with a dot");
            }
        }
        if given.iter().take(index).any(|other| other.file() == secret.file()) {
            fail(errors, entry.field(if r#as.is_some() { "as" } else { "name" }), "is the name of two files");
        }
    }
}

fn resources(spec: &Resources, at: Pointer<'_>, errors: &mut Errors) {
    if !(0.01..=1024.0).contains(&spec.cpus) {
        fail(errors, at.field("cpus"), "must lie between 0.01 and 1024");
    }
    if spec.memory < Bytes::mib(16) || spec.memory > Bytes(1 << 44) {
        fail(errors, at.field("memory"), "must lie between 16MiB and 16TiB");
    }
    if !(8..=1_000_000).contains(&spec.pids) {
        fail(errors, at.field("pids"), "must lie between 8 and 1,000,000");
    }
    for (name, size) in [("tmp", spec.tmp), ("disk", spec.disk), ("shm", spec.shm)] {
        if size < Bytes::mib(1) || size > Bytes(1 << 44) {
            fail(errors, at.field(name), "must lie between 1MiB and 16TiB");
        }
    }
    if !(64..=1 << 20).contains(&spec.open_files) {
        fail(errors, at.field("open_files"), "must lie between 64 and 1,048,576");
    }
    if spec.gpus > limits::GPUS {
        fail(errors, at.field("gpus"), "must be at most 16");
    }
}

fn placement(wanted: &BTreeMap<String, String>, at: Pointer<'_>, errors: &mut Errors) {
    if wanted.len() > limits::PLACEMENT {
        fail(errors, at, "has more than 16 entries");
    }
    for (key, wish) in wanted {
        let pointer = at.key(key);
        name(key, pointer, KEY, errors);
        text(wish, pointer, limits::NAME, errors);
        if wish == "!" {
            fail(errors, pointer, "negates nothing; write !value, or !* for no such label");
        }
    }
}

fn retry(spec: &Retry, at: Pointer<'_>, errors: &mut Errors) {
    let Retry { max_attempts, backoff, retry_on, exit_codes, except_exit_codes } = spec;
    if !(1..=limits::ATTEMPTS).contains(max_attempts) {
        fail(errors, at.field("max_attempts"), "must lie between 1 and 100");
    }
    let Backoff { initial, factor, max, jitter } = backoff;
    let pointer = at.field("backoff");
    span(*initial, pointer.field("initial"), errors);
    span(*max, pointer.field("max"), errors);
    if initial > max {
        fail(errors, pointer.field("initial"), "must be at most max, which is 5m unless told");
    }
    if !(1.0..=10.0).contains(factor) {
        fail(errors, pointer.field("factor"), "must lie between 1 and 10");
    }
    if !(0.0..=1.0).contains(jitter) {
        fail(errors, pointer.field("jitter"), "must lie between 0 and 1");
    }
    if retry_on.len() > limits::EXIT_CODES {
        fail(errors, at.field("retry_on"), "has more than 64 entries");
    }
    for (field, codes) in [("exit_codes", exit_codes), ("except_exit_codes", except_exit_codes)] {
        let pointer = at.field(field);
        if codes.len() > limits::EXIT_CODES {
            fail(errors, pointer, "has more than 64 entries");
        }
        for (index, code) in codes.iter().take(limits::EXIT_CODES).enumerate() {
            if !(0..=255).contains(code) {
                fail(errors, pointer.index(index), "must lie between 0 and 255");
            }
            if field == "except_exit_codes"
                && exit_codes.iter().take(limits::EXIT_CODES).any(|only| only == code)
            {
                fail(errors, pointer.index(index), "is among exit_codes as well");
            }
        }
    }
}

fn timeouts(spec: &Timeouts, at: Pointer<'_>, errors: &mut Errors) {
    let Timeouts { schedule_to_start, start_to_close, grace, heartbeat } = spec;
    if let Some(limit) = schedule_to_start {
        positive(*limit, at.field("schedule_to_start"), errors);
    }
    positive(*start_to_close, at.field("start_to_close"), errors);
    if *grace > Span::secs(3_600) {
        fail(errors, at.field("grace"), "must be at most 1h");
    }
    if let Some(limit) = heartbeat {
        if *limit < Span::secs(1) {
            fail(errors, at.field("heartbeat"), "must be at least 1s");
        }
        if limit > start_to_close {
            fail(
                errors,
                at.field("heartbeat"),
                "must be at most start_to_close, which would end the attempt first",
            );
        }
        span(*limit, at.field("heartbeat"), errors);
    }
}

fn unique(spec: &Unique, at: Pointer<'_>, errors: &mut Errors) {
    let Unique { key, r#while: _ } = spec;
    if key.is_empty() {
        fail(errors, at.field("key"), "must not be empty");
    }
    text(key, at.field("key"), limits::UNIQUE_KEY, errors);
}

fn approval(spec: &Approval, at: Pointer<'_>, errors: &mut Errors) {
    let Approval { prompt, timeout, on_timeout: _ } = spec;
    sentence(prompt.as_deref(), at.field("prompt"), limits::SENTENCE, errors);
    if let Some(timeout) = timeout {
        positive(*timeout, at.field("timeout"), errors);
    }
}

fn wait_for(signals: &[WaitFor], at: Pointer<'_>, errors: &mut Errors) {
    if signals.len() > limits::SIGNALS {
        return fail(errors, at, "has more than 8 entries");
    }
    for (index, WaitFor { signal, timeout, on_timeout: _ }) in signals.iter().enumerate() {
        let pointer = at.index(index);
        name(signal, pointer.field("signal"), NAME, errors);
        if signals.iter().take(index).any(|other| other.signal == *signal) {
            fail(errors, pointer.field("signal"), "is waited for twice");
        }
        if let Some(timeout) = timeout {
            positive(*timeout, pointer.field("timeout"), errors);
        }
    }
}

fn annotations(notes: &BTreeMap<String, String>, at: Pointer<'_>, errors: &mut Errors) {
    if notes.len() > limits::ANNOTATIONS {
        fail(errors, at, "has more than 32 entries");
    }
    for (key, value) in notes {
        let pointer = at.key(key);
        name(key, pointer, KEY, errors);
        sentence(Some(value), pointer, limits::ANNOTATION, errors);
    }
}

/// Labels of a task or a node.
pub(crate) fn labels(labels: &BTreeMap<String, String>, at: Pointer<'_>, errors: &mut Errors) {
    if labels.len() > limits::LABELS {
        fail(errors, at, "has more than 32 entries");
    }
    for (key, value) in labels {
        let pointer = at.key(key);
        name(key, pointer, KEY, errors);
        text(value, pointer, limits::NAME, errors);
    }
}
