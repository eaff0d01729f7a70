//! The stream of events: complete, in order, and never past one that commits late.

use std::time::Duration;

use orca_coordinator::app::{EventCursor, Principal};
use orca_proto::event::EventKind;
use orca_proto::task::State;
use orca_proto::token::Access;
use serde_json::json;

use super::support::{SOON, TestApp, principal, task};

#[tokio::test]
async fn a_reader_never_passes_an_event_whose_transaction_commits_late() {
    let test = TestApp::start().await;
    test.stop().await;
    let start = test.app.events_head().await.unwrap();
    let mut late = test.connection().await;
    let insert = "INSERT INTO orca.events (namespace, tasks, kind) \
                  VALUES ('default', ARRAY[gen_random_uuid()], 'orca.task.cancel_requested')";
    sqlx::raw_sql("BEGIN").execute(&mut late).await.unwrap();
    sqlx::query(insert).execute(&mut late).await.unwrap();
    test.enqueue(task("a")).await;
    let operator = test.operator();
    let seen = test.app.events_after(&operator, Some(&start), None, 100).await.unwrap();
    assert!(seen.is_empty(), "an event was shown while an older one was still under way: {seen:?}");
    sqlx::raw_sql("COMMIT").execute(&mut late).await.unwrap();
    let both = async {
        loop {
            let seen = test.app.events_after(&operator, Some(&start), None, 100).await.unwrap();
            if seen.len() == 2 {
                return seen;
            }
            test.app.events_changed().await;
        }
    };
    let seen = tokio::time::timeout(SOON, both).await.unwrap();
    assert_eq!(seen[0].kind, EventKind::CancelRequested);
    assert_eq!(seen[1].data.state, Some(State::Ready));
}

#[tokio::test]
async fn a_look_goes_on_past_what_was_not_for_this_reader() {
    let test = TestApp::start().await;
    test.stop().await;
    let stranger = principal("other", "bob", Access::Operator);
    test.app.task_enqueue(&stranger, task("a"), None).await.unwrap();
    // Visible only once older transactions of the whole server have ended.
    let first = async |who: &Principal, after: Option<&EventCursor>| {
        let looking = async {
            loop {
                let (seen, next) = test.app.events_look(who, after, None, 1).await.unwrap();
                if !seen.is_empty() {
                    return (seen[0].id.parse::<EventCursor>().unwrap(), next);
                }
                test.app.events_changed().await;
            }
        };
        tokio::time::timeout(SOON, looking).await.unwrap()
    };
    let (foreign, _) = first(&stranger, None).await;
    let operator = test.operator();
    let (seen, place) = test.app.events_look(&operator, None, None, 100).await.unwrap();
    assert!(seen.is_empty() && place > foreign, "{place} is not past {foreign}");
    test.enqueue(task("b")).await;
    let (own, next) = first(&operator, Some(&place)).await;
    assert_eq!(own, next);
    let (seen, _) = test.app.events_look(&operator, Some(&next), None, 1).await.unwrap();
    assert!(seen.is_empty());
}

#[tokio::test]
async fn every_state_and_attempt_of_a_task_is_told_in_order_and_only_to_its_namespace() {
    let test = TestApp::start().await;
    let mut spec = task("a");
    spec.retry.max_attempts = 2;
    spec.retry.backoff.initial = orca_proto::duration::Span::millis(0);
    let id = test.enqueue(spec).await;
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    node.fail(&grant).await;
    let grant = node.claim_one().await;
    node.succeed(&grant, json!(1)).await;
    let told = async {
        loop {
            let seen = test.app.events_after(&test.operator(), None, Some(id), 100).await.unwrap();
            if seen.iter().any(|event| event.data.state == Some(State::Succeeded)) {
                return seen;
            }
            test.app.events_changed().await;
        }
    };
    let seen = tokio::time::timeout(SOON, told).await.unwrap();
    let states: Vec<State> = seen.iter().filter_map(|event| event.data.state).collect();
    assert_eq!(states, [State::Ready, State::Running, State::Ready, State::Running, State::Succeeded]);
    let ends: Vec<&str> =
        seen.iter().filter_map(|event| event.data.outcome.as_ref()).map(|outcome| outcome.name()).collect();
    assert_eq!(ends, ["failed", "succeeded"]);
    assert!(seen.windows(2).all(|pair| pair[0].time <= pair[1].time));
    let stranger = principal("other", "ann", Access::Operator);
    assert!(test.app.events_after(&stranger, None, None, 100).await.unwrap().is_empty());
    // From any event's id the stream goes on after it.
    let place = seen[2].id.parse().unwrap();
    let rest = test.app.events_after(&test.operator(), Some(&place), Some(id), 100).await.unwrap();
    assert_eq!(rest, seen[3..]);
    test.stop().await;
}

#[tokio::test]
async fn how_long_a_transaction_has_held_up_the_stream_is_told() {
    let test = TestApp::start().await;
    test.stop().await;
    let mut long = test.connection().await;
    sqlx::raw_sql("BEGIN; SELECT pg_current_xact_id()").execute(&mut long).await.unwrap();
    test.enqueue(task("a")).await;
    test.clock.advance(Duration::from_secs(30));
    let held = test.app.queue_stats().await.unwrap().events_held;
    assert!(held >= Duration::from_secs(30), "{held:?}");
    sqlx::raw_sql("COMMIT").execute(&mut long).await.unwrap();
    // Others of the server may hold it up for a moment.
    let free = async {
        while test.app.queue_stats().await.unwrap().events_held > Duration::ZERO {
            test.app.events_changed().await;
        }
    };
    tokio::time::timeout(SOON, free).await.unwrap();
}
