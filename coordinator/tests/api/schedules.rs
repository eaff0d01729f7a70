//! Schedules over HTTP: each verb's status, and the place of every fault.

use jiff::Timestamp;
use orca_proto::queue::Pause;
use orca_proto::schedule::{Backfill, Schedule, ScheduleSpec};
use orca_proto::token::Access;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, refusal, task};

#[tokio::test]
async fn a_schedule_is_made_changed_run_paused_and_removed() {
    let server = Server::start().await;
    let client = server.client(Access::Operator);
    let spec = ScheduleSpec::new("@yearly", task("report"));
    let put = || server.operator(Method::PUT, "/v1/schedules/reports").json(&spec).send();
    let made = put().await.unwrap();
    assert_eq!(
        (made.status().as_u16(), &made.headers()["location"]),
        (201, &"/v1/schedules/reports".parse().unwrap())
    );
    let made: Schedule = made.json().await.unwrap();
    assert_eq!((made.name.as_str(), made.next.len()), ("reports", 5));
    assert_eq!(put().await.unwrap().status(), 200);
    let run = client.run_schedule("reports").await.unwrap();
    assert_eq!(client.task(run.ids[0]).await.unwrap().summary.name, "report");
    assert_eq!(client.schedule("reports").await.unwrap().last.unwrap().task, run.ids[0]);
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let window = Backfill { from: at("2023-06-01T00:00:00Z"), to: at("2025-06-01T00:00:00Z") };
    assert_eq!(client.backfill_schedule("reports", &window).await.unwrap().ids.len(), 2);
    let paused = client.pause_schedule("reports", &Pause::default()).await.unwrap().paused.unwrap();
    assert_eq!(paused.by, "the-operator");
    let resumed = client.resume_schedule("reports").await.unwrap();
    assert_eq!(client.schedules().await.unwrap().items, [resumed]);
    let removed = server.operator(Method::DELETE, "/v1/schedules/reports").send().await.unwrap();
    assert_eq!((removed.status().as_u16(), removed.text().await.unwrap().as_str()), (204, ""));
    let again = server.operator(Method::DELETE, "/v1/schedules/reports").send().await.unwrap();
    assert_eq!(refusal(again).await.0, 404);
    assert!(client.schedules().await.unwrap().items.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn every_fault_of_a_schedule_names_its_field_and_leaves_nothing_behind() {
    let server = Server::start().await;
    let good = json!({"cron": "@daily", "task": {"container": {"image": "a"}}});
    for (field, value, at) in [
        ("cron", json!("0 0 30 2 *"), "/cron"),
        ("cron", json!("0 0 * *"), "/cron"),
        ("timezone", json!("Mars/Olympus"), "/timezone"),
        ("jitter", json!("-5s"), "/jitter"),
        ("jitter", json!("24h"), "/jitter"),
        ("catch_up", json!("99999999999999999h"), "/catch_up"),
        ("overlap", json!("perhaps"), "/overlap"),
        ("starting", json!("tomorrow"), "/starting"),
        ("ending", json!("2001-01-01T00:00:00Z"), "/cron"),
        ("colour", json!("red"), "/colour"),
        ("task", json!({"container": {"image": "a"}, "depends_on": ["b"]}), "/task/depends_on"),
        ("task", json!({"container": {"image": "a"}, "priority": 101}), "/task/priority"),
    ] {
        let mut spec = good.clone();
        spec[field] = value;
        let answer = server.operator(Method::PUT, "/v1/schedules/s").json(&spec).send().await.unwrap();
        let (status, kind, body) = refusal(answer).await;
        assert_eq!((status, kind.as_str()), (422, "validation"), "{spec}: {body}");
        assert_eq!(body["errors"][0]["pointer"], at, "{spec}: {body}");
    }
    let list = server.operator(Method::GET, "/v1/schedules").send().await.unwrap();
    assert_eq!(list.json::<Value>().await.unwrap()["items"], json!([]));
    for query in ["?limit=0", "?limit=501", "?cursor=%00", "?colour=red"] {
        let answer = server.operator(Method::GET, &format!("/v1/schedules{query}")).send().await.unwrap();
        let (_, _, body) = refusal(answer).await;
        let name = query.split('=').next().unwrap();
        assert_eq!(body["errors"][0]["pointer"], name, "{body}");
    }
    server.operator(Method::PUT, "/v1/schedules/s").json(&good).send().await.unwrap();
    for (from, to, at) in [
        ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z", "/to"),
        ("2026-01-01T00:00:00Z", "2199-01-01T00:00:00Z", "/to"),
        ("2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "/to"),
        ("2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z", "/from"),
        ("-005000-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "/from"),
    ] {
        let path = "/v1/schedules/s/backfills";
        let body = json!({"from": from, "to": to});
        let answer = server.operator(Method::POST, path).json(&body).send().await.unwrap();
        let (status, _, body) = refusal(answer).await;
        assert_eq!((status, &body["errors"][0]["pointer"]), (422, &json!(at)), "{from} {to}: {body}");
    }
    let tasks = server.client(Access::Operator).tasks(&Default::default()).await.unwrap();
    assert!(tasks.items.is_empty());
    server.stop().await;
}
