//! `node.sock` from the outside: whoever is in the container may send anything.

use std::path::PathBuf;
use std::time::Duration;

use orca_node::RuntimeKind;
use orca_proto::node::LeaseRef;
use orca_proto::problem::{Kind, Problem};
use orca_proto::task::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::rig::{Rig, shell};

/// The socket and the token of one attempt.
pub(crate) struct Inside {
    pub(crate) socket: PathBuf,
    pub(crate) token: String,
}

impl Inside {
    pub(crate) fn of(rig: &Rig, lease: LeaseRef) -> Self {
        let dir = rig.state.path().join(format!("attempts/{}-{}", lease.task, lease.token));
        Self { token: std::fs::read_to_string(dir.join("token")).unwrap(), socket: dir.join("node.sock") }
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server may answer and close before it has read a body that it does not want.
        let _refused_early = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _reset_after_answer = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    pub(crate) async fn json(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let headers = format!("authorization: Bearer {}\r\ncontent-type: application/json\r\n", self.token);
        self.send(method, path, &headers, body).await
    }
}

pub(crate) fn kind(answer: &(u16, String)) -> Kind {
    let problem: Problem = serde_json::from_str(&answer.1).unwrap_or_else(|_| panic!("{answer:?}"));
    assert_eq!(problem.status, answer.0);
    problem.kind
}

async fn inside(rig: &Rig) -> (LeaseRef, Inside) {
    let lease = rig.grant(shell("echo ready; sleep 60"));
    rig.said(lease, "ready").await;
    (lease, Inside::of(rig, lease))
}

pub(crate) async fn finish(rig: Rig, lease: LeaseRef) {
    rig.fake.change(|book| book.cancel.push(lease));
    rig.fake.report_of(lease).await;
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_is_answered_without_the_attempts_own_token() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let (lease, inside) = inside(&rig).await;
    for headers in ["", "authorization: Bearer 00\r\n", "authorization: Basic eDp4\r\n"] {
        let answer = inside.send("GET", "/v1/attempt", headers, b"").await;
        assert_eq!(kind(&answer), Kind::Unauthenticated);
        let answer = inside.send("GET", "/v1/nowhere", headers, b"").await;
        assert_eq!(kind(&answer), Kind::Unauthenticated);
    }
    finish(rig, lease).await;
}

#[tokio::test]
async fn each_way_of_being_wrong_has_its_problem() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let (lease, inside) = inside(&rig).await;
    let cases: [(&str, &str, &[u8], Kind); 11] = [
        ("GET", "/v1/nowhere", b"", Kind::NotFound),
        ("DELETE", "/v1/attempt", b"", Kind::MethodNotAllowed),
        ("POST", "/v1/progress", b"{", Kind::Malformed),
        ("POST", "/v1/progress", b"{\"message\": \"\xff\"}", Kind::Malformed),
        ("POST", "/v1/progress", b"{\"colour\": 1}", Kind::Validation),
        ("POST", "/v1/progress", b"{\"percent\": 101}", Kind::Validation),
        ("PUT", "/v1/plan", b"{\"tasks\": []}", Kind::Forbidden),
        ("PUT", "/v1/result", b"{\"a\": [\"x\\u0000y\"]}", Kind::Malformed),
        ("POST", "/v1/report", b"{\"outcome\": {\"kind\": \"lost\"}}", Kind::Validation),
        ("PUT", "/v1/artifacts/.hidden", b"x", Kind::Validation),
        ("GET", "/v1/artifacts/018f0000-0000-7000-8000-000000000000", b"", Kind::NotFound),
    ];
    for (method, path, body, expected) in cases {
        let answer = inside.json(method, path, body).await;
        assert_eq!(kind(&answer), expected, "{method} {path} {answer:?}");
    }
    let bearer = format!("authorization: Bearer {}\r\ncontent-type: text/plain\r\n", inside.token);
    let answer = inside.send("PUT", "/v1/result", &bearer, b"1").await;
    assert_eq!(kind(&answer), Kind::UnsupportedMediaType);
    let large = vec![b' '; (4 << 20) + 1];
    assert_eq!(kind(&inside.json("PUT", "/v1/result", &large).await), Kind::BodyTooLarge);
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    assert_eq!(kind(&inside.json("PUT", "/v1/result", long.as_bytes()).await), Kind::BodyTooLarge);
    finish(rig, lease).await;
}

