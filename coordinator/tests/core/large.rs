//! Plans of the largest size: inserted whole, settled without a quadratic cost, and refused beyond.

use std::time::{Duration, Instant};

use orca_proto::limits;
use orca_proto::problem::Kind;
use orca_proto::spec::NewTask;
use orca_proto::task::{Cancellation, State, Step};
use serde_json::json;

use super::support::{SOON, TestApp, after, goal, kind, task};

#[tokio::test]
async fn a_plan_of_100_000_tasks_is_inserted_and_settled_in_bounded_time_and_one_more_refused() {
    let test = TestApp::start().await;
    let id = test.enqueue(goal("g")).await;
    let planner = test.planner("p").await;
    let grant = planner.claim_one().await;
    // All wait for the first: when it fails, 99,999 are skipped.
    let mut tasks: Vec<NewTask> = vec![task("first")];
    tasks.extend((1..limits::PLAN_TASKS).map(|n| after(&format!("t{n}"), &["first"])));
    let mut too_many = tasks.clone();
    too_many.push(task("one-more"));
    assert_eq!(kind(planner.plan(&grant, too_many).await), Kind::PlanInvalid);
    assert_eq!(test.task(id).await.summary.children.len(), 0);

    let begun = Instant::now();
    planner.plan(&grant, tasks).await.unwrap();
    let inserted = begun.elapsed();
    let worker = test.worker("w").await;
    let first = worker.claim_one().await;
    worker.succeed(&first, json!(null)).await;
    let begun = Instant::now();
    let ready = async {
        while test.task(id).await.summary.children.get(&State::Ready).copied() != Some(99_999) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON * 2, ready).await.expect("the dependents were not let go in time");
    let settled = begun.elapsed();

    let begun = Instant::now();
    for _ in 0..8 {
        assert_eq!(worker.claim(100).await.len(), 100);
    }
    let claimed = begun.elapsed();
    let begun = Instant::now();
    test.app.task_cancel(&test.operator(), id, Cancellation::default()).await.unwrap();
    let cancelled = begun.elapsed();
    let goal = test.task(id).await.summary;
    assert_eq!(goal.state, State::Cancelled);
    assert_eq!(goal.children.get(&State::Running), Some(&800));
    assert_eq!(goal.children.get(&State::Ready), None);
    assert!(planner.claim(1).await.is_empty() && worker.claim(1).await.is_empty());
    println!(
        "100,000 tasks: plan inserted in {inserted:?}, 99,999 dependents let go in {settled:?}, 800 claimed in \
         {claimed:?}, tree cancelled in {cancelled:?}"
    );
    assert!(inserted < Duration::from_secs(60), "inserting took {inserted:?}");
    test.stop().await;
}

#[tokio::test]
async fn a_finish_step_behind_500_tasks_runs_once_when_all_have_ended() {
    let test = TestApp::start().await;
    let id = test.enqueue(goal("g")).await;
    let (planner, worker) = (test.planner("p").await, test.worker("w").await);
    let grant = planner.claim_one().await;
    planner.plan(&grant, (0..500).map(|n| task(&format!("t{n}"))).collect()).await.unwrap();
    let begun = Instant::now();
    loop {
        let grants = worker.claim_for(256, Duration::from_secs(3)).await;
        if grants.is_empty() {
            break;
        }
        for grant in grants {
            worker.succeed(&grant, json!(1)).await;
        }
    }
    let drained = begun.elapsed();
    let finish = planner.claim_for(1, SOON * 3).await.remove(0);
    assert_eq!(finish.step, Some(Step::Finish));
    planner.succeed(&finish, json!(500)).await;
    test.reconcile().await;
    assert_eq!(test.task(id).await.result, Some(json!(500)));
    println!("500 tasks claimed and reported one after the other in {drained:?}");
    test.stop().await;
}
