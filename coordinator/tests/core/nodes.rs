//! Nodes: registration, replacement, and coordinators that come and go.

use std::time::Duration;

use orca_proto::ids::{InstanceId, TaskId};
use orca_proto::node::{ClaimRequest, LeaseRef, NodeState, Registration, RenewRequest};
use orca_proto::problem::Kind;
use orca_proto::queue::Pause;
use orca_proto::spec::NewTask;
use orca_proto::task::{Outcome, State};
use orca_proto::token::Access;
use orca_proto::why::ConditionKind;
use serde_json::json;
use uuid::Uuid;

use super::support::{LEASE, SOON, TestApp, TestNode, kind, lease, principal, registration, task};

#[tokio::test]
async fn a_new_instance_ends_the_old_ones_leases_at_once_and_the_old_one_must_stop() {
    let test = TestApp::start().await;
    let mut spec = task("a");
    spec.retry.max_attempts = 2;
    spec.retry.backoff.initial = orca_proto::duration::Span::millis(0);
    let id = test.enqueue(spec).await;
    let old = test.worker("w").await;
    let grant = old.claim_one().await;
    old.start(&grant).await;
    let new = test.worker("w").await;
    assert_eq!(new.id, old.id);
    assert_eq!(test.task(id).await.attempts[0].outcome, Some(Outcome::Lost));
    let again = new.claim_one().await;
    assert_eq!((again.task, again.attempt), (id, 2));
    let claim = ClaimRequest {
        instance: old.instance,
        slots: 1,
        wait: Default::default(),
        queues: vec![],
        free: None,
    };
    assert_eq!(kind(test.app.node_claim(&old.who, old.id, claim).await), Kind::Conflict);
    let renew = RenewRequest {
        instance: old.instance,
        leases: vec![lease(&grant)],
        cancelling: vec![],
        wait: Default::default(),
        draining: false,
        unwell: None,
    };
    assert_eq!(kind(test.app.node_renew(&old.who, old.id, renew).await), Kind::Conflict);
    test.stop().await;
}

#[tokio::test]
async fn a_new_instance_keeps_the_leases_that_it_resumes_and_only_those() {
    let test = TestApp::start().await;
    let mut spec = task("a");
    spec.retry.max_attempts = 2;
    spec.retry.backoff.initial = orca_proto::duration::Span::millis(0);
    for _ in 0..3 {
        test.enqueue(NewTask { key: None, ..spec.clone() }).await;
    }
    let old = test.worker("w").await;
    // All three by one grant, which is split.
    let grants = old.claim(3).await;
    let [kept, dropped, ended] = grants.as_slice() else { panic!("{grants:?}") };
    old.start(dropped).await;
    old.succeed(ended, json!(1)).await;
    test.clock.advance(LEASE / 2);

    let other = test.worker("other").await;
    let unknown = LeaseRef { task: TaskId::new(), token: kept.token };
    let who = old.who.clone();
    let register = |resumes: Vec<LeaseRef>, instance| {
        let registration = Registration { resumes, ..registration("w", Access::Worker, instance) };
        test.app.node_register(&who, registration)
    };
    let instance = InstanceId::new();
    let asked = vec![lease(kept), lease(ended), unknown];
    let registered = register(asked.clone(), instance).await.unwrap();
    assert_eq!((registered.id, registered.resumed), (old.id, vec![lease(kept)]));
    // Sent again, as the answer may have been lost: the same answer, and nothing taken away.
    assert_eq!(register(asked, instance).await.unwrap().resumed, [lease(kept)]);
    assert_eq!(test.task(dropped.task).await.attempts[0].outcome, Some(Outcome::Lost));
    let again = other.claim_one().await;
    assert_eq!((again.task, again.attempt), (dropped.task, 2));

    // The lease was renewed, and its owner may report.
    test.clock.advance(LEASE * 3 / 4);
    test.reconcile().await;
    let new = TestNode { app: test.app.clone(), who: who.clone(), id: old.id, instance };
    assert_eq!(new.succeed(kept, json!(2)).await, State::Succeeded);
    assert_eq!(test.task(kept.task).await.attempts.len(), 1);
    // Nobody resumes what is another's.
    assert_eq!(register(vec![lease(&again)], InstanceId::new()).await.unwrap().resumed, []);
    assert_eq!(other.succeed(&again, json!(3)).await, State::Succeeded);
    test.stop().await;
}

