//! Goals: plan, tasks, finish, result; rounds; failure by both policies; tasks that spawn.

use orca_proto::attempt::{Children, Report};
use orca_proto::problem::Kind;
use orca_proto::spec::{Network, NewTask, OnChildFailure};
use orca_proto::task::{Cancellation, Outcome, State, Step};
use serde_json::json;
use sqlx::Connection;

use super::support::{TestApp, after, goal, kind, lease, planned, success, task};

#[tokio::test]
async fn a_goal_becomes_a_plan_its_tasks_run_and_its_finish_step_brings_the_result() {
    let test = TestApp::start().await;
    let id = test.enqueue(goal("g")).await;
    let (planner, worker) = (test.planner("p").await, test.worker("w").await);
    let grant = planner.claim_one().await;
    assert_eq!((grant.step, grant.has_dependencies), (Some(Step::Plan), false));
    let answer = planner.plan(&grant, vec![task("a"), task("b"), after("sum", &["a", "b"])]).await.unwrap();
    assert_eq!(answer.state, State::Waiting);
    assert_eq!(
        planner.plan(&grant, vec![task("a"), task("b"), after("sum", &["a", "b"])]).await.unwrap(),
        answer
    );

    let parts = [worker.claim_one().await, worker.claim_one().await];
    assert!(worker.claim(1).await.is_empty(), "the third waits for the first two");
    for (grant, result) in parts.iter().zip([json!(1), json!(2)]) {
        worker.succeed(grant, result).await;
    }
    let sum = worker.claim_one().await;
    assert!(sum.has_dependencies);
    let inputs = test.app.attempt_dependencies(&worker.who, lease(&sum)).await.unwrap().tasks;
    let inputs: Vec<_> = inputs.into_iter().map(|task| (task.key.unwrap(), task.result.unwrap())).collect();
    assert_eq!(inputs, [("a".to_owned(), json!(1)), ("b".to_owned(), json!(2))]);
    assert!(planner.claim(1).await.is_empty(), "the finish step waits for all");
    worker.succeed(&sum, json!(3)).await;

    let finish = planner.claim_one().await;
    assert_eq!((finish.step, finish.has_dependencies, finish.parent), (Some(Step::Finish), true, Some(id)));
    let all = test.app.attempt_dependencies(&planner.who, lease(&finish)).await.unwrap().tasks;
    assert_eq!(all.iter().map(|task| task.key.as_deref().unwrap()).collect::<Vec<_>>(), ["a", "b", "sum"]);
    assert_eq!(planner.succeed(&finish, json!({"total": 3})).await, State::Succeeded);
    test.reconcile().await;
    let goal = test.task(id).await;
    assert_eq!((goal.summary.state, goal.result), (State::Succeeded, Some(json!({"total": 3}))));
    test.stop().await;
}

#[tokio::test]
async fn a_finish_step_may_plan_again_and_sees_the_tasks_of_every_round() {
    let test = TestApp::start().await;
    let id = test.enqueue(goal("g")).await;
    let (planner, worker) = (test.planner("p").await, test.worker("w").await);
    let mut grant = planner.claim_one().await;
    for round in ["one", "two"] {
        planner.plan(&grant, vec![task(round)]).await.unwrap();
        let part = worker.claim_one().await;
        worker.succeed(&part, json!(round)).await;
        grant = planner.claim_one().await;
        assert_eq!((grant.step, test.state(id).await), (Some(Step::Finish), State::Waiting));
    }
    let all = test.app.attempt_dependencies(&planner.who, lease(&grant)).await.unwrap().tasks;
    assert_eq!(all.iter().map(|task| task.key.as_deref().unwrap()).collect::<Vec<_>>(), ["one", "two"]);
    planner.succeed(&grant, json!("done")).await;
    test.reconcile().await;
    assert_eq!(test.task(id).await.result, Some(json!("done")));
    test.stop().await;
}

