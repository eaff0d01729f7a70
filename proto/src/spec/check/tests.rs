//! Each rule, from outside.

use super::container::image_reference;
use super::*;

fn errors_of(task: &NewTask) -> Vec<String> {
    let mut errors = Vec::new();
    super::task(task, Pointer::Below(""), &mut errors);
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
    for bad in ["", "A", "a b", "a:", ":t", "a//b", "-a", "a@sha256", "a:t:u", "../x", "a\n", "a@sha256:xyz"]
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