#[tokio::test]
async fn the_same_report_twice_is_one_and_another_is_refused() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let (lease, inside) = inside(&rig).await;
    rig.fake.change(|book| book.away = true);
    let failed = br#"{"outcome": {"kind": "failed", "exit_code": 3}}"#;
    assert_eq!(inside.json("POST", "/v1/report", failed).await.0, 204);
    let again = inside.json("POST", "/v1/report", failed).await;
    assert_eq!(again.0, 204, "{again:?}");
    let other = inside.json("POST", "/v1/report", br#"{"outcome": {"kind": "succeeded"}}"#).await;
    assert_eq!(kind(&other), Kind::ResultConflict);
    rig.fake.change(|book| book.away = false);
    let outcome = rig.fake.report_of(lease).await.outcome;
    assert_eq!(outcome, Outcome::Failed { exit_code: 3, reason: None });
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn children_are_relayed_to_the_coordinator() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let (lease, inside) = inside(&rig).await;
    let children = br#"{"idempotency_key": "k", "tasks": [{"container": {"image": "i"}}]}"#;
    let answer = inside.json("POST", "/v1/children", children).await;
    assert_eq!(answer.0, 200, "{answer:?}");
    assert_eq!(rig.fake.book().children[0].idempotency_key, "k");
    rig.fake.change(|book| book.lost.push(lease));
    let fake = rig.fake.clone();
    rig.stop().await.unwrap();
    assert!(fake.book().reports.is_empty());
}

#[tokio::test]
async fn a_large_body_is_taken_and_one_that_would_become_far_larger_is_refused() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let (lease, inside) = inside(&rig).await;
    let large = format!("\"{}\"", "x".repeat(900_000));
    assert_eq!(inside.json("PUT", "/v1/result", large.as_bytes()).await.0, 204);
    let tasks = |count: usize| vec![r#"{"container": {"image": "i"}}"#; count].join(",");
    let children = |count| format!(r#"{{"idempotency_key": "k", "tasks": [{}]}}"#, tasks(count));
    let many = inside.json("POST", "/v1/children", children(100_001).as_bytes()).await;
    assert_eq!(kind(&many), Kind::Validation);
    assert!(many.1.contains("the most is 100000"), "{many:?}");
    assert_eq!(inside.json("POST", "/v1/children", children(6_000).as_bytes()).await.0, 200);
    assert_eq!(rig.fake.book().children[0].tasks.len(), 6_000);
    let done = br#"{"outcome": {"kind": "succeeded"}}"#;
    assert_eq!(inside.json("POST", "/v1/report", done).await.0, 204);
    let result = rig.fake.report_of(lease).await.result.unwrap();
    assert_eq!(result.as_str().map(str::len), Some(900_000));
    rig.stop().await.unwrap();
}

#[tokio::test]
async fn connections_that_say_nothing_are_bounded_and_a_head_without_end_is_cut() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let (lease, inside) = inside(&rig).await;
    let long = format!("x-long: {}\r\n", "x".repeat(190_000));
    assert_eq!(inside.send("GET", "/v1/attempt", &long, b"").await.0, 431);
    let mut idle = Vec::new();
    for _ in 0..32 {
        idle.push(UnixStream::connect(&inside.socket).await.unwrap());
    }
    let one_more = inside.json("GET", "/v1/attempt", b"");
    tokio::pin!(one_more);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut one_more).await;
    assert!(early.is_err(), "{early:?}");
    drop(idle);
    assert_eq!(one_more.await.0, 200);
    finish(rig, lease).await;
}