#[tokio::test]
async fn a_goal_may_answer_at_once_and_an_empty_plan_goes_straight_to_the_finish() {
    let test = TestApp::start().await;
    let planner = test.planner("p").await;
    let at_once = test.enqueue(goal("g")).await;
    let grant = planner.claim_one().await;
    assert_eq!(planner.succeed(&grant, json!(42)).await, State::Succeeded);
    assert_eq!(test.task(at_once).await.result, Some(json!(42)));

    let empty = test.enqueue(goal("g")).await;
    let grant = planner.claim_one().await;
    planner.plan(&grant, vec![]).await.unwrap();
    let finish = planner.claim_one().await;
    assert_eq!(finish.step, Some(Step::Finish));
    planner.succeed(&finish, json!("nothing to do")).await;
    test.reconcile().await;
    assert_eq!(test.task(empty).await.result, Some(json!("nothing to do")));
    test.stop().await;
}

#[tokio::test]
async fn a_failed_task_fails_its_goal_by_name_and_cancels_the_rest() {
    let test = TestApp::start().await;
    let id = test.enqueue(goal("g")).await;
    let (planner, worker) = (test.planner("p").await, test.worker("w").await);
    let grant = planner.claim_one().await;
    planner
        .plan(&grant, vec![task("good"), task("bad"), task("rest"), after("next", &["bad"])])
        .await
        .unwrap();
    let good = worker.claim_one().await;
    let bad = worker.claim_one().await;
    worker.fail(&bad).await;
    test.reconcile().await;
    // One still runs: it is told to stop, and the goal waits for it.
    assert_eq!(test.state(id).await, State::Waiting);
    assert_eq!(worker.renew(&[lease(&good)], std::time::Duration::ZERO).await.cancel, vec![lease(&good)]);
    let cancelled = Report { outcome: Outcome::Cancelled, result: None, plan: None };
    worker.report(&good, cancelled).await.unwrap();
    test.reconcile().await;
    let goal = test.task(id).await;
    assert_eq!(goal.summary.state, State::Failed);
    let reason = goal.summary.reason.unwrap();
    assert!(reason.contains("bad") && reason.contains("exited with code 3"), "{reason}");
    assert_eq!(goal.summary.children.get(&State::Failed), Some(&1));
    assert!(planner.claim(1).await.is_empty() && worker.claim(1).await.is_empty());
    test.stop().await;
}

#[tokio::test]
async fn a_goal_that_continues_lets_its_finish_step_decide_about_failures() {
    let test = TestApp::start().await;
    let id = test.enqueue(NewTask { on_child_failure: OnChildFailure::Continue, ..goal("g") }).await;
    let (planner, worker) = (test.planner("p").await, test.worker("w").await);
    let grant = planner.claim_one().await;
    planner.plan(&grant, vec![task("bad"), task("good"), after("next", &["bad"])]).await.unwrap();
    let bad = worker.claim_one().await;
    worker.fail(&bad).await;
    let good = worker.claim_one().await;
    worker.succeed(&good, json!(1)).await;
    let finish = planner.claim_one().await;
    let all = test.app.attempt_dependencies(&planner.who, lease(&finish)).await.unwrap().tasks;
    let states: Vec<State> = all.iter().map(|task| task.state).collect();
    assert_eq!(states, [State::Failed, State::Succeeded, State::Skipped]);
    planner.succeed(&finish, json!("partly")).await;
    test.reconcile().await;
    assert_eq!(test.task(id).await.result, Some(json!("partly")));
    test.stop().await;
}

#[tokio::test]
async fn a_goal_whose_finish_step_fails_has_failed_by_either_policy() {
    let test = TestApp::start().await;
    let planner = test.planner("p").await;
    for policy in [OnChildFailure::Fail, OnChildFailure::Continue] {
        let id = test.enqueue(NewTask { on_child_failure: policy, ..goal("g") }).await;
        let grant = planner.claim_one().await;
        planner.plan(&grant, vec![]).await.unwrap();
        let finish = planner.claim_one().await;
        planner.fail(&finish).await;
        test.reconcile().await;
        let goal = test.task(id).await.summary;
        assert_eq!(goal.state, State::Failed, "{policy:?}");
        assert!(goal.reason.unwrap().contains("finish step"));
    }
    test.stop().await;
}

