//! What is told of a task that is not in line yet beside what keeps it out, and what is no longer in anybody's way.

use orca_proto::duration::Span;
use orca_proto::plan::Batch;
use orca_proto::queue::Pause;
use orca_proto::spec::{Approval, NewTask};
use orca_proto::task::{Cancellation, State};
use orca_proto::why::ConditionKind;
use serde_json::json;

use super::super::support::{TestApp, after, task};
use super::{kinds, only, why};

fn on_a_gpu(name: &str) -> NewTask {
    NewTask { requires: [("gpu".to_owned(), "a100".to_owned())].into(), ..task(name) }
}

#[tokio::test]
async fn a_task_that_is_not_due_or_is_blocked_also_says_what_would_hold_it_then() {
    let test = TestApp::start().await;
    test.worker("w").await;
    let operator = test.operator();
    test.app.queue_pause(&operator, "mails", Pause::default()).await.unwrap();
    let delayed = NewTask { queue: "mails".into(), delay: Some(Span::secs(3_600)), ..on_a_gpu("a") };
    let told = why(&test, test.enqueue(delayed.clone()).await).await;
    assert_eq!(
        kinds(&told),
        [ConditionKind::Due, ConditionKind::QueuePaused, ConditionKind::NodeLabels],
        "{told:#?}"
    );
    assert!(told.conditions.iter().all(|condition| condition.blocks), "{told:#?}");
    assert!(
        told.summary.starts_with("it is due in 1h") && told.summary.ends_with("(and 2 more)"),
        "{told:#?}"
    );
    let blocked = NewTask { approval: Some(Approval::default()), delay: None, ..delayed };
    let told = why(&test, test.enqueue(blocked).await).await;
    assert_eq!(
        kinds(&told),
        [ConditionKind::Approval, ConditionKind::QueuePaused, ConditionKind::NodeLabels],
        "{told:#?}"
    );
    test.stop().await;
}

#[tokio::test]
async fn a_chain_of_dependencies_is_followed_to_what_it_comes_down_to() {
    let test = TestApp::start().await;
    test.worker("w").await;
    let root = test.enqueue(NewTask { approval: Some(Approval::default()), ..task("root") }).await;
    let mut last = root;
    for name in ["one", "two", "three"] {
        last = test.enqueue(after(name, &[&last.to_string()])).await;
    }
    let id = test.enqueue(after("last", &[&last.to_string()])).await;
    let told = why(&test, id).await;
    assert_eq!(
        only(&told, ConditionKind::Dependency, true).message,
        format!(
            "it waits for task {last} (three), which is blocked; in the end it comes down to task {root} (root), which is blocked"
        )
    );
    assert_eq!(told.conditions[0].facts["root"], json!(root));
    test.stop().await;
}

#[tokio::test]
async fn those_who_were_cancelled_in_line_go_before_nobody() {
    let test = TestApp::start().await;
    test.worker("w").await;
    let tasks = (0..3).map(|n| NewTask { priority: 5, ..task(&format!("high{n}")) }).collect();
    let high = test.app.batch_enqueue(&test.operator(), Batch { tasks }, None).await.unwrap().ids;
    let id = test.enqueue(task("a")).await;
    test.app.task_cancel(&test.operator(), high[1], Cancellation::default()).await.unwrap();
    assert_eq!(why(&test, id).await.ahead, Some(2));
    for other in [high[0], high[2]] {
        test.app.task_cancel(&test.operator(), other, Cancellation::default()).await.unwrap();
    }
    let told = why(&test, id).await;
    assert_eq!((told.state, told.ahead, told.conditions.len()), (State::Ready, Some(0), 0), "{told:#?}");
    test.stop().await;
}

#[tokio::test]
async fn tasks_before_one_that_no_live_node_fits_do_not_block_it_and_other_nodes_tasks_are_not_before_it() {
    let test = TestApp::start().await;
    test.worker("w").await;
    test.enqueue(NewTask { priority: 5, ..task("elsewhere") }).await;
    test.enqueue(on_a_gpu("first")).await;
    let told = why(&test, test.enqueue(on_a_gpu("second")).await).await;
    assert_eq!(kinds(&told), [ConditionKind::NodeLabels, ConditionKind::BehindOthers], "{told:#?}");
    assert_eq!(
        told.conditions.iter().map(|condition| condition.blocks).collect::<Vec<_>>(),
        [true, false],
        "{told:#?}"
    );
    assert_eq!(told.ahead, Some(1));
    test.stop().await;
}
