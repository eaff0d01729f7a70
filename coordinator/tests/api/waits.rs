//! Unique keys, approvals, signals, dead letters and orders for many, over the API.

use orca_proto::approval::Decision;
use orca_proto::attempt::{Received, Report};
use orca_proto::dead_letter::DeadLetterFilter;
use orca_proto::duration::Span;
use orca_proto::problem::Kind;
use orca_proto::selector::{BulkCancel, Selector};
use orca_proto::signal::Signal;
use orca_proto::spec::{Approval, NewTask, Unique, UniqueWhile, WaitFor};
use orca_proto::task::{Outcome, State, TaskFilter};
use orca_proto::token::Access;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, refusal, task};

#[tokio::test]
async fn a_task_with_a_taken_unique_key_is_answered_200_and_is_the_one_there_is() {
    let server = Server::start().await;
    let unique = Some(Unique { key: "k".into(), r#while: UniqueWhile::Open });
    let spec = NewTask { unique, ..task("a") };
    let made = server.operator(Method::POST, "/v1/tasks").json(&spec).send().await.unwrap();
    assert_eq!(made.status(), 201);
    assert!(made.headers().contains_key("location"));
    let again = server.operator(Method::POST, "/v1/tasks").json(&spec).send().await.unwrap();
    assert_eq!(again.status(), 200);
    assert_eq!(made.json::<Value>().await.unwrap(), again.json::<Value>().await.unwrap());
    let (_, existed) = server.client(Access::Operator).enqueue_or_find(&spec, None).await.unwrap();
    assert!(existed);
    server.stop().await;
}

#[tokio::test]
async fn an_approval_and_a_signal_let_a_task_go_on_and_late_ones_are_conflicts() {
    let server = Server::start().await;
    let operator = server.client(Access::Operator);
    let wait = WaitFor { signal: "go".into(), timeout: None, on_timeout: Default::default() };
    let spec = NewTask { approval: Some(Approval::default()), wait_for: vec![wait], ..task("a") };
    let id = operator.enqueue(&spec, None).await.unwrap().summary.id;
    let yes = Decision { approve: true, comment: None };
    assert_eq!(operator.decide(id, &yes).await.unwrap().waits_for, ["go"]);
    let late = operator.decide(id, &yes).await.unwrap_err();
    assert_eq!(late.kind(), Some(Kind::NotAwaited));
    let path = format!("/v1/tasks/{id}/signals");
    let go = json!({"name": "go", "payload": {"n": 1}});
    for _ in 0..2 {
        let sent = server.operator(Method::POST, &path).json(&go).send().await.unwrap();
        assert_eq!((sent.status().as_u16(), sent.json::<Value>().await.unwrap()), (202, json!({})));
    }
    let other = Signal { name: "go".into(), payload: json!(2) };
    assert_eq!(operator.signal(id, &other).await.unwrap_err().kind(), Some(Kind::Conflict));
    assert_eq!(operator.task(id).await.unwrap().summary.state, State::Ready);
    server.stop().await;
}

#[tokio::test]
async fn a_node_waits_for_a_signal_and_is_told_when_none_came() {
    let server = Server::start().await;
    let operator = server.client(Access::Operator);
    let id = operator.enqueue(&task("a"), None).await.unwrap().summary.id;
    let worker = server.worker().await;
    let (_, lease) = worker.take().await;
    assert_eq!(worker.client.await_signal(lease, "go", Span::secs(0)).await.unwrap(), None);
    let go = Signal { name: "go".into(), payload: json!("now") };
    let (got, sent) =
        tokio::join!(worker.client.await_signal(lease, "go", Span::secs(30)), operator.signal(id, &go));
    sent.unwrap();
    assert_eq!(got.unwrap(), Some(Received { payload: json!("now") }));
    let token = server.token(Access::Worker);
    let path = |query: &str| format!("/v1/tasks/{id}/attempts/{}/signals/go{query}", lease.token);
    for query in ["?wait=61s", "?wait=never", "?wait=1s&more=1"] {
        let answer = server.request(Method::GET, &path(query)).bearer_auth(&token).send().await.unwrap();
        assert_eq!(refusal(answer).await.0, 422, "{query}");
    }
    server.stop().await;
}

#[tokio::test]
async fn dead_letters_are_listed_tried_again_and_purged_and_open_tasks_cancelled_by_filter() {
    let server = Server::start().await;
    let operator = server.client(Access::Operator);
    let worker = server.worker().await;
    let mut spec = NewTask { group: Some("g".into()), ..task("a") };
    spec.retry.max_attempts = 1;
    let report = Report { outcome: Outcome::Failed { exit_code: 1, reason: None }, result: None, plan: None };
    let mut failed = Vec::new();
    for _ in 0..2 {
        failed.push(operator.enqueue(&spec, None).await.unwrap().summary.id);
        worker.client.report(worker.take().await.1, &report).await.unwrap();
    }
    let filter = DeadLetterFilter { group: Some("g".into()), ..DeadLetterFilter::default() };
    let page = operator.dead_letters(&filter).await.unwrap();
    assert_eq!(page.items.iter().map(|task| task.id).rev().collect::<Vec<_>>(), failed);

    let one = json!({"ids": [failed[0]]});
    let retry = || {
        let call = server.operator(Method::POST, "/v1/dead-letters/retries").json(&one);
        async { call.header("idempotency-key", "k").send().await.unwrap() }
    };
    let (made, again) = (retry().await, retry().await);
    assert_eq!((made.status(), again.status()), (reqwest::StatusCode::CREATED, reqwest::StatusCode::CREATED));
    assert_eq!(made.json::<Value>().await.unwrap(), again.json::<Value>().await.unwrap());
    let rest = Selector { all: true, ..Selector::default() };
    assert_eq!(operator.purge_dead_letters(&rest).await.unwrap().count, 1);
    assert!(operator.dead_letters(&filter).await.unwrap().items.is_empty());

    let open = TaskFilter { group: Some("g".into()), state: Some("ready".into()), ..TaskFilter::default() };
    assert_eq!(operator.tasks(&open).await.unwrap().items.len(), 1);
    let answer = server.operator(Method::GET, "/v1/tasks?group=h").send().await.unwrap();
    let (status, kind, problem) = refusal(answer).await;
    assert_eq!((status, kind.as_str()), (422, "validation"));
    assert_eq!(problem["errors"][0]["pointer"], "?group");
    let group = Selector { group: Some("g".into()), ..Selector::default() };
    let cancel = BulkCancel { selector: group, reason: None };
    assert_eq!(operator.cancel_matching(&cancel).await.unwrap().count, 1);
    for path in ["/v1/cancellations", "/v1/dead-letters/retries", "/v1/dead-letters/purges"] {
        let body = if path == "/v1/cancellations" { json!({"selector": {}}) } else { json!({}) };
        let answer = server.operator(Method::POST, path).json(&body).send().await.unwrap();
        let (status, kind, _) = refusal(answer).await;
        assert_eq!((status, kind.as_str()), (422, "validation"), "{path}");
    }
    server.stop().await;
}