#[tokio::test]
async fn an_invalid_plan_changes_nothing_and_says_what_is_wrong() {
    let test = TestApp::start().await;
    let id = test.enqueue(goal("g")).await;
    let (planner, worker) = (test.planner("p").await, test.worker("w").await);
    let grant = planner.claim_one().await;
    let unknown = uuid::Uuid::now_v7().to_string();
    for tasks in [
        vec![after("a", &["b"]), after("b", &["a"])],
        vec![after("a", &["nobody"])],
        vec![after("a", &[&unknown])],
        vec![task("a"), task("a")],
        vec![after("a", &[&id.to_string()])],
    ] {
        assert_eq!(kind(planner.plan(&grant, tasks).await), Kind::PlanInvalid);
    }
    let mut both = success(json!(1));
    both.plan = planned(vec![]).plan;
    assert_eq!(kind(planner.report(&grant, both).await), Kind::Validation);
    let goal = test.task(id).await.summary;
    assert_eq!((goal.state, goal.children.len()), (State::Running, 0));

    test.enqueue(task("w")).await;
    let work = worker.claim_one().await;
    assert_eq!(kind(worker.plan(&work, vec![task("a")]).await), Kind::Validation);
    test.stop().await;
}

#[tokio::test]
async fn a_task_that_spawns_waits_for_what_it_spawned_and_holds_its_result() {
    let test = TestApp::start().await;
    let id = test.enqueue(task("parent")).await;
    let node = test.worker("w").await;
    let parent = node.claim_one().await;
    let children = Children { idempotency_key: "k".into(), tasks: vec![task("c"), after("d", &["c"])] };
    let spawned = test.app.attempt_children(&node.who, lease(&parent), children.clone()).await.unwrap();
    assert_eq!(test.app.attempt_children(&node.who, lease(&parent), children).await.unwrap(), spawned);
    assert_eq!(node.succeed(&parent, json!("mine")).await, State::Waiting);
    assert_eq!(test.task(id).await.result, None);
    for expected in ["c", "d"] {
        let child = node.claim_one().await;
        assert_eq!((child.spec.key.as_deref(), child.parent), (Some(expected), Some(id)));
        node.succeed(&child, json!(null)).await;
    }
    test.reconcile().await;
    let parent = test.task(id).await;
    assert_eq!((parent.summary.state, parent.result), (State::Succeeded, Some(json!("mine"))));
    test.stop().await;
}

#[tokio::test]
async fn what_is_under_a_task_reaches_no_more_than_that_task() {
    let test = TestApp::start().await;
    let egress = |hosts: &[&str]| Network::Egress(hosts.iter().map(|host| (*host).to_owned()).collect());
    let reaching = |network: &Network| NewTask { network: network.clone(), ..task("c") };
    let own = egress(&["*.a.example", "b.example:22"]);
    let (planner, worker) = (test.planner("p").await, test.worker("w").await);
    let within = [Network::None, egress(&["x.a.example:443", "b.example:22"]), own.clone()];
    let beyond = [Network::Open, egress(&["a.example"]), egress(&["x.a.example", "evil.example"])];

    test.enqueue(NewTask { network: own.clone(), ..task("parent") }).await;
    let parent = worker.claim_one().await;
    for (number, network) in beyond.iter().chain(&within).enumerate() {
        let tasks = vec![task("fine"), reaching(network)];
        let children = Children { idempotency_key: number.to_string(), tasks };
        let spawned = test.app.attempt_children(&worker.who, lease(&parent), children).await;
        match spawned {
            Ok(_) => assert!(within.contains(network), "{network:?}"),
            Err(error) => {
                assert!(beyond.contains(network), "{network:?}");
                assert!(error.to_string().contains("/tasks/1/network"), "{error}");
            }
        }
    }
    test.enqueue(goal("g")).await;
    let closed = planner.claim_one().await;
    assert_eq!(kind(planner.plan(&closed, vec![reaching(&own)]).await), Kind::PlanInvalid);
    planner.plan(&closed, vec![reaching(&Network::None)]).await.unwrap();
    test.enqueue(NewTask { network: Network::Open, ..goal("open") }).await;
    let open = planner.claim_one().await;
    planner.plan(&open, vec![reaching(&own), NewTask { network: Network::Open, ..task("d") }]).await.unwrap();
    test.stop().await;
}