#[tokio::test]
async fn a_daemon_of_another_place_is_refused_while_the_one_of_that_name_is_alive() {
    let test = TestApp::start().await;
    let who = principal("default", "node-w", Access::Worker);
    let (here, there) = (Uuid::now_v7(), Uuid::now_v7());
    let register = |home: Uuid| {
        let registration =
            Registration { home: Some(home), ..registration("w", Access::Worker, InstanceId::new()) };
        test.app.node_register(&who, registration)
    };
    let id = register(here).await.unwrap().id;
    assert_eq!(kind(register(there).await), Kind::Conflict);
    // The same place again is the same daemon, started anew.
    assert_eq!(register(here).await.unwrap().id, id);
    test.clock.advance(LEASE + Duration::from_secs(1));
    assert_eq!(register(there).await.unwrap().id, id);
    assert_eq!(kind(register(here).await), Kind::Conflict);
    test.stop().await;
}

#[tokio::test]
async fn a_cordoned_node_gets_nothing_until_it_is_uncordoned_and_why_says_who_did_it() {
    let test = TestApp::start().await;
    let who = test.operator();
    let node = test.worker("w").await;
    let held = async {
        while test.app.waiting_claims() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let pause = Pause { reason: Some("new disk".into()) };
        test.app.node_cordon(&who, node.id, pause).await.unwrap()
    };
    // A claim that is held ends with it, and no task slips through.
    let (grants, cordoned) = tokio::join!(node.claim_for(1, SOON * 3), held);
    assert!(grants.is_empty());
    assert_eq!(cordoned.state, NodeState::Cordoned);
    let id = test.enqueue(task("a")).await;
    assert!(node.claim(1).await.is_empty());
    let why = test.app.task_why(&who, id).await.unwrap();
    let told = why.conditions.iter().find(|condition| condition.kind == ConditionKind::NodesOutOfService);
    assert_eq!(told.unwrap().message, "some nodes take no work: w is cordoned by ann (“new disk”)");
    assert!(why.conditions.iter().any(|condition| condition.kind == ConditionKind::NoNode));

    // It stays so when the daemon is started again, and when somebody else cordons it.
    let node = test.worker("w").await;
    let again = test.app.node_cordon(&who, node.id, Pause::default()).await.unwrap();
    assert_eq!(again.cordon, cordoned.cordon);
    assert!(node.claim(1).await.is_empty());
    let freed = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        test.app.node_uncordon(&who, node.id).await.unwrap()
    };
    let (grants, ready) = tokio::join!(node.claim_for(1, SOON), freed);
    assert_eq!(ready.state, NodeState::Ready);
    let grants = if grants.is_empty() { node.claim_for(1, SOON).await } else { grants };
    assert_eq!(grants[0].task, id);
    let stranger = principal("other", "ann", Access::Operator);
    assert_eq!(kind(test.app.node_cordon(&stranger, node.id, Pause::default()).await), Kind::NotFound);
    assert_eq!(kind(test.app.node_uncordon(&stranger, node.id).await), Kind::NotFound);
    test.stop().await;
}

#[tokio::test]
async fn a_node_that_says_it_is_unwell_is_shown_so_and_gets_nothing_until_it_is_well() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let say = async |unwell: Option<&str>| {
        let renew = RenewRequest {
            instance: node.instance,
            leases: vec![],
            cancelling: vec![],
            wait: Default::default(),
            draining: false,
            unwell: unwell.map(str::to_owned),
        };
        test.app.node_renew(&node.who, node.id, renew).await
    };
    say(Some("the disk is full")).await.unwrap();
    let id = test.enqueue(task("a")).await;
    assert!(node.claim(1).await.is_empty());
    let seen = test.app.node_get(&test.operator(), node.id).await.unwrap();
    assert_eq!((seen.state, seen.unwell.as_deref()), (NodeState::Unwell, Some("the disk is full")));
    say(None).await.unwrap();
    assert_eq!(node.claim_one().await.task, id);
    assert_eq!(kind(say(Some("a\0")).await), Kind::Validation);
    test.stop().await;
}

#[tokio::test]
async fn a_name_belongs_to_the_credential_that_registered_it_and_the_role_to_the_token() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let thief = principal("default", "somebody-else", Access::Worker);
    let theft = registration("w", Access::Worker, InstanceId::new());
    assert_eq!(kind(test.app.node_register(&thief, theft).await), Kind::Forbidden);
    let claim = ClaimRequest {
        instance: node.instance,
        slots: 1,
        wait: Default::default(),
        queues: vec![],
        free: None,
    };
    assert_eq!(kind(test.app.node_claim(&thief, node.id, claim).await), Kind::Forbidden);
    let wrong_role = registration("x", Access::Planner, InstanceId::new());
    assert_eq!(kind(test.app.node_register(&thief, wrong_role).await), Kind::Forbidden);
    for bad in [
        Registration { name: "a b".into(), ..registration("x", Access::Worker, InstanceId::new()) },
        Registration { slots: 0, ..registration("x", Access::Worker, InstanceId::new()) },
        Registration { runtime: "a\0".into(), ..registration("x", Access::Worker, InstanceId::new()) },
    ] {
        assert_eq!(kind(test.app.node_register(&thief, bad).await), Kind::Validation);
    }
    test.stop().await;
}

