//! What was enqueued from SQL becomes tasks: soon while there is some, else within a second.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::app::{App, Error, Turns};

/// Between two looks while something came lately.
const BUSY: Duration = Duration::from_millis(100);
/// Between two looks otherwise.
const IDLE: Duration = Duration::from_secs(1);
/// How long something is lately.
const LATELY: Duration = Duration::from_secs(10);

/// Takes all that is there.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    turn(app, &mut Turns::default()).await.map(drop)
}

/// Takes until there is no more, or another coordinator takes; answers whether there was any.
async fn turn(app: &App, turns: &mut Turns) -> Result<bool, Error> {
    let mut any = false;
    while !app.0.shutdown.is_cancelled() {
        turns.forget_full(IDLE);
        if app.take_inbox(turns).await? == 0 {
            break;
        }
        any = true;
    }
    Ok(any)
}

/// Runs until `shutdown`.
pub(crate) async fn repeat(app: App, shutdown: CancellationToken) {
    let mut busy_until = Instant::now();
    let mut turns = Turns::default();
    loop {
        match turn(&app, &mut turns).await {
            Ok(true) => busy_until = Instant::now() + LATELY,
            Ok(false) => {}
            Err(Error::Unavailable(error)) => tracing::debug!(error, "the inbox waits for its next turn"),
            Err(error) => super::failed("inbox", &error),
        }
        let pause = if Instant::now() < busy_until { BUSY } else { IDLE };
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}
