//! A whole worker against a fake coordinator.

mod fake;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{Barrier, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::fake::{Fake, LIMIT};
use super::membership::Membership;
use super::reporter::Reporter;
use super::{Counts, Ending, Worker, WorkerError, WorkerSettings};
use crate::attempt::RefusedKind;
use crate::client::Client;
use crate::duration::Span;
use crate::ids::{FencingToken, TaskId};
use crate::node::{Grant, LeaseRef};
use crate::problem::Kind;
use crate::task::{Outcome, State, Timeout};

const LEASE: Duration = Duration::from_secs(30);

struct Rig {
    fake: Fake,
    worker: Worker,
    shutdown: CancellationToken,
}

impl Rig {
    async fn start<H, F>(lease: Duration, settings: WorkerSettings, handler: H) -> Self
    where
        H: Fn(Grant) -> F + Send + Sync + 'static,
        F: Future<Output = Ending> + Send + 'static,
    {
        let fake = Fake::start(lease).await;
        let shutdown = CancellationToken::new();
        let client = Client::new(&fake.url, "token").unwrap();
        let starting = Worker::start(client, fake.registration(), settings, shutdown.clone(), handler);
        let worker = starting.await.unwrap();
        Self { fake, worker, shutdown }
    }

    /// Drains, and tells what was done.
    async fn stop(self) -> Counts {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.worker.ended()).await.unwrap().unwrap()
    }
}

fn failed(outcome: &Outcome, code: i32) -> bool {
    matches!(outcome, Outcome::Failed { exit_code, .. } if *exit_code == code)
}

#[tokio::test]
async fn thousands_of_tasks_are_each_settled_once_in_few_requests_and_never_more_at_a_time_than_slots() {
    const TASKS: usize = 3_000;
    let settings = WorkerSettings { slots: 512, batch: 128, ..WorkerSettings::default() };
    let rig = Rig::start(LEASE, settings, |_| async { Ending::succeeded() }).await;
    for _ in 0..TASKS {
        rig.fake.enqueue(None);
    }
    rig.fake.until("all of them", |book| (book.settled.len() == TASKS).then_some(())).await;
    {
        let book = rig.fake.book();
        assert_eq!(book.unexpected, 0);
        assert!(book.most <= 512, "{}", book.most);
        assert!(book.batches.len() < TASKS / 8, "{} requests with reports", book.batches.len());
        assert!(book.claims.iter().all(|claim| claim.slots <= 128 && claim.free.is_none()));
        assert_eq!(book.registrations[0].slots, 512);
    }
    let counts = rig.stop().await;
    assert_eq!(counts, Counts { granted: TASKS as u64, settled: TASKS as u64, ..Counts::default() });
}

#[tokio::test]
async fn handlers_that_wait_run_side_by_side_and_their_results_arrive() {
    let together = Arc::new(Barrier::new(5));
    let settings = WorkerSettings { slots: 5, ..WorkerSettings::default() };
    let rig = Rig::start(LEASE, settings, move |grant| {
        let together = Arc::clone(&together);
        async move {
            together.wait().await;
            Ending::with(&json!({"task": grant.task})).unwrap()
        }
    })
    .await;
    let leases: Vec<_> = (0..5).map(|_| rig.fake.enqueue(None)).collect();
    for lease in leases {
        assert_eq!(rig.fake.outcome(lease).await, Outcome::Succeeded);
        assert_eq!(rig.fake.book().settled[&lease].1, Some(json!({"task": lease.task})));
    }
    rig.stop().await;
}

