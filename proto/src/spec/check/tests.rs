//! Each rule, from outside.

use super::*;
use crate::spec::Network;

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
fn an_image_reference_follows_the_oci_grammar() {
    for bad in ["", "Debian", "debian:", "a..b", "x@sha256:abc"] {
        assert_eq!(errors_of(&NewTask::new(bad)), ["/container/image"], "{bad}");
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

fn from_json(rest: Value) -> NewTask {
    let mut task = serde_json::json!({ "container": { "image": "debian" } });
    task.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    serde_json::from_value(task).unwrap()
}

#[test]
fn everything_that_may_be_said_of_a_task_is_valid_when_it_is_said_well() {
    let task = from_json(serde_json::json!({
        "queue": "a-b", "group": "tenant_1", "delay": "1h", "deadline": "2099-01-01T00:00:00Z",
        "requires": { "gpu": "a100", "os": "!windows", "ssd": "*", "spot": "!*" }, "prefers": { "zone": "a" },
        "retry": { "exit_codes": [1, 75], "except_exit_codes": [2], "backoff": { "factor": 1.0 } },
        "timeouts": { "heartbeat": "1s" },
        "unique": { "key": "nightly/2024 é", "while": "queued" },
        "approval": { "prompt": "Deploy?\nReally?", "timeout": "2d", "on_timeout": "proceed" },
        "wait_for": [{ "signal": "go" }, { "signal": "ready", "timeout": "5m", "on_timeout": "proceed" }],
        "annotations": { "ticket": "line one\nline two" },
    }));
    assert_eq!(errors_of(&task), Vec::<String>::new());
}

#[test]
fn each_bad_wish_is_named() {
    let task = from_json(serde_json::json!({
        "group": "..", "run_at": "-000044-03-15T12:00:00Z", "delay": "367d", "deadline": "3000-01-01T00:00:00Z",
        "requires": { "a b": "x", "os": "!", "zone": "n\u{0}" }, "prefers": { "": "x" },
        "retry": { "exit_codes": [0, 256], "except_exit_codes": [-1] },
        "timeouts": { "heartbeat": "999ms" },
        "unique": { "key": "" },
        "approval": { "prompt": "\u{0}", "timeout": "0s" },
        "wait_for": [{ "signal": "go" }, { "signal": "go", "timeout": "400d" }, { "signal": "a/b" }],
        "annotations": { "ok": "\u{0}" },
    }));
    assert_eq!(
        errors_of(&task),
        [
            "/group",
            "/run_at",
            "/delay",
            "/delay",
            "/deadline",
            "/requires/a b",
            "/requires/os",
            "/requires/zone",
            "/prefers/",
            "/retry/exit_codes/1",
            "/retry/except_exit_codes/0",
            "/timeouts/heartbeat",
            "/unique/key",
            "/approval/prompt",
            "/approval/timeout",
            "/wait_for/1/signal",
            "/wait_for/1/timeout",
            "/wait_for/2/signal",
            "/annotations/ok",
        ]
    );
}

#[test]
fn more_than_there_is_room_for_is_named() {
    let many = |count: usize| -> BTreeMap<String, String> {
        (0..count).map(|n| (format!("k{n}"), "v".to_owned())).collect()
    };
    let mut task = NewTask::new("debian");
    task.requires = many(limits::PLACEMENT + 1);
    task.prefers = many(limits::PLACEMENT);
    task.annotations = many(limits::ANNOTATIONS);
    task.annotations.insert("long".into(), "x".repeat(limits::ANNOTATION + 1));
    task.retry.exit_codes = vec![1; limits::EXIT_CODES + 1];
    let signal =
        |n: usize| WaitFor { signal: format!("s{n}"), timeout: None, on_timeout: Default::default() };
    task.wait_for = (0..=limits::SIGNALS).map(signal).collect();
    task.unique = Some(Unique { key: "k".repeat(limits::UNIQUE_KEY + 1), r#while: Default::default() });
    assert_eq!(
        errors_of(&task),
        ["/requires", "/retry/exit_codes", "/unique/key", "/wait_for", "/annotations", "/annotations/long"]
    );
}

#[test]
fn each_limit_of_a_container_has_its_range() {
    let least = from_json(serde_json::json!({ "resources": {
        "cpus": 0.01, "memory": "16MiB", "pids": 8, "tmp": "1MiB", "disk": "1MiB", "shm": "1MiB", "open_files": 64
    } }));
    assert_eq!(errors_of(&least), Vec::<String>::new());
    let wrong = from_json(serde_json::json!({ "resources": {
        "cpus": 0.0, "memory": "15MiB", "pids": 7, "tmp": "1KiB", "disk": "17TiB", "shm": "0", "open_files": 63, "gpus": 17
    } }));
    let pointers = ["cpus", "memory", "pids", "tmp", "disk", "shm", "open_files", "gpus"];
    assert_eq!(errors_of(&wrong), pointers.map(|name| format!("/resources/{name}")));
}

#[test]
fn a_deadline_before_the_start_is_refused() {
    let task = from_json(serde_json::json!({
        "run_at": "2099-01-02T00:00:00Z", "deadline": "2099-01-01T00:00:00Z"
    }));
    assert_eq!(errors_of(&task), ["/deadline"]);
}

#[test]
fn each_entry_that_names_no_host_is_told_by_its_place() {
    let of = |list: Vec<&str>| {
        let list = list.into_iter().map(str::to_owned).collect();
        errors_of(&NewTask { network: Network::Egress(list), ..NewTask::new("debian") })
    };
    assert_eq!(of(vec!["api.example.com", "*.example.com:8443", "203.0.113.7:443"]), Vec::<String>::new());
    assert_eq!(
        of(vec!["https://a.example", "b.example", "C.example"]),
        ["/network/egress/0", "/network/egress/2"]
    );
    assert_eq!(of(vec![]), ["/network/egress"]);
    assert_eq!(of(vec!["a.example"; limits::EGRESS]), Vec::<String>::new());
    assert_eq!(of(vec!["a.example"; limits::EGRESS + 1]), ["/network/egress"]);
}

#[test]
fn secrets_are_files_of_one_directory_and_no_two_are_one_file() {
    let errors = |secrets: Value| {
        let task: NewTask =
            serde_json::from_value(serde_json::json!({"container": {"image": "x"}, "secrets": secrets}))
                .unwrap();
        errors_of(&task)
    };
    let good = serde_json::json!([{"name": "db"}, {"name": "db", "as": "again"}, {"name": "a.b_c-D", "as": "password.txt"}]);
    assert_eq!(errors(good), Vec::<String>::new());
    for bad in
        ["", ".", "..", "../x", "/etc/passwd", "a/b", ".hidden", "a\0b", "a b", "ä", "a\n", &"x".repeat(129)]
    {
        assert_eq!(
            errors(serde_json::json!([{"name": "db", "as": bad}])).first().map(String::as_str),
            Some("/secrets/0/as"),
            "{bad:?}"
        );
        assert_eq!(
            errors(serde_json::json!([{"name": bad}])).first().map(String::as_str),
            Some("/secrets/0/name"),
            "{bad:?}"
        );
    }
    assert_eq!(errors(serde_json::json!([{"name": "a"}, {"name": "b", "as": "a"}])), ["/secrets/1/as"]);
    assert_eq!(errors(serde_json::json!([{"name": "b", "as": "a"}, {"name": "a"}])), ["/secrets/1/name"]);
    assert_eq!(errors((0..33).map(|n| serde_json::json!({"name": format!("s{n}")})).collect()), ["/secrets"]);
}

#[test]
fn what_contradicts_itself_is_named() {
    let task = from_json(serde_json::json!({
        "retry": { "exit_codes": [1, 2], "except_exit_codes": [3, 1], "backoff": { "initial": "10m" } },
        "timeouts": { "start_to_close": "1m", "heartbeat": "2m" },
    }));
    assert_eq!(
        errors_of(&task),
        ["/retry/backoff/initial", "/retry/except_exit_codes/1", "/timeouts/heartbeat"]
    );
    let task = from_json(serde_json::json!({
        "retry": { "backoff": { "initial": "10m", "max": "10m" } },
        "timeouts": { "start_to_close": "1m", "heartbeat": "1m" },
    }));
    assert_eq!(errors_of(&task), Vec::<String>::new());
}
