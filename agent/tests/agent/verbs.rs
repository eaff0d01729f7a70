//! The verbs: what reaches the node, what is printed, and the exit codes.

use std::process::Output;

use orca_proto::agent::files;
use orca_proto::artifact::Artifact;
use orca_proto::attempt::{Dependencies, Dependency};
use orca_proto::ids::TaskId;
use orca_proto::log::Stream;
use orca_proto::problem::{FieldError, Kind, Problem};
use orca_proto::task::{Outcome, Progress, State};

use super::fake_node::FakeNode;

#[track_caller]
fn printed(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(output: &Output, code: i32, word: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(word), "{stderr}");
}

#[tokio::test]
async fn a_program_uses_the_verbs_by_name() {
    let node = FakeNode::new(
        "orca-agent progress 40 --message 'half way' && echo '{\"x\":1}' | orca-agent result - && orca-agent input",
    );
    assert_eq!(node.outcome().await, Outcome::Succeeded);
    node.told(|told| {
        assert_eq!(told.progress, [Progress { percent: Some(40.0), message: Some("half way".to_owned()) }]);
        assert_eq!(told.result, Some(serde_json::json!({"x": 1})));
    });
    assert_eq!(node.text(Stream::Stdout), ["{\"n\":7}"]);
}

#[tokio::test]
async fn a_result_comes_from_an_argument_or_a_file() {
    let node = FakeNode::new("true");
    for (argument, expected) in [("-5", "-5"), ("\"text\"", "\"text\""), ("{\"json\":1}", "{\"json\":1}")] {
        printed(node.verb(&["result", argument]).await);
        assert_eq!(node.told(|told| told.result.take()).unwrap().to_string(), expected);
    }
    let file = node.path("out.json");
    std::fs::write(&file, " [1, 2]\n").unwrap();
    printed(node.verb(&["result", &format!("@{}", file.display())]).await);
    assert_eq!(node.told(|told| told.result.take()), Some(serde_json::json!([1, 2])));
}

