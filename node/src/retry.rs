//! Calls the coordinator again while it is away. Only for calls that may be repeated.

use std::future::Future;
use std::time::Duration;

use orca_proto::client::ClientError;

/// The first wait between two tries; each is twice as long as the one before.
const FIRST: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST: Duration = Duration::from_secs(2);
/// Tries of a call that is worth some patience, but not all of it.
const FEW: u32 = 5;

/// Calls until there is an answer that is final. The caller puts a limit on it.
pub(crate) async fn until_answered<T, F>(call: impl FnMut() -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    at_most(u32::MAX, call).await
}

/// Calls a few times.
pub(crate) async fn a_few_times<T, F>(call: impl FnMut() -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    at_most(FEW, call).await
}

async fn at_most<T, F>(tries: u32, mut call: impl FnMut() -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let mut wait = FIRST;
    let mut left = tries;
    loop {
        left -= 1;
        match call().await {
            Err(error) if error.is_transient() && left > 0 => {
                tracing::debug!(%error, "the coordinator is away; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST);
            }
            answer => return answer,
        }
    }
}
