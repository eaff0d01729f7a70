//! The rules for a task's fields: one function per part of the spec.

use uuid::Uuid;

use super::{Backoff, ContainerSpec, NewTask, Resources, Retry, Timeouts};
use crate::duration::Span;
use crate::limits;
use crate::problem::{ENOUGH_ERRORS, FieldError};
use crate::quantity::Bytes;

type Errors = Vec<FieldError>;

pub(super) fn task(task: &NewTask, at: &str, errors: &mut Errors) {
    if let Some(key) = &task.key {
        name(key, &format!("{at}/key"), "._-/", errors);
        if Uuid::parse_str(key).is_ok() {
            fail(errors, format!("{at}/key"), "must not be a UUID: those name tasks that exist");
        }
    }
    if let Some(name) = &task.name {
        text(name, &format!("{at}/name"), limits::NAME, errors);
        if name.trim().is_empty() {
            fail(errors, format!("{at}/name"), "must not be empty");
        }
    }
    name(&task.queue, &format!("{at}/queue"), "._-", errors);
    // Not by `abs`, which the least of all numbers has none of.
    if !(-limits::PRIORITY..=limits::PRIORITY).contains(&task.priority) {
        fail(errors, format!("{at}/priority"), "must lie between -100 and 100");
    }
    container(&task.container, &format!("{at}/container"), errors);
    input(task, at, errors);
    artifacts(task, at, errors);
    resources(&task.resources, &format!("{at}/resources"), errors);
    retry(&task.retry, &format!("{at}/retry"), errors);
    timeouts(&task.timeouts, &format!("{at}/timeouts"), errors);
    labels(&task.labels, &format!("{at}/labels"), errors);
    if task.depends_on.len() > limits::DEPENDENCIES {
        fail(errors, format!("{at}/depends_on"), "has more than 100,000 entries");
    }
}

/// Notes a fault, while there is use in it: a body of 64 MiB can hold millions.
fn fail(errors: &mut Errors, pointer: String, detail: &str) {
    if errors.len() < ENOUGH_ERRORS {
        errors.push(FieldError { pointer, detail: detail.to_owned() });
    }
}

/// A name that may stand in a path, a filter and a terminal.
pub(crate) fn name(value: &str, at: &str, punctuation: &str, errors: &mut Errors) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || punctuation.contains(c);
    if value.is_empty() || value.len() > limits::NAME || !value.chars().all(allowed) {
        fail(errors, at.to_owned(), &format!("must be 1 to 128 letters, digits or any of {punctuation}"));
    }
}

fn text(value: &str, at: &str, longest: usize, errors: &mut Errors) {
    if value.len() > longest {
        fail(errors, at.to_owned(), &format!("is longer than {longest} bytes"));
    }
    if value.chars().any(char::is_control) {
        fail(errors, at.to_owned(), "must not hold control characters");
    }
}

fn container(spec: &ContainerSpec, at: &str, errors: &mut Errors) {
    if !image_reference(&spec.image) {
        fail(errors, format!("{at}/image"), "is not an OCI image reference such as debian:bookworm-slim");
    }
    let argument_bytes: usize = spec.command.iter().map(String::len).sum();
    if spec.command.len() > 4_096 || argument_bytes > 128 << 10 {
        fail(errors, format!("{at}/command"), "has more than 4,096 arguments or 128 KiB of text");
    }
    for (index, argument) in spec.command.iter().enumerate() {
        if argument.contains('\0') {
            fail(errors, format!("{at}/command/{index}"), "must not hold NUL");
        }
    }
    if spec.command.first().is_some_and(String::is_empty) {
        fail(errors, format!("{at}/command/0"), "must not be empty");
    }
    if spec.env.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > 128 << 10 {
        fail(errors, format!("{at}/env"), "has more than 128 KiB of text");
    }
    for (key, value) in &spec.env {
        let pointer = format!("{at}/env/{}", pointer_token(key));
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            fail(errors, pointer, "names must not be empty or hold '=' or NUL, nor values NUL");
        } else if key.starts_with("ORCA_") {
            fail(errors, pointer, "names that begin with ORCA_ are set by Orca");
        }
    }
    if let Some(user) = &spec.user {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        if user.is_empty() || user.len() > 64 || !user.chars().all(allowed) {
            fail(errors, format!("{at}/user"), "must be a name, a uid or uid:gid");
        }
    }
    if let Some(dir) = &spec.workdir
        && (!dir.starts_with('/') || dir.contains('\0') || dir.len() > 4_096)
    {
        fail(errors, format!("{at}/workdir"), "must be an absolute path");
    }
}

