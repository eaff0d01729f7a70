//! Runs a test's body on a system of its own, and takes the system down whatever the body did.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures_util::FutureExt;

use crate::system::{Shape, System};

/// The longest that a body may take; each wait inside has a shorter limit of its own.
const BODY: Duration = Duration::from_secs(150);

/// Starts a system of this shape, runs `body` on it, takes it down.
///
/// # Panics
/// If `body` does, or takes too long, or something was not as it should be when the system was taken down.
pub async fn scenario(shape: Shape, body: impl AsyncFnOnce(&mut System)) {
    let mut system = Box::pin(System::start(shape)).await;
    let bounded = tokio::time::timeout(BODY, Box::pin(body(&mut system)));
    let outcome = AssertUnwindSafe(bounded).catch_unwind().await;
    let failed = !matches!(outcome, Ok(Ok(())));
    if failed {
        system.describe().await;
    }
    let wrong = Box::pin(system.take_down()).await;
    match outcome {
        Err(panic) => {
            wrong.iter().for_each(|what| eprintln!("--- and at the end: {what}"));
            resume_unwind(panic)
        }
        Ok(Err(_)) => panic!("the test had not ended after {BODY:?}"),
        Ok(Ok(())) => assert!(wrong.is_empty(), "at the end: {}", wrong.join("; ")),
    }
}
