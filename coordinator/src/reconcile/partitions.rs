//! Partitions: one is ready before its time comes, and one goes when all in it is old enough.
//!
//! Tasks are kept for at least as long as the setting says, and for an eighth of that longer at most: until the last of
//! their partition is old enough. What an open task keeps longer is removed row by row by `retention`.

use std::time::Duration;

use crate::app::transaction::{sample, transaction};
use crate::app::{App, Error};
use crate::db::{leftover, partition};

/// The least and the greatest time that one partition is for.
const WIDTHS: (Duration, Duration) = (Duration::from_secs(3_600), Duration::from_secs(7 * 86_400));
/// Partitions in the time that tasks are kept.
const SHARE: u32 = 8;
/// Partitions made in one turn.
const MADE: usize = 4;
/// Partitions looked at in one turn.
const LOOKS: usize = 64;
/// How often a turn tries again to have the tasks for a moment, and the pause before it.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(200);
/// How soon one that an open task keeps is looked at again.
const AGAIN: Duration = Duration::from_secs(60);
/// Rows in one transaction.
const BATCH: i64 = 5_000;

/// The time that one partition is for, in whole hours.
fn width(retention: Duration) -> Duration {
    let share = (retention / SHARE).as_secs() / 3_600 * 3_600;
    Duration::from_secs(share).clamp(WIDTHS.0, WIDTHS.1)
}

/// Makes what will be needed, and drops what is old.
pub(crate) async fn run(app: &App) -> Result<(), Error> {
    ahead(app).await?;
    let mut tries = 0;
    for _ in 0..LOOKS {
        if app.0.shutdown.is_cancelled() {
            break;
        }
        match look(app).await {
            // Who writes to it and waits is in its way when it waits for longer than it may: so not at the next such moment.
            Err(error) if is_busy(&error) && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE.mul_f64(0.5 + sample())).await;
            }
            looked => {
                if !patient(looked)? {
                    break;
                }
            }
        }
    }
    while !app.0.shutdown.is_cancelled() && leftovers(app).await? {}
    Ok(())
}

/// Makes the partitions for now and for what comes after it, where they are missing.
pub(crate) async fn ahead(app: &App) -> Result<(), Error> {
    let app = app.clone();
    let made = app
        .clone()
        .spawned(async move {
            transaction!(app, |tx, _effects| {
                let width = width(app.0.retention);
                if partition::missing(tx, width).await?.is_none() || !partition::lock(tx).await? {
                    return Ok(false);
                }
                let mut next = partition::missing(tx, width).await?;
                for _ in 0..MADE {
                    let Some((starts, ends)) = next else { break };
                    next = match partition::make(tx, starts, ends).await? {
                        true => partition::missing(tx, width).await?,
                        // What is there of this time stays where it is.
                        false => following(ends, width),
                    };
                }
                Ok(true)
            })
        })
        .await;
    patient(made).map(drop)
}

fn following(ends: crate::db::Time, width: Duration) -> Option<(crate::db::Time, crate::db::Time)> {
    let then = ends.0.checked_add(width).ok()?;
    Some((ends, crate::db::Time(then)))
}

/// Looks at one partition that may be old enough; answers whether there was one.
async fn look(app: &App) -> Result<bool, Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, _effects| {
                let keep = app.0.retention;
                partition::take_time(tx).await?;
                if partition::due(tx, keep).await?.is_none() || !partition::lock(tx).await? {
                    return Ok(false);
                }
                let Some(old) = partition::due(tx, keep).await? else { return Ok(false) };
                if partition::is_used(tx, &old).await? {
                    partition::keep(tx, &old, AGAIN).await?;
                } else if partition::is_old(tx, &old, keep).await? {
                    partition::close(tx, &old).await?;
                    // Again, now that nobody can add to it: something may have, in the meantime.
                    if partition::is_used(tx, &old).await? {
                        partition::keep(tx, &old, AGAIN).await?;
                    } else {
                        partition::drop_tables(tx, &old).await?;
                        tracing::info!(starts = %old.starts.0, "dropped a partition of tasks that ended long ago");
                    }
                }
                Ok(true)
            })
        })
        .await
}

/// Removes some of what other tables say of a dropped partition's tasks; answers whether there may be more.
async fn leftovers(app: &App) -> Result<bool, Error> {
    let app = app.clone();
    app.clone()
        .spawned(async move {
            transaction!(app, |tx, _effects| {
                let Some(old) = partition::dropped(tx).await? else { return Ok(false) };
                if leftover::forget(tx, &old, BATCH).await? == 0 {
                    partition::forget(tx, &old).await?;
                }
                Ok(true)
            })
        })
        .await
}

/// A lock that was not to be had in the short time allowed is no fault: there is another turn.
fn patient(result: Result<bool, Error>) -> Result<bool, Error> {
    match result {
        Err(error) if is_busy(&error) => {
            tracing::debug!("the tasks are busy; their partitions wait for the next turn");
            Ok(false)
        }
        result => result,
    }
}

fn is_busy(error: &Error) -> bool {
    matches!(error, Error::Database(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_an_eighth_of_the_time_kept_in_whole_hours_between_an_hour_and_a_week() {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        assert_eq!(width(Duration::from_secs(1)), Duration::from_secs(3_600));
        assert_eq!(width(days(1)), Duration::from_secs(3 * 3_600));
        assert_eq!(width(days(7)), Duration::from_secs(21 * 3_600));
        assert_eq!(width(days(365)), days(7));
    }
}
