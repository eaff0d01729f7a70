//! What an operator sees live: log lines and events.

use std::time::Duration;

use futures_util::StreamExt;
use orca_e2e::{Shape, scenario, tasks};
use orca_proto::client::LogItem;
use orca_proto::event::{EventKind, EventQuery};
use orca_proto::log::{LogQuery, Stream};
use orca_proto::task::State;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followed_log_is_gapless_and_in_order_and_ends_with_its_task() {
    scenario(Shape::default(), async |system| {
        let id = system.enqueue(&tasks::shell("counting", "seq 1 5000")).await;
        let mut log = system.client().follow_logs(id, &LogQuery::default()).await.unwrap();
        let (mut numbers, mut texts, mut ended) = (Vec::new(), Vec::new(), false);
        let read = async {
            while let Some(item) = log.next().await {
                match item.unwrap() {
                    LogItem::Line(line) => {
                        numbers.push(line.seq);
                        texts.extend((line.stream == Stream::Stdout).then_some(line.text));
                    }
                    LogItem::End => ended = true,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(40), read).await.unwrap();
        assert!(ended);
        let count = i64::try_from(numbers.len()).unwrap();
        assert_eq!(numbers, (0..count).collect::<Vec<_>>());
        assert_eq!(texts, (1..=5_000).map(|number| number.to_string()).collect::<Vec<_>>());
        assert_eq!(system.task(id).await.summary.state, State::Succeeded);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_is_seen_while_its_program_still_runs() {
    scenario(Shape::default(), async |system| {
        let id = system.enqueue(&tasks::shell("talking", "echo now; sleep 60")).await;
        let mut log = system.client().follow_logs(id, &LogQuery::default()).await.unwrap();
        let first =
            tokio::time::timeout(Duration::from_secs(20), log.next()).await.unwrap().unwrap().unwrap();
        assert!(matches!(first, LogItem::Line(line) if line.text == "now"));
        assert_eq!(system.task(id).await.summary.state, State::Running);
        system.client().cancel(id, &orca_proto::task::Cancellation::default()).await.unwrap();
        system.ended(id, Duration::from_secs(15)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_tell_a_tasks_states_in_order_and_its_progress() {
    scenario(Shape::default(), async |system| {
        let mut events = system.client().events(&EventQuery::default()).await.unwrap();
        let script = r#""$ORCA_AGENT" progress 40 --message "nearly half"; sleep 1"#;
        let id = system.enqueue(&tasks::shell("telling", script)).await;
        let (mut states, mut progress) = (Vec::new(), None);
        let read = async {
            while states.last() != Some(&State::Succeeded) {
                let event = events.next().await.unwrap().unwrap();
                assert_eq!(event.subject, id);
                match event.kind {
                    EventKind::State => states.extend(event.data.state),
                    EventKind::Progress => progress = event.data.progress,
                    EventKind::AttemptEnded | EventKind::CancelRequested => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), read).await.unwrap();
        assert_eq!(states, [State::Ready, State::Running, State::Succeeded]);
        let progress = progress.unwrap();
        assert_eq!((progress.percent, progress.message.as_deref()), (Some(40.0), Some("nearly half")));
    })
    .await;
}
