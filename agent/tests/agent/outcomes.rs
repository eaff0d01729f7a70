//! What a program finds, and what its end is reported as.

use orca_proto::agent::files;
use orca_proto::log::Stream;
use orca_proto::task::{Outcome, Step};

use super::fake_node::FakeNode;

fn failed(exit_code: i32) -> Outcome {
    Outcome::Failed { exit_code, reason: None }
}

fn reason(outcome: Outcome) -> String {
    match outcome {
        Outcome::Rejected { reason } | Outcome::Failed { reason: Some(reason), .. } => reason,
        other => panic!("no reason in {other:?}"),
    }
}

#[tokio::test]
async fn exit_code_0_is_success_and_the_node_hears_of_the_start() {
    let node = FakeNode::new("exit 0");
    assert_eq!(node.outcome().await, Outcome::Succeeded);
    assert_eq!(node.told(|told| told.started.len()), 1);
    let spooled = std::fs::read(node.path(files::REPORT)).unwrap();
    assert_eq!(serde_json::from_slice::<orca_proto::agent::AgentReport>(&spooled).unwrap(), node.report());
}

#[tokio::test]
async fn another_exit_code_is_a_failure_with_that_code() {
    assert_eq!(FakeNode::new("exit 7").outcome().await, failed(7));
}

#[tokio::test]
async fn a_signal_that_the_agent_did_not_send_is_named() {
    assert_eq!(FakeNode::new("kill -SEGV $$").outcome().await, Outcome::Killed { signal: 11 });
    assert_eq!(FakeNode::new("kill -KILL $$").outcome().await, Outcome::Killed { signal: 9 });
}

#[tokio::test]
async fn a_program_that_is_not_there_is_rejected() {
    let node = FakeNode::with_command(&["no-such-program"]);
    let reason = reason(node.outcome().await);
    assert!(reason.contains("no-such-program") && reason.contains("PATH"), "{reason}");
    assert_eq!(node.told(|told| told.started.len()), 0);
}

#[tokio::test]
async fn a_file_that_is_no_program_is_rejected() {
    for command in ["/absent/program", "/etc", "/etc/hostname"] {
        let reason = reason(FakeNode::with_command(&[command]).outcome().await);
        assert!(reason.contains(command), "{reason}");
    }
}

#[tokio::test]
async fn a_working_directory_that_is_not_there_is_rejected() {
    let node = FakeNode::new("true").briefed(|brief| brief.workdir = Some("/no/such/dir".to_owned()));
    assert!(reason(node.outcome().await).contains("/no/such/dir"));
}

#[tokio::test]
async fn the_program_finds_its_environment_input_and_directory() {
    let script = "cat; echo; pwd; echo $COLOUR $ORCA_TASK_ID $ORCA_ATTEMPT $ORCA_IMAGE $ORCA_STEP \
                  ${ORCA_DEPENDENCIES-unset}; echo $ORCA_DIR $ORCA_SOCKET $ORCA_INPUT $ORCA_FILES $ORCA_RESULT $ORCA_PLAN; \
                  command -v orca-agent; echo $ORCA_AGENT";
    let node = FakeNode::new(script).briefed(|brief| {
        brief.workdir = Some("/usr".to_owned());
        brief.step = Some(Step::Finish);
    });
    assert_eq!(node.outcome().await, Outcome::Succeeded);
    let dir = node.root.path().display();
    let agent = env!("CARGO_BIN_EXE_orca-agent");
    let expected = [
        "{\"n\":7}".to_owned(),
        "/usr".to_owned(),
        format!("blue {} 2 scratch-image:1 finish unset", node.brief().task),
        format!(
            "{dir} {dir}/node.sock {dir}/in/input.json {dir}/files {dir}/out/result.json {dir}/out/plan.json"
        ),
        agent.to_owned(),
        agent.to_owned(),
    ];
    assert_eq!(node.text(Stream::Stdout), expected);
}

#[tokio::test]
async fn a_large_input_that_nobody_reads_stops_nothing() {
    let node = FakeNode::new("exit 3");
    std::fs::write(node.path(files::INPUT), format!("\"{}\"", "x".repeat(1 << 20))).unwrap();
    assert_eq!(node.outcome().await, failed(3));
}

#[tokio::test]
async fn a_result_and_a_plan_that_were_left_are_reported() {
    let node = FakeNode::new(
        r#"echo '{"a":[1]}' > $ORCA_RESULT; echo '{"tasks":[{"container":{"image":"debian"}}]}' > $ORCA_PLAN"#,
    );
    let report = node.run().await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert_eq!(report.result, Some(serde_json::json!({"a": [1]})));
    assert_eq!(report.plan.unwrap().tasks.len(), 1);
}

#[tokio::test]
async fn what_a_failed_program_left_is_not_reported() {
    let report = FakeNode::new("echo 1 > $ORCA_RESULT; exit 1").run().await;
    assert_eq!((report.outcome, report.result), (failed(1), None));
}

#[tokio::test]
async fn a_result_that_cannot_be_used_is_a_failure_that_says_why() {
    for (script, why) in [
        ("echo '{' > $ORCA_RESULT", "EOF"),
        (r#"printf '"\\u0000"' > $ORCA_RESULT"#, "U+0000"),
        ("printf '\"\\377\"' > $ORCA_RESULT", "unicode"),
        ("head -c 1048577 /dev/zero > $ORCA_RESULT", "longer than 1048576"),
        ("mkfifo $ORCA_RESULT", "not a regular file"),
        ("ln -s /dev/zero $ORCA_RESULT", "symbolic link"),
        ("echo '{\"tusks\":[]}' > $ORCA_PLAN", "tusks"),
    ] {
        let report = FakeNode::new(script).run().await;
        assert!(
            matches!(report.outcome, Outcome::Failed { exit_code: 0, .. }),
            "{script}: {:?}",
            report.outcome
        );
        let reason = reason(report.outcome);
        assert!(reason.contains(why), "{script}: {reason}");
    }
}