#[tokio::test]
async fn a_spawned_task_that_fails_fails_its_parent_unless_that_continues() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    for (policy, state) in
        [(OnChildFailure::Fail, State::Failed), (OnChildFailure::Continue, State::Succeeded)]
    {
        let id = test.enqueue(NewTask { on_child_failure: policy, ..task("parent") }).await;
        let parent = node.claim_one().await;
        let children = Children { idempotency_key: "k".into(), tasks: vec![task("c")] };
        test.app.attempt_children(&node.who, lease(&parent), children).await.unwrap();
        node.succeed(&parent, json!(1)).await;
        let child = node.claim_one().await;
        node.fail(&child).await;
        test.reconcile().await;
        assert_eq!(test.state(id).await, state);
    }
    test.stop().await;
}

#[tokio::test]
async fn the_children_of_an_attempt_that_failed_are_cancelled_and_do_not_count_for_the_next() {
    let test = TestApp::start().await;
    let mut spec = task("parent");
    spec.retry.max_attempts = 2;
    spec.retry.backoff.initial = orca_proto::duration::Span::millis(0);
    let id = test.enqueue(spec).await;
    let node = test.worker("w").await;
    let first = node.claim_one().await;
    let children =
        Children { idempotency_key: "k".into(), tasks: vec![NewTask { priority: -1, ..task("c") }] };
    let ids = test.app.attempt_children(&node.who, lease(&first), children).await.unwrap().ids;
    node.fail(&first).await;
    test.reconcile().await;
    assert_eq!(test.state(ids[0]).await, State::Cancelled);
    let second = node.claim_one().await;
    assert_eq!((second.task, second.attempt), (id, 2));
    assert_eq!(node.succeed(&second, json!(1)).await, State::Succeeded);
    test.stop().await;
}

#[tokio::test]
async fn a_plan_that_comes_after_the_cancel_is_not_inserted() {
    let test = TestApp::start().await;
    let id = test.enqueue(goal("g")).await;
    let planner = test.planner("p").await;
    let grant = planner.claim_one().await;
    test.app.task_cancel(&test.operator(), id, Cancellation::default()).await.unwrap();
    assert_eq!(planner.plan(&grant, vec![task("a")]).await.unwrap().state, State::Cancelled);
    assert!(test.task(id).await.summary.children.is_empty());
    test.stop().await;
}

#[tokio::test]
async fn the_repair_of_goals_that_nobody_settled_leaves_one_without_children_as_it_is() {
    let test = TestApp::start().await;
    let (planner, worker) = (test.planner("p").await, test.worker("w").await);
    let goals = [test.enqueue(goal("empty")).await, test.enqueue(goal("stuck")).await];
    let mut finish = Vec::new();
    for _ in goals {
        planner.plan(&planner.claim_one().await, vec![task("a")]).await.unwrap();
        worker.succeed(&worker.claim_one().await, json!(1)).await;
        finish.push(planner.claim_one().await);
    }
    // That the last of what is under them ended is lost; of one, all that is under it as well.
    let mut connection = test.connection().await;
    let mut losing = connection.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(7024430)").execute(&mut *losing).await.unwrap();
    for grant in &finish {
        planner.succeed(grant, json!(2)).await;
    }
    for statement in [
        "DELETE FROM orca.unsettled WHERE $1::uuid IS NOT NULL",
        "UPDATE orca.tasks SET open_children = 0 WHERE state = 'waiting' AND $1::uuid IS NOT NULL",
        "DELETE FROM orca.tasks WHERE parent = $1",
    ] {
        sqlx::query(statement).bind(goals[0].0).execute(&mut *losing).await.unwrap();
    }
    losing.commit().await.unwrap();
    test.reconcile().await;
    let mut open = Vec::new();
    for id in goals {
        let row: (String, i32) = sqlx::query_as("SELECT state, open_children FROM orca.tasks WHERE id = $1")
            .bind(id.0)
            .fetch_one(&mut test.connection().await)
            .await
            .unwrap();
        open.push(row);
    }
    assert_eq!(open, [("waiting".to_owned(), 0), ("succeeded".to_owned(), 0)]);
    test.stop().await;
}