/// Whether `text` follows the reference grammar of the OCI distribution specification:
/// `[host[:port]/]path[:tag][@digest]`.
fn image_reference(text: &str) -> bool {
    if text.is_empty() || text.len() > 512 {
        return false;
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if let Some(digest) = digest {
        let Some((algorithm, hex)) = digest.split_once(':') else { return false };
        let hex_ok = hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if algorithm.is_empty()
            || !algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
            || !hex_ok
        {
            return false;
        }
    }
    let last_slash = rest.rfind('/').map_or(0, |i| i + 1);
    let (path, tag) = match rest[last_slash..].find(':') {
        Some(colon) => (&rest[..last_slash + colon], Some(&rest[last_slash + colon + 1..])),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        let mut bytes = tag.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !first || tag.len() > 128 || !bytes.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return false;
        }
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    if parts.len() > 1 && (parts[0].contains(['.', ':']) || parts[0] == "localhost") {
        let host = parts.remove(0);
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || b"[]".contains(&b));
        if !edge(host.bytes().next())
            || !edge(host.bytes().last())
            || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
        {
            return false;
        }
    }
    parts.iter().all(|part| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        edge(part.bytes().next()) && edge(part.bytes().last()) && part.bytes().all(inner)
    })
}

fn input(task: &NewTask, at: &str, errors: &mut Errors) {
    let size = serde_json::to_string(&task.input).map_or(usize::MAX, |text| text.len());
    if size > limits::INPUT {
        fail(errors, format!("{at}/input"), "is larger than 1 MiB; upload it as an artifact");
    }
    if nests_deeper_than(&task.input, limits::NESTING) {
        fail(errors, format!("{at}/input"), "is nested deeper than 64 levels");
    }
    if holds_nul(&task.input) {
        fail(errors, format!("{at}/input"), "must not hold NUL characters");
    }
}

/// Whether arrays and objects are nested in one another more than `levels` deep.
#[must_use]
pub fn nests_deeper_than(value: &serde_json::Value, levels: usize) -> bool {
    let deeper = |inner: &serde_json::Value| match levels.checked_sub(1) {
        Some(levels) => nests_deeper_than(inner, levels),
        None => true,
    };
    match value {
        serde_json::Value::Array(items) => levels == 0 || items.iter().any(deeper),
        serde_json::Value::Object(map) => levels == 0 || map.values().any(deeper),
        _ => false,
    }
}

/// Whether a JSON value holds the character U+0000 anywhere, names included: Postgres cannot give it back. Recursive, so only
/// for what a parser with a bound on depth has read.
#[must_use]
pub fn holds_nul(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(items) => items.iter().any(holds_nul),
        serde_json::Value::Object(map) => {
            map.iter().any(|(key, value)| key.contains('\0') || holds_nul(value))
        }
        _ => false,
    }
}

fn artifacts(task: &NewTask, at: &str, errors: &mut Errors) {
    if task.artifacts.len() > limits::INPUT_ARTIFACTS {
        // Not each of them: comparing all with all would take for ever where there are many.
        return fail(errors, format!("{at}/artifacts"), "has more than 16 entries");
    }
    for (index, artifact) in task.artifacts.iter().enumerate() {
        let pointer = format!("{at}/artifacts/{index}/name");
        name(&artifact.name, &pointer, "._-", errors);
        if artifact.name.starts_with('.') {
            fail(errors, pointer.clone(), "must not begin with a dot");
        }
        if task.artifacts[..index].iter().any(|other| other.name == artifact.name) {
            fail(errors, pointer, "is used twice");
        }
    }
}

fn resources(spec: &Resources, at: &str, errors: &mut Errors) {
    if !(0.01..=1024.0).contains(&spec.cpus) {
        fail(errors, format!("{at}/cpus"), "must lie between 0.01 and 1024");
    }
    if spec.memory < Bytes::mib(16) || spec.memory > Bytes(1 << 44) {
        fail(errors, format!("{at}/memory"), "must lie between 16MiB and 16TiB");
    }
    if !(8..=1_000_000).contains(&spec.pids) {
        fail(errors, format!("{at}/pids"), "must lie between 8 and 1,000,000");
    }
    if spec.tmp < Bytes::mib(1) || spec.tmp > Bytes(1 << 44) {
        fail(errors, format!("{at}/tmp"), "must lie between 1MiB and 16TiB");
    }
}

fn retry(spec: &Retry, at: &str, errors: &mut Errors) {
    if !(1..=limits::ATTEMPTS).contains(&spec.max_attempts) {
        fail(errors, format!("{at}/max_attempts"), "must lie between 1 and 100");
    }
    let Backoff { initial, factor, max, jitter } = &spec.backoff;
    span(*initial, &format!("{at}/backoff/initial"), errors);
    span(*max, &format!("{at}/backoff/max"), errors);
    if !(1.0..=10.0).contains(factor) {
        fail(errors, format!("{at}/backoff/factor"), "must lie between 1 and 10");
    }
    if !(0.0..=1.0).contains(jitter) {
        fail(errors, format!("{at}/backoff/jitter"), "must lie between 0 and 1");
    }
}