#[tokio::test]
async fn operators_see_nodes_ready_draining_and_gone() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let state = async || test.app.node_get(&test.operator(), node.id).await.unwrap().state;
    assert_eq!(state().await, NodeState::Ready);
    let renew = RenewRequest {
        instance: node.instance,
        leases: vec![],
        cancelling: vec![],
        wait: Default::default(),
        draining: true,
        unwell: None,
    };
    test.app.node_renew(&node.who, node.id, renew).await.unwrap();
    assert_eq!(state().await, NodeState::Draining);
    test.clock.advance(LEASE + Duration::from_secs(1));
    assert_eq!(state().await, NodeState::Gone);
    let stranger = principal("other", "ann", Access::Operator);
    assert_eq!(kind(test.app.node_get(&stranger, node.id).await), Kind::NotFound);
    let stats = test.app.queue_stats().await.unwrap();
    assert_eq!(stats.nodes, vec![(orca_proto::spec::Role::Work, NodeState::Gone, 1)]);
    test.stop().await;
}

#[tokio::test]
async fn a_restarted_coordinator_knows_everything_and_running_attempts_go_on() {
    let mut test = TestApp::start().await;
    let (running, waiting) = (test.enqueue(task("a")).await, test.enqueue(task("b")).await);
    let mut node = test.worker("w").await;
    let grant = node.claim_one().await;
    test.restart().await;
    node.app = test.app.clone();
    assert!(node.renew(&[lease(&grant)], Duration::ZERO).await.lost.is_empty());
    assert_eq!(node.succeed(&grant, json!(1)).await, State::Succeeded);
    let grant = node.claim_one().await;
    assert_eq!(grant.task, waiting);
    node.succeed(&grant, json!(2)).await;
    assert_eq!(test.task(running).await.result, Some(json!(1)));
    test.app.database_ready().await.unwrap();
    test.stop().await;
}

#[tokio::test]
async fn coordinators_that_start_together_on_an_empty_database_all_come_up() {
    let (test, clock) = (TestApp::prepare().await, orca_coordinator::Clock::test());
    let start = || test.start_app(&clock);
    let (a, b, c) = tokio::join!(start(), start(), start());
    for app in [&a, &b, &c] {
        app.0.database_ready().await.unwrap();
    }
    for (_, shutdown, tracker) in [a, b, c] {
        shutdown.cancel();
        tracker.close();
        tracker.wait().await;
    }
}

#[tokio::test]
async fn a_notice_that_a_node_drains_ends_its_held_claims_only_if_it_does() {
    let test = TestApp::start().await;
    let node = test.worker("w").await;
    let mut connection = test.connection().await;
    let listening = async {
        let listeners = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        while sqlx::query_scalar::<_, i64>(listeners).fetch_one(&mut connection).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, listening).await.unwrap();
    let replica = test.replica().await;
    let held = async {
        while test.app.waiting_claims() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let forged = async {
        held.await;
        let forged = json!({"from": Uuid::nil(), "drains": [node.id]}).to_string();
        for notice in [forged.as_str(), "no notice"] {
            sqlx::query("SELECT pg_notify('orca', $1)").bind(notice).execute(&mut connection).await.unwrap();
        }
        // This one is told after those.
        replica.task_enqueue(&test.operator(), task("a"), None).await.unwrap()
    };
    let (grants, _) = tokio::join!(node.claim_for(1, SOON), forged);
    assert_eq!(grants.len(), 1, "the claim was answered with nothing");
    let drains = async {
        while test.app.waiting_claims() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let renew = RenewRequest {
            instance: node.instance,
            leases: vec![],
            cancelling: vec![],
            wait: Default::default(),
            draining: true,
            unwell: None,
        };
        replica.node_renew(&node.who, node.id, renew).await.unwrap()
    };
    let claimed =
        tokio::time::timeout(SOON, async { tokio::join!(node.claim_for(1, SOON * 3), drains) }).await;
    assert!(claimed.expect("the claim was not answered").0.is_empty());
    test.stop().await;
}
