//! Forgetting: whole trees after their time, never one that is still open, and their bytes with them.

use std::time::Duration;

use bytes::Bytes;
use orca_proto::problem::Kind;
use orca_proto::spec::{Approval, InputArtifact, NewTask};
use orca_proto::task::State;
use serde_json::json;

use super::support::{RETENTION, TestApp, after, goal, kind, lease, task};

const HOUR: Duration = Duration::from_secs(3_600);
/// The time that one partition is for.
const WIDTH: Duration = Duration::from_secs(21 * 3_600);

fn content(text: &'static str) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send {
    futures_util::stream::iter([Ok(Bytes::from_static(text.as_bytes()))])
}

async fn rows(test: &TestApp) -> i64 {
    let mut connection = test.connection().await;
    sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM orca.tasks) + (SELECT count(*) FROM orca.attempts) \
         + (SELECT count(*) FROM orca.log_chunks) + (SELECT count(*) FROM orca.dependencies) \
         + (SELECT count(*) FROM orca.artifacts) + (SELECT count(*) FROM orca.events) \
         + (SELECT count(*) FROM orca.idempotency_keys) + (SELECT count(*) FROM orca.inputs)",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_tree_is_forgotten_whole_with_its_files_once_it_ended_long_ago() {
    let test = TestApp::start().await;
    let upload = test.app.artifact_store(&test.operator(), "in", None, content("input")).await.unwrap();
    let mut spec = goal("g");
    spec.artifacts = vec![InputArtifact { id: upload.id, name: "in".into(), unpack: false }];
    let id = test.enqueue(spec).await;
    let (planner, worker) = (test.planner("p").await, test.worker("w").await);
    let grant = planner.claim_one().await;
    planner.plan(&grant, vec![task("a")]).await.unwrap();
    let part = worker.claim_one().await;
    let kept = test.app.artifact_store(&worker.who, "out", Some(lease(&part)), content("out")).await.unwrap();
    worker.succeed(&part, json!(1)).await;
    let finish = planner.claim_one().await;
    planner.succeed(&finish, json!(2)).await;
    test.reconcile().await;
    assert_eq!(test.state(id).await, State::Succeeded);

    test.advance(RETENTION - HOUR).await;
    assert_eq!(test.state(id).await, State::Succeeded);
    test.advance(HOUR * 2 + WIDTH).await;
    assert_eq!(kind(test.app.task_get(&test.operator(), id).await), Kind::NotFound);
    assert_eq!(kind(test.app.artifact_get(&test.operator(), kept.id).await), Kind::NotFound);
    assert_eq!(kind(test.app.artifact_get(&test.operator(), upload.id).await), Kind::NotFound);
    assert_eq!(rows(&test).await, 0);
    assert_eq!(test.files(), 2);
    test.advance(HOUR * 2).await;
    assert_eq!(test.files(), 0);
    test.stop().await;
}

#[tokio::test]
async fn what_an_open_task_depends_on_stays_until_that_has_ended() {
    let test = TestApp::start().await;
    let (early, late) = (test.enqueue(task("early")).await, test.enqueue(task("late")).await);
    let both = test.enqueue(after("both", &[&early.to_string(), &late.to_string()])).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    assert_eq!(grant.task, early);
    node.succeed(&grant, json!("kept")).await;
    test.advance(RETENTION * 2).await;
    // The node that nobody heard of was forgotten as well.
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    node.succeed(&grant, json!(null)).await;
    let grant = node.claim_one().await;
    assert_eq!(grant.task, both);
    let inputs = test.app.attempt_dependencies(&node.who, lease(&grant)).await.unwrap().tasks;
    let early_result = inputs.iter().find(|input| input.id == early).and_then(|input| input.result.clone());
    assert_eq!(early_result, Some(json!("kept")));
    node.succeed(&grant, json!(null)).await;
    test.advance(HOUR).await;
    assert_eq!(kind(test.app.task_get(&test.operator(), early).await), Kind::NotFound);
    test.stop().await;
}

#[tokio::test]
async fn what_is_open_or_still_used_stays_however_old() {
    let test = TestApp::start().await;
    let used = test.app.artifact_store(&test.operator(), "in", None, content("same")).await.unwrap();
    let unused = test.app.artifact_store(&test.operator(), "in", None, content("same")).await.unwrap();
    let artifacts = vec![InputArtifact { id: used.id, name: "in".into(), unpack: false }];
    let id = test.enqueue(NewTask { artifacts, ..task("a") }).await;
    test.advance(RETENTION * 2).await;
    test.advance(HOUR * 2).await;
    assert_eq!(test.state(id).await, State::Ready);
    assert_eq!(kind(test.app.artifact_get(&test.operator(), unused.id).await), Kind::NotFound);
    let (_, mut file) = test.app.artifact_open(&test.operator(), used.id).await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut file, &mut text).await.unwrap();
    assert_eq!(text, "same");
    test.stop().await;
}

#[tokio::test]
async fn trees_that_must_stay_do_not_keep_those_behind_them_from_being_forgotten() {
    // As many as are looked at in one turn.
    const STAY: usize = 200;
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    test.fill(STAY + 1, |n| task(&format!("root{n}"))).await;
    let roots = node.claim(1_000).await;
    assert_eq!(roots.len(), STAY + 1);
    for grant in &roots {
        node.succeed(grant, json!(null)).await;
    }
    let approval = Some(Approval::default());
    test.fill(STAY, |n| NewTask { approval: approval.clone(), ..task(&format!("under{n}")) }).await;
    // As if the first ones had spawned them.
    sqlx::query(
        "UPDATE orca.tasks t SET parent = r.id
         FROM (SELECT task AS id, row_number() OVER (ORDER BY task) AS place FROM orca.done) AS r,
              (SELECT id, row_number() OVER (ORDER BY id) AS place FROM orca.tasks WHERE state = 'blocked') AS c
         WHERE t.id = c.id AND r.place = c.place",
    )
    .execute(&mut test.connection().await)
    .await
    .unwrap();
    test.advance(RETENTION + WIDTH + HOUR).await;
    let mut ids: Vec<_> = roots.iter().map(|grant| grant.task).collect();
    ids.sort_unstable();
    assert_eq!(test.state(ids[0]).await, State::Succeeded);
    assert_eq!(kind(test.app.task_get(&test.operator(), ids[STAY]).await), Kind::NotFound);
    test.stop().await;
}