#[tokio::test]
async fn a_plan_is_read_from_a_file_with_or_without_an_at_sign() {
    let node = FakeNode::new("true");
    let file = node.path("plan.json").display().to_string();
    std::fs::write(&file, r#"{"tasks":[]}"#).unwrap();
    for argument in [file.clone(), format!("@{file}")] {
        printed(node.verb(&["plan", &argument]).await);
        assert_eq!(node.told(|told| told.plan.take()), Some(serde_json::json!({"tasks": []})));
    }
}

#[tokio::test]
async fn spawned_tasks_are_printed_by_id() {
    let node = FakeNode::new("true");
    let list = r#"[{"container":{"image":"a"}},{"container":{"image":"b"}}]"#;
    let output = printed(node.verb(&["spawn", list, "--key", "once"]).await);
    let ids: Vec<TaskId> = output.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(ids.len(), 2);
    node.told(|told| {
        assert_eq!(told.children.len(), 1);
        assert_eq!(told.children[0].idempotency_key, "once");
        assert_eq!(told.children[0].tasks[1].container.image, "b");
    });
}

#[tokio::test]
async fn a_file_goes_out_and_comes_back_by_id_and_by_name() {
    let node = FakeNode::new("true");
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let file = node.path("part.json");
    std::fs::write(&file, &content).unwrap();
    let artifact: Artifact =
        serde_json::from_str(&printed(node.verb(&["put", &file.display().to_string()]).await)).unwrap();
    assert_eq!((artifact.name.as_str(), artifact.size), ("part.json", 3_000_000));

    let output = node.verb(&["get", &artifact.id.to_string()]).await;
    assert!(output.status.success() && output.stdout == content);

    let dependency = Dependency {
        id: TaskId::new(),
        key: Some("a/part-1".to_owned()),
        name: "part".to_owned(),
        state: State::Succeeded,
        reason: None,
        result: Some(serde_json::json!(1)),
        artifacts: vec![artifact],
    };
    let text = serde_json::to_string(&Dependencies { tasks: vec![dependency] }).unwrap();
    std::fs::write(node.path(files::DEPENDENCIES), &text).unwrap();
    assert_eq!(printed(node.verb(&["dependencies"]).await).trim(), text);
    let out = node.path("copy");
    printed(node.verb(&["get", "a/part-1/part.json", "--out", &out.display().to_string()]).await);
    assert_eq!(std::fs::read(&out).unwrap(), content);
    refused(&node.verb(&["get", "a/part-1/other"]).await, 2, "other");
    refused(&node.verb(&["get", "b/part.json"]).await, 2, "\"b\"");
}

#[tokio::test]
async fn a_signal_is_waited_for_and_what_came_with_it_is_printed() {
    let node = FakeNode::new("true");
    let child = node.command(&["signal", "go"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    node.until("a second wait", |told| told.awaited.len() > 1).await;
    node.told(|told| {
        assert_eq!(told.awaited[0], "/v1/signals/go?wait=30s");
        told.signals.insert("go".to_owned(), serde_json::json!({"colour": "green"}));
        told.signals.insert("bare".to_owned(), serde_json::Value::Null);
    });
    assert_eq!(printed(child.wait_with_output().await.unwrap()), "{\"colour\":\"green\"}\n");
    assert_eq!(printed(node.verb(&["signal", "bare", "--timeout", "1h"]).await), "null\n");
}

#[tokio::test]
async fn a_signal_that_does_not_come_in_time_is_exit_code_3() {
    let node = FakeNode::new("true");
    refused(&node.verb(&["signal", "go", "--timeout", "0s"]).await, 3, "no signal \"go\" came within 0s");
    assert_eq!(node.told(|told| told.awaited.clone()), ["/v1/signals/go?wait=0s"]);
    refused(&node.verb(&["signal", "go/there"]).await, 2, "letters");
    refused(&node.verb(&["signal", "go", "--timeout=-1s"]).await, 2, "negative");
}

#[tokio::test]
async fn a_refusal_is_told_with_every_field() {
    let node = FakeNode::new("true");
    let errors =
        vec![FieldError::new("/tasks/0/key", "is used twice"), FieldError::new("/tasks/3", "is odd")];
    node.told(|told| told.refuse = Some(Problem::with_errors(Kind::PlanInvalid, errors)));
    let output = node.verb(&["plan", r#"{"tasks":[]}"#]).await;
    refused(&output, 1, "/tasks/0/key is used twice");
    refused(&output, 1, "/tasks/3 is odd");
}

#[tokio::test]
async fn wrong_usage_is_told_before_the_node_is_asked() {
    let node = FakeNode::new("true");
    for (arguments, word) in [
        (&["progress", "140"][..], "0 and 100"),
        (&["progress"], "required"),
        (&["result", "{"], "not JSON"),
        (&["result", "@/no/such/file"], "/no/such/file"),
        (&["plan", "/no/such/file"], "/no/such/file"),
        (&["spawn", r#"{"container":{"image":"a"},"quue":"x"}"#], "quue"),
        (&["put", "/etc/hostname", "--name", "../up"], "../up"),
        (&["put", "/etc"], "regular file"),
        (&["get", "rubbish"], "rubbish"),
        (&["dance"], "dance"),
    ] {
        refused(&node.verb(arguments).await, 2, word);
    }
}

#[tokio::test]
async fn no_node_is_exit_code_3() {
    let node = FakeNode::new("true");
    std::fs::remove_file(node.path(files::TOKEN)).unwrap();
    refused(&node.verb(&["progress", "1"]).await, 3, "token");
    std::fs::write(node.path(files::TOKEN), "some").unwrap();
    refused(&node.verb(&["progress", "1"]).await, 1, "token");
    let mut node = node;
    node.go_away();
    refused(&node.verb(&["put", "/etc/hostname"]).await, 3, "does not answer");
}

#[tokio::test]
async fn a_verb_waits_for_a_node_that_is_starting_again() {
    let mut node = FakeNode::new("true");
    node.go_away();
    let child = node.command(&["result", "7"]).spawn().unwrap();
    node.come_back();
    assert!(child.wait_with_output().await.unwrap().status.success());
    assert_eq!(node.told(|told| told.result.take()), Some(serde_json::json!(7)));
}
