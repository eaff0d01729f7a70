//! Held requests: answered when there is something, and at once when the server goes down.

use std::time::{Duration, Instant};

use orca_proto::duration::Span;
use orca_proto::node::RenewRequest;
use orca_proto::token::Access;
use reqwest::Method;

use crate::harness::{SOON, Server, task};

/// Waits until the figures say that `count` requests of `kind` are held.
async fn until_held(server: &Server, kind: &str, count: u32) {
    let line = format!("orca_http_held_requests{{kind=\"{kind}\"}} {count}");
    let held = async {
        loop {
            let text = server.admin(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
            if text.contains(&line) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, held).await.expect("the request was not held");
}

#[tokio::test]
async fn a_held_claim_is_answered_as_soon_as_a_task_is_enqueued() {
    let server = Server::start().await;
    let worker = server.worker().await;
    let held = tokio::spawn(async move { worker.claim(Span::secs(15)).await });
    until_held(&server, "claims", 1).await;
    let began = Instant::now();
    let id = server.client(Access::Operator).enqueue(&task("t"), None).await.unwrap().summary.id;
    let claimed = held.await.unwrap();
    assert_eq!(claimed.grants.first().map(|grant| grant.task), Some(id));
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    until_held(&server, "claims", 0).await;
    server.stop().await;
}

#[tokio::test]
async fn a_shutdown_answers_held_claims_and_renewals_at_once() {
    let server = Server::start().await;
    let (first, second) = (server.worker().await, server.client(Access::Worker));
    let renewal = RenewRequest {
        instance: first.instance,
        leases: vec![],
        cancelling: vec![],
        wait: Span::secs(10),
        draining: false,
        unwell: None,
    };
    let id = first.id;
    let claim = tokio::spawn(async move { first.claim(Span::secs(30)).await });
    let renew = tokio::spawn(async move { second.renew(id, &renewal).await });
    until_held(&server, "claims", 1).await;
    until_held(&server, "renewals", 1).await;
    let began = Instant::now();
    server.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    assert!(claim.await.unwrap().grants.is_empty());
    renew.await.unwrap().unwrap();
}