fn timeouts(spec: &Timeouts, at: &str, errors: &mut Errors) {
    let Timeouts { schedule_to_start, start_to_close, grace } = spec;
    if let Some(limit) = schedule_to_start {
        positive(*limit, &format!("{at}/schedule_to_start"), errors);
    }
    positive(*start_to_close, &format!("{at}/start_to_close"), errors);
    if *grace > Span::secs(3_600) {
        fail(errors, format!("{at}/grace"), "must be at most 1h");
    }
}

fn positive(value: Span, at: &str, errors: &mut Errors) {
    if value < Span::millis(1) {
        fail(errors, at.to_owned(), "must be more than nothing");
    }
    span(value, at, errors);
}

fn span(value: Span, at: &str, errors: &mut Errors) {
    if value > Span::secs(limits::DURATION_SECS) {
        fail(errors, at.to_owned(), "must be at most 366 days");
    }
}

/// Labels of a task or a node.
pub(crate) fn labels(labels: &std::collections::BTreeMap<String, String>, at: &str, errors: &mut Errors) {
    if labels.len() > limits::LABELS {
        fail(errors, at.to_owned(), "has more than 32 entries");
    }
    for (key, value) in labels {
        let pointer = format!("{at}/{}", pointer_token(key));
        name(key, &pointer, "._-/", errors);
        text(value, &pointer, limits::NAME, errors);
    }
}

/// One reference token of a JSON pointer, escaped as RFC 6901 asks.
fn pointer_token(text: &str) -> String {
    text.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(task: &NewTask) -> Vec<String> {
        let mut errors = Vec::new();
        super::task(task, "", &mut errors);
        errors.into_iter().map(|error| error.pointer).collect()
    }

    #[test]
    fn a_task_with_only_an_image_is_valid() {
        assert_eq!(errors_of(&NewTask::new("debian:bookworm-slim")), Vec::<String>::new());
    }

    #[test]
    fn image_references_follow_the_oci_grammar() {
        for good in [
            "a",
            "a/b",
            "debian:12",
            "localhost/x",
            "ghcr.io/me/tool:1",
            "host:5000/x/y:t",
            "x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ] {
            assert!(image_reference(good), "{good}");
        }
        for bad in
            ["", "A", "a b", "a:", ":t", "a//b", "-a", "a@sha256", "a:t:u", "../x", "a\n", "a@sha256:xyz"]
        {
            assert!(!image_reference(bad), "{bad}");
        }
    }

    #[test]
    fn input_is_nested_no_deeper_than_everybody_can_read() {
        let nested = |levels: usize| {
            let text = "[".repeat(levels) + &"]".repeat(levels);
            NewTask { input: serde_json::from_str(&text).unwrap(), ..NewTask::new("debian") }
        };
        assert_eq!(errors_of(&nested(limits::NESTING)), Vec::<String>::new());
        assert_eq!(errors_of(&nested(limits::NESTING + 1)), ["/input"]);
    }

    #[test]
    fn the_least_priority_there_is_lies_out_of_range() {
        let task = NewTask { priority: i16::MIN, ..NewTask::new("debian") };
        assert_eq!(errors_of(&task), ["/priority"]);
    }

    #[test]
    fn a_million_faults_are_not_all_kept_nor_a_million_artifacts_compared() {
        let mut task = NewTask::new("debian");
        task.container.env = (0..5_000).map(|n| (format!("ORCA_{n}"), String::new())).collect();
        let artifact = crate::spec::InputArtifact {
            id: crate::ids::ArtifactId::new(),
            name: "a".repeat(limits::NAME),
            unpack: false,
        };
        task.artifacts = vec![artifact; 300_000];
        let errors = errors_of(&task);
        assert_eq!(errors.len(), ENOUGH_ERRORS);
    }

    #[test]
    fn each_bad_field_is_named() {
        let mut task = NewTask::new("debian");
        task.priority = 101;
        task.queue = "a b".into();
        task.resources.cpus = f64::NAN;
        task.retry.max_attempts = 0;
        task.retry.backoff.factor = 0.5;
        task.timeouts.start_to_close = Span::millis(0);
        task.input = serde_json::json!({"a": ["\0"]});
        task.container.env.insert("ORCA_X".into(), "1".into());
        assert_eq!(
            errors_of(&task),
            [
                "/queue",
                "/priority",
                "/container/env/ORCA_X",
                "/input",
                "/resources/cpus",
                "/retry/max_attempts",
                "/retry/backoff/factor",
                "/timeouts/start_to_close"
            ]
        );
    }
}
