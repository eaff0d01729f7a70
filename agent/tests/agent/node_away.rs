//! A node that goes away, comes back, or says that the lease is lost.

use std::time::Duration;

use orca_proto::agent::files;
use orca_proto::duration::Span;
use orca_proto::log::Stream;
use orca_proto::problem::{Kind, Problem};
use orca_proto::task::Outcome;

use super::fake_node::{FakeNode, LIMIT, runs};

#[tokio::test]
async fn a_node_that_starts_after_the_agent_is_found() {
    let mut node = FakeNode::new("echo hello");
    node.go_away();
    let mut agent = node.start();
    tokio::time::timeout(LIMIT, async {
        while !node.path(files::AGENT_SOCKET).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    node.come_back();
    assert_eq!(agent.ended().await.code(), Some(0));
    assert_eq!(node.text(Stream::Stdout), ["hello"]);
}

#[tokio::test]
async fn a_program_that_ends_while_the_node_is_away_is_reported_when_it_is_back() {
    let mut node = FakeNode::new(
        "echo ready; while [ ! -e $ORCA_DIR/go ]; do sleep 0.02; done; seq 1 1000; echo '[1]' > $ORCA_RESULT",
    );
    let mut agent = node.start_until_ready().await;
    node.go_away();
    std::fs::write(node.path("go"), "").unwrap();
    tokio::time::timeout(LIMIT, async {
        while !node.path(files::REPORT).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the report is on disk whether the node is there or not");
    node.come_back();
    assert_eq!(agent.ended().await.code(), Some(0));
    let report = node.report();
    assert_eq!((report.outcome, report.result), (Outcome::Succeeded, Some(serde_json::json!([1]))));
    assert_eq!(node.text(Stream::Stdout).len(), 1_001);
    assert_eq!(node.told(|told| told.lines_at_report), 1_001);
}

#[tokio::test]
async fn an_orphaned_program_is_stopped_and_nothing_is_reported() {
    let mut node = FakeNode::new("echo $$; echo ready; exec sleep 300")
        .briefed(|brief| brief.orphan_after = Span::secs(1));
    let mut agent = node.start_until_ready().await;
    node.go_away();
    assert_eq!(agent.ended().await.code(), Some(75));
    assert!(!runs(&node.text(Stream::Stdout)[0]));
    assert!(!node.path(files::REPORT).exists());
}

#[tokio::test]
async fn an_agent_that_cannot_report_gives_up_but_leaves_its_report() {
    let mut node = FakeNode::new("echo ready; while [ ! -e $ORCA_DIR/go ]; do sleep 0.02; done; exit 5")
        .briefed(|brief| brief.orphan_after = Span::secs(2));
    let mut agent = node.start_until_ready().await;
    node.go_away();
    std::fs::write(node.path("go"), "").unwrap();
    assert_eq!(agent.ended().await.code(), Some(75));
    let spooled: orca_proto::agent::AgentReport =
        serde_json::from_slice(&std::fs::read(node.path(files::REPORT)).unwrap()).unwrap();
    assert_eq!(spooled.outcome, Outcome::Failed { exit_code: 5, reason: None });
}

#[tokio::test]
async fn a_quiet_program_is_not_an_orphan_while_the_node_answers() {
    let node = FakeNode::new("sleep 2.5").briefed(|brief| brief.orphan_after = Span::secs(1));
    assert_eq!(node.outcome().await, Outcome::Succeeded);
}

#[tokio::test]
async fn a_lost_lease_kills_the_program_at_once() {
    let node = FakeNode::new(
        "trap '' TERM; echo $$; echo ready; while [ ! -e $ORCA_DIR/go ]; do sleep 0.02; done; while :; do echo more; sleep 0.05; done",
    );
    let mut agent = node.start_until_ready().await;
    node.told(|told| told.refuse = Some(Problem::new(Kind::LeaseLost, "token 3 is old")));
    std::fs::write(node.path("go"), "").unwrap();
    assert_eq!(agent.ended().await.code(), Some(76));
    assert!(!runs(&node.text(Stream::Stdout)[0]));
    assert!(!node.path(files::REPORT).exists());
}

#[tokio::test]
async fn an_agent_without_a_directory_says_so() {
    let node = FakeNode::new("true");
    std::fs::remove_file(node.path(files::TOKEN)).unwrap();
    let output = node.verb(&[]).await;
    assert_eq!(output.status.code(), Some(70));
    assert!(String::from_utf8(output.stderr).unwrap().contains("token"));
}
