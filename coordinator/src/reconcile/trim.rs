//! What ended in line goes out of it, also where nobody claims: so that what is counted as waiting waits.

use tokio_util::sync::CancellationToken;

use super::{PAUSE, SAFETY_NET, failed};
use crate::app::transaction::transaction;
use crate::app::{App, Error};
use crate::db::trim::{self, Stale};

/// Lanes that one turn looks at: where there are more, they take turns.
const LANES: i64 = 5_000;
/// Transactions in one turn.
const MOST: usize = 100;

/// Goes over all lanes once.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    let mut after = 0;
    while let Some(last) = turn(app, after).await? {
        after = last;
    }
    Ok(())
}

/// Runs until `shutdown`.
pub(crate) async fn repeat(app: App, shutdown: CancellationToken) {
    let mut after = 0;
    loop {
        let pause = match turn(&app, after).await {
            Ok(last) => {
                after = last.unwrap_or(0);
                SAFETY_NET
            }
            Err(error) => {
                failed("fronts of lines", &error);
                PAUSE
            }
        };
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// Goes over the next lanes; answers the last of them, where there may be more.
async fn turn(app: &App, after: i32) -> Result<Option<i32>, Error> {
    let Stale { lanes, last } = {
        let mut connection = app.0.pool.acquire().await?;
        trim::stale(&mut connection, after, LANES).await?
    };
    let mut left = MOST;
    for lane in lanes {
        let mut more = true;
        while more && left > 0 {
            left -= 1;
            more = front(app, lane).await?;
        }
    }
    Ok(last)
}

async fn front(app: &App, lane: i32) -> Result<bool, Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move { transaction!(app, |tx, _effects| Ok(trim::front(tx, lane).await?)) })
        .await
}
