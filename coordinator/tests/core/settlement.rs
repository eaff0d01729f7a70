//! Ends of large graphs: settled a bounded piece at a time, and in nobody else's way.

use std::time::{Duration, Instant};

use orca_proto::plan::Batch;
use orca_proto::problem::Kind;
use orca_proto::spec::NewTask;
use orca_proto::task::{Cancellation, State};
use orca_proto::token::Access;
use serde_json::json;
use sqlx::Connection;

use super::support::{SOON, TestApp, after, goal, kind, principal, task};

const LOCK: &str = "SELECT pg_advisory_xact_lock(7024430)";

/// More than the pool has connections.
const CALLERS: usize = 30;

async fn transactions(test: &TestApp, state: State) -> i64 {
    sqlx::query_scalar("SELECT count(DISTINCT xid::text) FROM orca.events WHERE state = $1")
        .bind(state.as_str())
        .fetch_one(&mut test.connection().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn cancels_of_trees_that_wait_for_the_settler_leave_the_connections_to_others() {
    let test = TestApp::start().await;
    let planner = test.planner("p").await;
    let mut goals = Vec::new();
    for n in 0..CALLERS {
        goals.push(test.enqueue(goal(&format!("g{n}"))).await);
        planner.plan(&planner.claim_one().await, vec![task("a")]).await.unwrap();
    }
    let mut connection = test.connection().await;
    let mut settling = connection.begin().await.unwrap();
    sqlx::query(LOCK).execute(&mut *settling).await.unwrap();
    let calls: Vec<_> = goals
        .iter()
        .map(|id| {
            let (app, who, id) = (test.app.clone(), test.operator(), *id);
            tokio::spawn(async move { app.task_cancel(&who, id, Cancellation::default()).await })
        })
        .collect();
    let mut watching = test.connection().await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                 AND wait_event_type = 'Lock' AND wait_event = 'advisory'";
    let limit = Instant::now() + SOON;
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut watching).await.unwrap() == 0 {
        assert!(Instant::now() < limit, "no cancel waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let other = principal("other", "bob", Access::Operator);
    for n in 0..CALLERS {
        test.app.task_enqueue(&other, task(&format!("b{n}")), None).await.unwrap();
    }
    let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&mut watching).await.unwrap();
    assert_eq!(waiting, 1, "each waiting cancel holds a connection");
    settling.commit().await.unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().state, State::Cancelled);
    }
    test.stop().await;
}

#[tokio::test]
async fn what_does_not_exist_and_what_has_nothing_under_it_is_cancelled_without_waiting_for_the_settler() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("a")).await;
    let mut connection = test.connection().await;
    let mut settling = connection.begin().await.unwrap();
    sqlx::query(LOCK).execute(&mut *settling).await.unwrap();
    let stranger = principal("other", "bob", Access::Operator);
    let cancel = |who| {
        tokio::time::timeout(Duration::from_secs(5), test.app.task_cancel(who, id, Cancellation::default()))
    };
    assert_eq!(kind(cancel(&stranger).await.expect("it waited")), Kind::NotFound);
    assert_eq!(cancel(&test.operator()).await.expect("it waited").unwrap().state, State::Cancelled);
    settling.commit().await.unwrap();
    test.stop().await;
}

#[tokio::test]
async fn more_dependents_than_a_turn_takes_are_let_go_in_several_and_each_counts_once() {
    let test = TestApp::start().await;
    let mut tasks = vec![task("first"), task("second")];
    tasks.extend((0..6_000).map(|n| after(&format!("t{n}"), &["first"])));
    tasks.push(after("last", &["first", "second"]));
    let ids = test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap().ids;
    let before = transactions(&test, State::Ready).await;
    let node = test.worker("w").await;
    let grants = [node.claim_one().await, node.claim_one().await];
    assert_eq!(grants[0].task, ids[0]);
    node.succeed(&grants[0], json!(1)).await;
    test.reconcile().await;
    assert_eq!(test.state(ids[6_001]).await, State::Ready);
    assert_eq!(test.state(ids[6_002]).await, State::Blocked, "an edge was counted twice");
    assert_eq!(transactions(&test, State::Ready).await - before, 2);
    node.succeed(&grants[1], json!(1)).await;
    test.reconcile().await;
    assert_eq!(test.state(ids[6_002]).await, State::Ready);
    test.stop().await;
}

