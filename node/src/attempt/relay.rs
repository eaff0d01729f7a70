//! What goes from an attempt up to the coordinator while it runs. Nothing here outlives the lease.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use orca_proto::client::ClientError;
use orca_proto::problem::{Kind, Problem};

use super::session::Session;
use crate::retry::until_answered;

/// Progress goes up at most this often.
const PROGRESS: Duration = Duration::from_millis(500);
/// How long a relayed request may wait for a coordinator that is away, before the agent is told to try again.
const PATIENCE: Duration = Duration::from_secs(15);

/// Tells the coordinator of the start, once there is one. Returns when it is told or the lease is over.
pub(super) async fn relay_start(session: Arc<Session>) {
    let mut started = session.started.subscribe();
    let told = async {
        if started.wait_for(|started| *started).await.is_err() {
            return;
        }
        let call = || session.node.client.report_start(session.lease.lease);
        if let Err(error) = until_answered(call).await {
            tracing::debug!(%error, "the start was not taken");
        }
    };
    tokio::select! { () = told => {} () = session.lease.over() => {} }
}

/// Tells the coordinator of the latest progress, again and again, until dropped or the lease is over.
pub(super) async fn relay_progress(session: Arc<Session>) {
    let mut progress = session.progress.subscribe();
    let told = async {
        while progress.changed().await.is_ok() {
            let latest = progress.borrow_and_update().clone();
            let Some(latest) = latest else { continue };
            if let Err(error) = session.node.client.report_progress(session.lease.lease, &latest).await {
                tracing::debug!(%error, "progress was not taken");
            }
            tokio::time::sleep(PROGRESS).await;
        }
    };
    tokio::select! { () = told => {} () = session.lease.over() => {} }
}

/// Relays one request of the attempt: tries again while the coordinator is away, up to a limit and the end of the lease.
pub(super) async fn relay<T, F>(session: &Session, call: impl FnMut() -> F) -> Result<T, Problem>
where
    F: Future<Output = Result<T, ClientError>>,
{
    tokio::select! {
        answer = tokio::time::timeout(PATIENCE, until_answered(call)) => match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(problem(error)),
            Err(_) => Err(away()),
        },
        () = session.lease.over() => Err(Problem::new(Kind::LeaseLost, "the node lost the lease of this attempt")),
    }
}

/// A failed call as the attempt sees it.
pub(super) fn problem(error: ClientError) -> Problem {
    match error {
        ClientError::Problem(problem) => match problem.kind {
            // What the node itself did wrong is nothing that the attempt could mend.
            Kind::Unauthenticated | Kind::Forbidden | Kind::Unknown | Kind::Internal => away(),
            _ => *problem,
        },
        _ => away(),
    }
}

fn away() -> Problem {
    Problem::new(Kind::Unavailable, "the coordinator cannot be reached now; try again")
}
