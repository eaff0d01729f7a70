//! Quotas of namespaces: kept by everything that enqueues, and given back by whatever ends.

use futures_util::future::join_all;
use orca_coordinator::app::Error;
use orca_proto::attempt::Children;
use orca_proto::ids::TaskId;
use orca_proto::namespace::{Namespace, Quota};
use orca_proto::plan::Batch;
use orca_proto::problem::Kind;
use orca_proto::queue::{GroupSettings, Pause, QueueSettings};
use orca_proto::schedule::ScheduleSpec;
use orca_proto::spec::NewTask;
use orca_proto::task::State;
use orca_proto::token::Access;
use serde_json::json;

use super::support::{SOON, TestApp, goal, kind, lease, principal, task};

impl TestApp {
    async fn allow(&self, quota: Quota) -> Namespace {
        let admin = principal("elsewhere", "root", Access::Admin);
        self.app.namespace_set(&admin, "default", quota).await.unwrap()
    }

    async fn namespace(&self) -> Namespace {
        let admin = principal("elsewhere", "root", Access::Admin);
        self.app.namespace_get(&admin, "default").await.unwrap()
    }

    async fn try_enqueue(&self, task: NewTask) -> Result<TaskId, Error> {
        self.app.task_enqueue(&self.operator(), task, None).await.map(|(task, _)| task.summary.id)
    }
}

fn open(max_open: u64) -> Quota {
    Quota { max_open: Some(max_open), ..Quota::default() }
}

fn queues(max_queues: u32) -> Quota {
    Quota { max_queues: Some(max_queues), ..Quota::default() }
}

#[tokio::test]
async fn open_tasks_are_counted_whatever_their_state_and_however_they_are_enqueued() {
    let test = TestApp::start().await;
    let who = test.operator();
    test.allow(open(5)).await;
    let ready = test.enqueue(task("a")).await;
    let blocked = test.enqueue(NewTask { depends_on: vec![ready.to_string()], ..task("b") }).await;
    let run_at = Some(jiff::Timestamp::now() + jiff::SignedDuration::from_hours(9));
    test.enqueue(NewTask { run_at, ..task("c") }).await;
    let batch = |count: usize| Batch { tasks: (0..count).map(|n| task(&format!("t{n}"))).collect() };
    assert_eq!(kind(test.app.batch_enqueue(&who, batch(3), None).await), Kind::QuotaExceeded);
    assert_eq!(test.namespace().await.open, 3);
    test.app.batch_enqueue(&who, batch(2), None).await.unwrap();
    let error = test.try_enqueue(task("x")).await.unwrap_err();
    let problem = error.problem();
    assert_eq!((problem.kind, problem.status), (Kind::QuotaExceeded, 429));
    assert!(problem.detail.contains("may have 5 open tasks; it has 5"), "{}", problem.detail);
    // What runs is open still; what has ended gives its place back, wherever it ended.
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    assert_eq!((grant.task, test.namespace().await.running), (ready, 1));
    assert_eq!(kind(test.try_enqueue(task("x")).await), Kind::QuotaExceeded);
    node.succeed(&grant, json!(1)).await;
    test.reconcile().await;
    test.enqueue(task("x")).await;
    test.app.task_cancel(&who, blocked, Default::default()).await.unwrap();
    assert_eq!(test.state(blocked).await, State::Cancelled);
    test.enqueue(task("y")).await;
    assert_eq!(kind(test.app.task_retry(&who, ready, None).await), Kind::QuotaExceeded);
    test.allow(Quota::default()).await;
    test.app.task_retry(&who, ready, None).await.unwrap();
    test.stop().await;
}

#[tokio::test]
async fn enqueues_at_once_at_two_coordinators_fill_a_quota_and_no_more() {
    let test = TestApp::start().await;
    test.allow(open(7)).await;
    let other = test.replica().await;
    let who = test.operator();
    let enqueues = (0..20).map(|n| {
        let app = if n % 2 == 0 { &test.app } else { &other };
        app.task_enqueue(&who, task("a"), None)
    });
    let enqueued = join_all(enqueues).await;
    assert_eq!(enqueued.iter().filter(|result| result.is_ok()).count(), 7);
    assert_eq!(test.namespace().await.open, 7);
    test.stop().await;
}

