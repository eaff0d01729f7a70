//! What goes from an attempt up to the coordinator while it runs. Nothing here outlives the lease.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use orca_proto::attempt::AttemptStart;
use orca_proto::client::ClientError;
use orca_proto::problem::{Kind, Problem};

use tokio_util::sync::CancellationToken;

use super::session::Session;
use crate::retry::until_answered;

/// Progress goes up at most this often.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long a relayed request may wait for a coordinator that is away, before the agent is told to try again.
const PATIENCE: Duration = Duration::from_secs(15);

/// Tells the coordinator of the start. Returns when it is told, `ended` is cancelled without one, or the lease is over.
pub(super) async fn relay_start(session: Arc<Session>, ended: CancellationToken) {
    let mut started = session.started.subscribe();
    let told = async {
        let has_started = async { started.wait_for(|started| *started).await.is_ok() };
        tokio::select! {
            biased;
            has_started = has_started => if !has_started { return },
            () = ended.cancelled() => return,
        }
        let start = AttemptStart { image: session.image.clone() };
        let call = || session.node.client().report_start(session.lease.lease, start.clone());
        if let Err(error) = until_answered(call).await {
            tracing::debug!(%error, "the start was not taken");
        }
    };
    tokio::select! { () = told => {} () = session.lease.over() => {} }
}

/// Tells the coordinator of the latest progress, again and again, until `ended` is cancelled or the lease is over. What
/// came last before the end is told too.
pub(super) async fn relay_progress(session: Arc<Session>, ended: CancellationToken) {
    let mut progress = session.progress.subscribe();
    progress.mark_changed();
    let told = async {
        loop {
            tokio::select! {
                biased;
                changed = progress.changed() => if changed.is_err() { return },
                () = ended.cancelled() => return,
            }
            let latest = progress.borrow_and_update().clone();
            let Some(latest) = latest else { continue };
            if let Err(error) = session.node.client().report_progress(session.lease.lease, &latest).await {
                tracing::debug!(%error, "progress was not taken");
            }
            tokio::select! { () = tokio::time::sleep(PROGRESS) => {} () = ended.cancelled() => {} }
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