#[tokio::test]
async fn a_dense_graph_is_skipped_whole_by_turns_that_are_each_short() {
    let test = TestApp::start().await;
    let names: Vec<String> = (0..600).map(|n| format!("t{n}")).collect();
    let tasks = names
        .iter()
        .enumerate()
        .map(|(n, name)| after(name, &names[..n].iter().map(String::as_str).collect::<Vec<_>>()));
    let batch = Batch { tasks: tasks.collect() };
    let ids = test.app.batch_enqueue(&test.operator(), batch, None).await.unwrap().ids;
    let begun = Instant::now();
    test.app.task_cancel(&test.operator(), ids[0], Cancellation::default()).await.unwrap();
    test.reconcile().await;
    println!("179,700 edges settled in {:?}", begun.elapsed());
    for id in [ids[1], ids[300], ids[599]] {
        assert_eq!(test.state(id).await, State::Skipped);
    }
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM orca.unsettled")
        .fetch_one(&mut test.connection().await)
        .await
        .unwrap();
    assert_eq!(left, 0);
    test.stop().await;
}

#[tokio::test]
async fn more_tasks_under_a_failed_goal_than_a_turn_takes_are_all_cancelled() {
    let test = TestApp::start().await;
    let id = test.enqueue(goal("g")).await;
    let (planner, worker) = (test.planner("p").await, test.worker("w").await);
    let grant = planner.claim_one().await;
    planner.plan(&grant, (0..5_500).map(|n| task(&format!("t{n}"))).collect()).await.unwrap();
    let first = worker.claim_one().await;
    worker.fail(&first).await;
    test.reconcile().await;
    let goal = test.task(id).await.summary;
    assert_eq!(goal.state, State::Failed);
    assert_eq!(goal.children, [(State::Failed, 1), (State::Cancelled, 5_500)].into());
    test.stop().await;
}

#[tokio::test]
async fn an_end_that_cannot_be_settled_is_set_aside_and_the_others_are_settled() {
    let test = TestApp::start().await;
    let mut connection = test.connection().await;
    for statement in [
        "CREATE FUNCTION orca.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$",
        "CREATE TRIGGER refuse BEFORE UPDATE ON orca.tasks FOR EACH ROW WHEN (OLD.name = 'poisoned')
         EXECUTE FUNCTION orca.refuse()",
    ] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    let tasks: Vec<NewTask> = ["a", "b", "c"].map(task).into_iter().collect();
    let firsts = test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap().ids;
    let needs = firsts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let tasks = ["x", "poisoned", "z"].iter().zip(&needs).map(|(name, need)| after(name, &[need]));
    let ids =
        test.app.batch_enqueue(&test.operator(), Batch { tasks: tasks.collect() }, None).await.unwrap().ids;
    let mut settling = connection.begin().await.unwrap();
    sqlx::query(LOCK).execute(&mut *settling).await.unwrap();
    let node = test.worker("w").await;
    for _ in &firsts {
        node.succeed(&node.claim_one().await, json!(1)).await;
    }
    settling.commit().await.unwrap();
    test.reconcile().await;
    assert_eq!([test.state(ids[0]).await, test.state(ids[2]).await], [State::Ready; 2]);
    assert_eq!(test.state(ids[1]).await, State::Blocked);
    sqlx::query("DROP TRIGGER refuse ON orca.tasks").execute(&mut connection).await.unwrap();
    test.advance(Duration::from_secs(61)).await;
    assert_eq!(test.state(ids[1]).await, State::Ready);
    test.stop().await;
}