#[tokio::test]
async fn tasks_under_a_task_plans_and_schedules_keep_to_the_quota() {
    let test = TestApp::start().await;
    let who = test.operator();
    let (parent, goal) = (test.enqueue(task("parent")).await, test.enqueue(goal("goal")).await);
    let worker = test.worker("w").await;
    let (held, planning) = (worker.claim_one().await, test.planner("p").await);
    let planned = planning.claim_one().await;
    assert_eq!((held.task, planned.task), (parent, goal));
    let spec = ScheduleSpec::new("@yearly", task("run"));
    let spec = ScheduleSpec { task: NewTask { key: None, ..spec.task.clone() }, ..spec };
    test.app.schedule_put(&who, "s", spec).await.unwrap();
    test.allow(open(4)).await;
    let spawn = async |count: usize| {
        let tasks = (0..count).map(|n| task(&format!("c{n}"))).collect();
        let children = Children { idempotency_key: format!("k{count}"), tasks };
        test.app.attempt_children(&worker.who, lease(&held), children).await
    };
    assert_eq!(kind(spawn(3).await), Kind::QuotaExceeded);
    // A plan waits for its place, but not for one that there can never be. The finish step takes one.
    let tasks = |count: usize| (0..count).map(|n| task(&format!("p{n}"))).collect();
    assert_eq!(kind(planning.plan(&planned, tasks(4)).await), Kind::PlanInvalid);
    assert_eq!(kind(planning.plan(&planned, tasks(2)).await), Kind::QuotaExceeded);
    assert_eq!(test.namespace().await.open, 2);
    spawn(2).await.unwrap();
    assert_eq!(kind(test.app.schedule_run(&who, "s", None).await), Kind::QuotaExceeded);
    assert_eq!(kind(planning.plan(&planned, tasks(1)).await), Kind::QuotaExceeded);
    test.allow(open(7)).await;
    planning.plan(&planned, tasks(1)).await.unwrap();
    test.app.schedule_run(&who, "s", None).await.unwrap();
    assert_eq!(test.namespace().await.open, 7);
    test.stop().await;
}

#[tokio::test]
async fn what_is_refused_for_the_number_of_queues_leaves_no_queue_behind() {
    let test = TestApp::start().await;
    let who = test.operator();
    let of = |queue: &str| NewTask { queue: queue.into(), key: None, ..task("t") };
    test.enqueue(of("a")).await;
    test.allow(queues(2)).await;
    let batch = |names: &[&str]| Batch { tasks: names.iter().map(|name| of(name)).collect() };
    assert_eq!(kind(test.app.batch_enqueue(&who, batch(&["a", "b", "c"]), None).await), Kind::QuotaExceeded);
    test.app.batch_enqueue(&who, batch(&["a", "b", "b"]), None).await.unwrap();
    assert_eq!(kind(test.try_enqueue(of("c")).await), Kind::QuotaExceeded);
    test.enqueue(NewTask { priority: 7, ..of("b") }).await;
    assert_eq!(kind(test.app.queue_set(&who, "c", QueueSettings::default()).await), Kind::QuotaExceeded);
    assert_eq!(kind(test.app.queue_pause(&who, "c", Pause::default()).await), Kind::QuotaExceeded);
    let group = test.app.group_set(&who, "c", "g", GroupSettings::default()).await;
    assert_eq!(kind(group), Kind::QuotaExceeded);
    test.app.queue_set(&who, "b", QueueSettings::default()).await.unwrap();
    let grant = test.worker("w").await.claim_one().await;
    let children = Children { idempotency_key: "k".into(), tasks: vec![of("c")] };
    let who_runs = test.worker("w").await.who;
    let spawned = test.app.attempt_children(&who_runs, lease(&grant), children).await;
    assert!(spawned.is_err());
    let missing = NewTask { depends_on: vec![TaskId::new().to_string()], ..of("d") };
    test.allow(Quota::default()).await;
    assert_eq!(kind(test.try_enqueue(missing).await), Kind::PlanInvalid);
    let names = test.app.queue_list(&who).await.unwrap().items.into_iter().map(|queue| queue.name);
    assert_eq!(names.collect::<Vec<_>>(), ["a", "b"]);
    test.stop().await;
}

#[tokio::test]
async fn what_is_refused_after_it_came_by_sql_makes_no_queue_that_its_namespace_may_not_have() {
    let test = TestApp::start().await;
    test.allow(queues(1)).await;
    test.enqueue(NewTask { queue: "a".into(), ..task("t") }).await;
    let mut connection = test.connection().await;
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar(
        r#"SELECT orca.enqueue(jsonb_build_object('container', '{"image": "x"}'::jsonb, 'queue', 'more' || n, 'group', 'g' || n))
           FROM generate_series(1, 3) AS n ORDER BY n"#,
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let all = async {
        test.reconcile().await;
        while test.app.queue_stats().await.unwrap().inbox > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, all).await.unwrap();
    for (place, id) in ids.into_iter().enumerate() {
        let refused = test.task(TaskId(id)).await;
        assert_eq!((refused.summary.state, refused.summary.queue.as_str()), (State::Failed, "default"));
        assert_eq!(refused.spec.queue, format!("more{}", place + 1));
        assert!(refused.summary.reason.unwrap().contains("may have 1 queues"));
    }
    let lanes: Vec<String> = sqlx::query_scalar("SELECT queue || ' ' || grp FROM orca.lanes ORDER BY 1")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(lanes, ["a ", "default "]);
    test.stop().await;
}
