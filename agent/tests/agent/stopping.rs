//! Ending a program: limits, cancellation, programs that will not go, and the agent's own socket.

use std::time::{Duration, Instant};

use hyper::Method;
use orca_proto::agent::routes;
use orca_proto::duration::Span;
use orca_proto::log::Stream;
use orca_proto::problem::{Kind, Problem};
use orca_proto::task::{Outcome, Timeout};
use rustix::process::Signal;

use super::fake_node::{FakeNode, TOKEN, runs};

const TIMED_OUT: Outcome = Outcome::TimedOut { which: Timeout::StartToClose };
const STUBBORN: &str = "trap 'echo heard' TERM; echo ready; while :; do sleep 0.05; done";

#[tokio::test]
async fn the_time_limit_ends_the_program_and_is_told_from_a_failure() {
    let node = FakeNode::new("sleep 60").briefed(|brief| brief.start_to_close = Span::millis(100));
    assert_eq!(node.outcome().await, TIMED_OUT);
    assert!(node.text(Stream::System).concat().contains("time limit"));
}

#[tokio::test]
async fn a_program_that_ends_well_when_told_to_stop_was_still_stopped() {
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let node = FakeNode::new(script).briefed(|brief| brief.start_to_close = Span::secs(1));
    assert_eq!(node.outcome().await, TIMED_OUT);
    assert_eq!(node.text(Stream::Stdout), ["ready", "bye"]);
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_is_killed_after_its_grace() {
    let node = FakeNode::new(STUBBORN).briefed(|brief| brief.grace = Span::millis(300));
    let mut agent = node.start_until_ready().await;
    let begin = Instant::now();
    agent.signal(Signal::TERM);
    assert_eq!(agent.ended().await.code(), Some(0));
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(node.report().outcome, Outcome::Cancelled);
    assert_eq!(node.text(Stream::Stdout), ["ready", "heard"]);
}

#[tokio::test]
async fn a_cancellation_ends_the_program_and_what_it_started() {
    let node = FakeNode::new("sleep 300 & echo $!; echo ready; wait");
    let mut agent = node.start_until_ready().await;
    let (status, ..) = node.ask_agent(Method::POST, routes::CANCELLATION, TOKEN, "{}").await;
    assert_eq!(status, 202);
    assert_eq!(agent.ended().await.code(), Some(0));
    assert_eq!(node.report().outcome, Outcome::Cancelled);
    assert!(!runs(&node.text(Stream::Stdout)[0]));
}

#[tokio::test]
async fn a_limit_that_the_node_names_is_the_outcome_and_the_reason_in_the_log() {
    for (limit, which, word) in [
        (r#"{"limit":"heartbeat"}"#, Timeout::Heartbeat, "no progress"),
        (r#"{"limit":"deadline"}"#, Timeout::Deadline, "deadline"),
    ] {
        let node = FakeNode::new("trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done");
        let mut agent = node.start_until_ready().await;
        let (status, ..) = node.ask_agent(Method::POST, routes::CANCELLATION, TOKEN, limit).await;
        assert_eq!(status, 202);
        assert_eq!(agent.ended().await.code(), Some(0));
        assert_eq!(node.report().outcome, Outcome::TimedOut { which });
        assert!(node.text(Stream::System).concat().contains(word));
    }
}

#[tokio::test]
async fn a_second_cancellation_can_shorten_the_grace() {
    let node = FakeNode::new(STUBBORN);
    let mut agent = node.start_until_ready().await;
    node.ask_agent(Method::POST, routes::CANCELLATION, TOKEN, "{}").await;
    node.until("the program heard of it", |told| told.lines.iter().any(|line| line.text == "heard")).await;
    let begin = Instant::now();
    node.ask_agent(Method::POST, routes::CANCELLATION, TOKEN, r#"{"grace":"0s"}"#).await;
    agent.ended().await;
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(node.report().outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn sigterm_to_the_agent_is_a_cancellation() {
    let node = FakeNode::new("echo ready; exec sleep 300");
    let mut agent = node.start_until_ready().await;
    agent.signal(Signal::TERM);
    assert_eq!(agent.ended().await.code(), Some(0));
    assert_eq!(node.report().outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn other_signals_reach_the_program() {
    let node = FakeNode::new("trap 'echo usr1; exit 4' USR1; echo ready; while :; do sleep 0.05; done");
    let mut agent = node.start_until_ready().await;
    agent.signal(Signal::USR1);
    agent.ended().await;
    assert_eq!(node.report().outcome, Outcome::Failed { exit_code: 4, reason: None });
    assert!(node.text(Stream::Stdout).contains(&"usr1".to_owned()));
}

#[tokio::test]
async fn a_stopped_program_can_still_be_cancelled() {
    let node = FakeNode::new("trap 'exit 0' TERM; echo ready; kill -STOP $$; sleep 300");
    let mut agent = node.start_until_ready().await;
    agent.signal(Signal::TERM);
    agent.ended().await;
    assert_eq!(node.report().outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn health_tells_the_programs_pid() {
    let node = FakeNode::new("echo $$; echo ready; exec sleep 300");
    let mut agent = node.start_until_ready().await;
    let health = node.health().await;
    assert_eq!(health.pid.map(|pid| pid.to_string()).as_ref(), node.text(Stream::Stdout).first());
    assert_eq!(health.version, env!("CARGO_PKG_VERSION"));
    agent.signal(Signal::TERM);
    agent.ended().await;
}

#[tokio::test]
async fn the_agents_socket_answers_bad_requests_with_problems_and_goes_on() {
    let node = FakeNode::new("echo ready; exec sleep 300");
    let mut agent = node.start_until_ready().await;
    let long = "x".repeat(5_000);
    for (method, path, token, body, kind) in [
        (Method::GET, routes::HEALTH, "wrong", "", Kind::Unauthenticated),
        (Method::GET, "/v1/secrets", TOKEN, "", Kind::NotFound),
        (Method::DELETE, routes::HEALTH, TOKEN, "", Kind::MethodNotAllowed),
        (Method::POST, routes::CANCELLATION, TOKEN, "{", Kind::Malformed),
        (Method::POST, routes::CANCELLATION, TOKEN, r#"{"colour":"red"}"#, Kind::Validation),
        (Method::POST, routes::CANCELLATION, TOKEN, &long, Kind::BodyTooLarge),
    ] {
        let (status, media, answer) = node.ask_agent(method, path, token, body).await;
        let problem: Problem = serde_json::from_slice(&answer).unwrap();
        assert_eq!((problem.kind, status), (kind, kind.status()), "{path} {body:.20}");
        assert_eq!(media, orca_proto::problem::MEDIA_TYPE);
    }
    assert!(node.health().await.pid.is_some());
    agent.signal(Signal::TERM);
    agent.ended().await;
}
