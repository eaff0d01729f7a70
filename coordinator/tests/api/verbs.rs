//! Each verb's success: its status, its headers, and that the parts fit together.

use futures_util::TryStreamExt;
use orca_proto::attempt::{AttemptStart, Children, Report};
use orca_proto::duration::Span;
use orca_proto::log::{LogAppend, LogLine, LogQuery, Stream};
use orca_proto::node::RenewRequest;
use orca_proto::problem::Kind;
use orca_proto::task::{Cancellation, Outcome, Progress, State};
use orca_proto::token::Access;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, task};

fn line(seq: i64, text: &str) -> LogLine {
    LogLine { seq, stream: Stream::Stdout, at: jiff::Timestamp::now(), text: text.into() }
}

#[tokio::test]
async fn enqueue_batch_cancel_and_retry_answer_with_their_statuses_and_locations() {
    let server = Server::start().await;
    let body = json!({"container": {"image": "example"}});
    let made = server.operator(Method::POST, "/v1/tasks").json(&body).send().await.unwrap();
    assert_eq!(made.status(), 201);
    let location = made.headers()["location"].to_str().unwrap().to_owned();
    let id = made.json::<Value>().await.unwrap()["summary"]["id"].as_str().unwrap().to_owned();
    assert_eq!(location, format!("/v1/tasks/{id}"));
    assert_eq!(server.operator(Method::GET, &location).send().await.unwrap().status(), 200);

    let path = format!("{location}/cancellation");
    let cancelled =
        server.operator(Method::POST, &path).json(&json!({"reason": "enough"})).send().await.unwrap();
    assert_eq!(cancelled.status(), 202);
    // The body may be empty as well as `{}`.
    let again = server.operator(Method::POST, &format!("{location}/retries")).send().await.unwrap();
    assert_eq!(again.status(), 201);
    assert_ne!(again.headers()["location"], location.as_str());
    let batch = json!({"tasks": [body, body]});
    let made = server.operator(Method::POST, "/v1/batches").json(&batch).send().await.unwrap();
    assert_eq!(made.status(), 201);
    assert_eq!(made.json::<Value>().await.unwrap()["ids"].as_array().unwrap().len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn the_same_idempotency_key_answers_the_same_task_and_refuses_another_request() {
    let server = Server::start().await;
    let operator = server.client(Access::Operator);
    let first = operator.enqueue(&task("a"), Some("key-1")).await.unwrap();
    let second = operator.enqueue(&task("a"), Some("key-1")).await.unwrap();
    assert_eq!(first.summary.id, second.summary.id);
    let other = operator.enqueue(&task("b"), Some("key-1")).await.unwrap_err();
    assert_eq!(other.kind(), Some(Kind::IdempotencyConflict));
    server.stop().await;
}

#[tokio::test]
async fn a_node_runs_a_task_from_claim_to_result_over_the_api() {
    let server = Server::start().await;
    let operator = server.client(Access::Operator);
    let id = operator.enqueue(&task("work"), None).await.unwrap().summary.id;
    let worker = server.worker().await;
    let (grant, lease) = worker.take().await;
    assert_eq!((grant.task, grant.attempt), (id, 1));

    let node = &worker.client;
    node.report_start(lease, AttemptStart::default()).await.unwrap();
    let progress = Progress { percent: Some(40.0), message: Some("half".into()) };
    node.report_progress(lease, &progress).await.unwrap();
    let ack =
        node.append_logs(lease, &LogAppend { lines: vec![line(0, "one"), line(1, "two")] }).await.unwrap();
    assert_eq!(ack.next_seq, 2);
    assert!(node.dependencies(lease).await.unwrap().tasks.is_empty());
    let kept = node.keep(lease, "out.txt", "hello".into()).await.unwrap();
    assert_eq!((kept.size, kept.task), (5, Some(id)));
    let renewed = node
        .renew(
            worker.id,
            &RenewRequest {
                instance: worker.instance,
                leases: vec![lease],
                cancelling: vec![],
                wait: Span::secs(0),
                draining: false,
                unwell: None,
            },
        )
        .await
        .unwrap();
    assert!(renewed.lost.is_empty() && renewed.cancel.is_empty());

    let report = Report { outcome: Outcome::Succeeded, result: Some(json!({"n": 1})), plan: None };
    assert_eq!(node.report(lease, &report).await.unwrap().state, State::Succeeded);
    let done = operator.task(id).await.unwrap();
    assert_eq!(done.result, Some(json!({"n": 1})));
    assert_eq!(operator.artifacts(id).await.unwrap().items, vec![kept]);
    assert_eq!(operator.logs(id, &LogQuery::default()).await.unwrap().items.len(), 2);
    assert_eq!(operator.nodes().await.unwrap().items.len(), 1);
    assert_eq!(operator.node(worker.id).await.unwrap().name, "w1");
    let late = node.report_start(lease, AttemptStart::default()).await.unwrap_err();
    assert_eq!(late.kind(), Some(Kind::LeaseLost));
    server.stop().await;
}

#[tokio::test]
async fn start_and_progress_answer_204_and_children_their_ids() {
    let server = Server::start().await;
    server.client(Access::Operator).enqueue(&task("parent"), None).await.unwrap();
    let worker = server.worker().await;
    let (_, lease) = worker.take().await;
    let token = server.token(Access::Worker);
    let path = |verb: &str| format!("/v1/tasks/{}/attempts/{}/{verb}", lease.task, lease.token);
    let start = server.request(Method::POST, &path("start")).bearer_auth(&token).send().await.unwrap();
    assert_eq!(start.status(), 204);
    let progress = server.request(Method::POST, &path("progress")).bearer_auth(&token);
    assert_eq!(progress.json(&json!({"percent": 1.5})).send().await.unwrap().status(), 204);
    let children = Children { idempotency_key: "c1".into(), tasks: vec![task("child")] };
    let ids = worker.client.spawn_children(lease, &children).await.unwrap().ids;
    assert_eq!(worker.client.spawn_children(lease, &children).await.unwrap().ids, ids);
    server.stop().await;
}

#[tokio::test]
async fn a_file_comes_back_as_it_went_and_its_etag_saves_the_second_download() {
    let server = Server::start().await;
    let operator = server.client(Access::Operator);
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
    let path = "/v1/artifacts?name=data.bin";
    let made = server.operator(Method::POST, path).body(bytes.clone()).send().await.unwrap();
    assert_eq!(made.status(), 201);
    let location = made.headers()["location"].to_str().unwrap().to_owned();
    let artifact: orca_proto::artifact::Artifact = made.json().await.unwrap();
    assert_eq!(location, format!("/v1/artifacts/{}", artifact.id));
    assert_eq!(operator.artifact(artifact.id).await.unwrap(), artifact);
    let chunks: Vec<_> = operator.download(artifact.id).await.unwrap().try_collect().await.unwrap();
    assert_eq!(chunks.concat(), bytes);
    let content = format!("{location}/content");
    let first = server.operator(Method::GET, &content).send().await.unwrap();
    assert_eq!(first.headers()["x-content-type-options"], "nosniff");
    let etag = first.headers()["etag"].clone();
    let second = server.operator(Method::GET, &content).header("if-none-match", etag).send().await.unwrap();
    assert_eq!(second.status(), 304);
    for name in ["", "../x", ".hidden", "a/b", "a b"] {
        let error = operator.upload(name, "x".into()).await.unwrap_err();
        assert_eq!(error.kind(), Some(Kind::Validation), "{name:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn cancel_of_an_ended_task_and_retry_of_a_running_one_are_conflicts() {
    let server = Server::start().await;
    let operator = server.client(Access::Operator);
    let id = operator.enqueue(&task("t"), None).await.unwrap().summary.id;
    assert_eq!(operator.retry(id).await.unwrap_err().kind(), Some(Kind::Conflict));
    operator.cancel(id, &Cancellation::default()).await.unwrap();
    let error = operator.cancel(id, &Cancellation::default()).await.unwrap_err();
    assert_eq!(error.kind(), Some(Kind::Conflict));
    server.stop().await;
}

#[tokio::test]
async fn the_figures_tell_of_requests_tasks_nodes_and_the_database() {
    let server = Server::start().await;
    server.client(Access::Operator).enqueue(&task("t"), None).await.unwrap();
    server.worker().await;
    let answer = server.admin(Method::GET, "/metrics").send().await.unwrap();
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = answer.text().await.unwrap();
    for part in [
        "orca_database_up 1",
        "orca_tasks{state=\"ready\"} 1",
        "orca_nodes{role=\"work\",state=\"ready\"} 1",
        "orca_leases 0",
        "orca_http_requests_total{route=\"/v1/tasks\",method=\"POST\",status=\"201\"} 1",
        "orca_database_connections{state=\"idle\"}",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    server.stop().await;
}