#[tokio::test]
async fn one_slot_that_comes_free_is_used_although_the_others_are_not() {
    let hold = Arc::new(Notify::new());
    let holding = Arc::clone(&hold);
    let settings = WorkerSettings { slots: 4, ..WorkerSettings::default() };
    let rig = Rig::start(LEASE, settings, move |grant: Grant| {
        let holding = Arc::clone(&holding);
        async move {
            if grant.deadline_in.is_some() {
                holding.notified().await;
            }
            Ending::succeeded()
        }
    })
    .await;
    let slow: Vec<_> = (0..3).map(|_| rig.fake.enqueue(Some(Span::secs(3_600)))).collect();
    let quick: Vec<_> = (0..20).map(|_| rig.fake.enqueue(None)).collect();
    for lease in quick {
        assert_eq!(rig.fake.outcome(lease).await, Outcome::Succeeded);
    }
    hold.notify_waiters();
    for lease in slow {
        assert_eq!(rig.fake.outcome(lease).await, Outcome::Succeeded);
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_cancelled_task_is_dropped_and_told_and_a_lost_one_is_dropped_and_not_told() {
    let rig = Rig::start(LEASE, WorkerSettings::default(), |_| pending()).await;
    let (cancelled, lost) = (rig.fake.enqueue(None), rig.fake.enqueue(None));
    rig.fake.change(|book| {
        book.cancel.push(cancelled);
        book.lost.push(lost);
    });
    assert_eq!(rig.fake.outcome(cancelled).await, Outcome::Cancelled);
    let gave_up = async {
        while rig.worker.counts().given_up == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, gave_up).await.unwrap();
    let fake = rig.fake.clone();
    rig.stop().await;
    assert_eq!(fake.book().settled.len(), 1);
}

#[tokio::test]
async fn a_task_ends_at_its_deadline_and_a_panic_is_a_failure() {
    let rig = Rig::start(LEASE, WorkerSettings::default(), |grant: Grant| async move {
        match grant.deadline_in {
            Some(_) => pending().await,
            None => panic!("on purpose"),
        }
    })
    .await;
    let (late, broken) = (rig.fake.enqueue(Some(Span::millis(50))), rig.fake.enqueue(None));
    assert_eq!(rig.fake.outcome(late).await, Outcome::TimedOut { which: Timeout::Deadline });
    let outcome = rig.fake.outcome(broken).await;
    assert!(failed(&outcome, 101), "{outcome:?}");
    rig.stop().await;
}

#[tokio::test]
async fn reports_are_sent_again_until_they_are_answered_and_their_leases_go_on_meanwhile() {
    let lease = Duration::from_secs(2);
    let rig = Rig::start(lease, WorkerSettings::default(), |_| async { Ending::succeeded() }).await;
    rig.fake.change(|book| book.refuse_reports = Some(Kind::Unavailable));
    let leases = [rig.fake.enqueue(None), rig.fake.enqueue(None)];
    rig.fake
        .until("a renewal of both", |book| {
            book.renewals
                .iter()
                .any(|renewal| leases.iter().all(|lease| renewal.leases.contains(lease)))
                .then_some(())
        })
        .await;
    rig.fake.change(|book| book.refuse_reports = None);
    for lease in leases {
        assert_eq!(rig.fake.outcome(lease).await, Outcome::Succeeded);
    }
    assert_eq!(rig.fake.book().unexpected, 0);
    assert_eq!(rig.stop().await.settled, 2);
}

#[tokio::test]
async fn a_recorded_report_counts_also_where_a_renewal_says_first_that_its_lease_is_gone() {
    let fake = Fake::start(LEASE).await;
    let client = Client::new(&fake.url, "token").unwrap();
    let (member, _) = Membership::register(client, fake.registration()).await.unwrap();
    let member = Arc::new(member);
    let reporter = Reporter::start(Arc::clone(&member), 1, Duration::ZERO);
    let lease = LeaseRef { task: TaskId::new(), token: FencingToken(1) };
    let held = member.leases().hold(lease, Instant::now() + LEASE, None);
    fake.change(|book| book.hold_reports = true);
    let report = reporter.report(&held, Outcome::Failed { exit_code: 3, reason: None }, None);
    tokio::pin!(report);
    let recorded = async {
        fake.outcome(lease).await;
        member.leases().lose_all();
        // It is polled with the lease over, and not answered yet.
        tokio::time::sleep(Duration::from_millis(50)).await;
        fake.change(|book| book.hold_reports = false);
        pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = &mut report => answer,
        () = recorded => unreachable!(),
    };
    assert_eq!(answer, Ok(State::Succeeded), "what the fake says of all");
}

#[tokio::test]
async fn reports_that_are_refused_together_are_sent_one_by_one() {
    let rig =
        Rig::start(LEASE, WorkerSettings::default(), |_| async { Ending::with(&[1, 2]).unwrap() }).await;
    rig.fake.change(|book| book.refuse_reports = Some(Kind::Validation));
    let leases: Vec<_> = (0..10).map(|_| rig.fake.enqueue(None)).collect();
    for lease in leases {
        assert_eq!(rig.fake.outcome(lease).await, Outcome::Succeeded);
        assert_eq!(rig.fake.book().settled[&lease].1, Some(json!([1, 2])));
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_refused_report_is_counted_and_its_slot_is_free_again() {
    let settings = WorkerSettings { slots: 1, ..WorkerSettings::default() };
    let rig = Rig::start(LEASE, settings, |_| async { Ending::succeeded() }).await;
    rig.fake.change(|book| book.refuse_each = Some(RefusedKind::ResultConflict));
    rig.fake.enqueue(None);
    rig.fake.until("the refused report", |book| (!book.batches.is_empty()).then_some(())).await;
    rig.fake.change(|book| book.refuse_each = None);
    let next = rig.fake.enqueue(None);
    assert_eq!(rig.fake.outcome(next).await, Outcome::Succeeded);
    assert_eq!(rig.stop().await, Counts { granted: 2, settled: 1, refused: 1, given_up: 0 });
}

#[tokio::test]
async fn a_drain_claims_no_more_waits_for_what_runs_and_gives_back_what_takes_too_long() {
    let go = Arc::new(Notify::new());
    let going = Arc::clone(&go);
    let settings =
        WorkerSettings { slots: 2, drain_timeout: Duration::from_millis(500), ..WorkerSettings::default() };
    let rig = Rig::start(LEASE, settings, move |grant: Grant| {
        let going = Arc::clone(&going);
        async move {
            match grant.deadline_in {
                Some(_) => pending().await,
                None => going.notified().await,
            }
            Ending::succeeded()
        }
    })
    .await;
    let (quick, endless) = (rig.fake.enqueue(None), rig.fake.enqueue(Some(Span::secs(3_600))));
    rig.fake.until("both to be granted", |book| (book.granted == 2).then_some(())).await;
    let fake = rig.fake.clone();
    let stopping = tokio::spawn(rig.stop());
    fake.until("the drain to be told", |book| book.renewals.last()?.draining.then_some(())).await;
    let after = fake.enqueue(None);
    go.notify_one();
    assert_eq!(fake.outcome(quick).await, Outcome::Succeeded);
    let given_back = fake.outcome(endless).await;
    assert!(matches!(given_back, Outcome::RuntimeError { .. }), "{given_back:?}");
    assert_eq!(stopping.await.unwrap().settled, 2);
    assert!(!fake.book().settled.contains_key(&after));
}

#[tokio::test]
async fn a_superseded_worker_ends_and_drops_what_it_runs() {
    let dropped = CancellationToken::new();
    let guard = Arc::new(std::sync::Mutex::new(Some(dropped.clone().drop_guard())));
    let rig = Rig::start(LEASE, WorkerSettings::default(), move |_| {
        let guard = guard.lock().unwrap().take();
        async move {
            let _guard = guard;
            pending().await
        }
    })
    .await;
    rig.fake.enqueue(None);
    rig.fake.until("the grant", |book| (book.granted == 1).then_some(())).await;
    rig.fake.change(|book| book.refuse = Some(Kind::Conflict));
    let ended = tokio::time::timeout(LIMIT, rig.worker.ended()).await.unwrap();
    assert!(matches!(&ended, Err(WorkerError::Superseded { name }) if name == "w"), "{ended:?}");
    tokio::time::timeout(LIMIT, dropped.cancelled()).await.unwrap();
    assert!(rig.fake.book().settled.is_empty());
}

#[tokio::test]
async fn a_spec_can_be_left_as_text_or_unread() {
    let fake = Fake::start(LEASE).await;
    let shutdown = CancellationToken::new();
    let client = Client::new(&fake.url, "token").unwrap();
    let start = |name: &str| {
        let mut registration = fake.registration();
        registration.name = name.into();
        registration
    };
    let text = |grant: Grant<Box<RawValue>>| async move {
        if grant.spec.get().contains("noop") {
            Ending::succeeded()
        } else {
            Ending::failed(1, "another spec")
        }
    };
    let one = WorkerSettings { slots: 1, ..WorkerSettings::default() };
    let worker =
        Worker::start(client.clone(), start("a"), one.clone(), shutdown.clone(), text).await.unwrap();
    let lease = fake.enqueue(None);
    assert_eq!(fake.outcome(lease).await, Outcome::Succeeded);
    drop(worker);
    let unread = |_: Grant<IgnoredAny>| async { Ending::succeeded() };
    let _worker = Worker::start(client, start("b"), one, shutdown, unread).await.unwrap();
    let lease = fake.enqueue(None);
    assert_eq!(fake.outcome(lease).await, Outcome::Succeeded);
}

#[tokio::test]
async fn settings_out_of_range_are_refused_before_anything_is_sent() {
    let client = Client::new("http://127.0.0.1:1", "token").unwrap();
    let fake = Fake::start(LEASE).await;
    for settings in [
        WorkerSettings { slots: 0, ..WorkerSettings::default() },
        WorkerSettings { slots: 10_001, ..WorkerSettings::default() },
        WorkerSettings { batch: 1_025, ..WorkerSettings::default() },
        WorkerSettings { claims_in_flight: 0, ..WorkerSettings::default() },
    ] {
        let handler = |_: Grant| async { Ending::succeeded() };
        let shutdown = CancellationToken::new();
        let started = Worker::start(client.clone(), fake.registration(), settings, shutdown, handler).await;
        assert!(matches!(started, Err(WorkerError::Setting(_))));
    }
}
