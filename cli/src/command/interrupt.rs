//! What Ctrl-C leaves behind, in words.

use std::time::Duration;

use tokio::signal::ctrl_c;

use crate::error::{Exit, Failure};
use crate::output::Output;

/// How long finding out may take.
const LOOK: Duration = Duration::from_secs(10);
const UNKNOWN: &str = "interrupted: how far it went cannot be told now; the same command goes on";

/// Does `work`; when it is interrupted, says what `told` finds out about what was done. A second Ctrl-C ends that too.
///
/// # Errors
/// Those of `work`.
pub(crate) async fn or_told(
    work: impl Future<Output = Result<Exit, Failure>>,
    told: impl AsyncFnOnce() -> Option<String>,
    output: Output,
) -> Result<Exit, Failure> {
    tokio::select! {
        ended = work => ended,
        _ = ctrl_c() => {
            let text = tokio::select! {
                text = told() => text,
                _ = ctrl_c() => None,
                () = tokio::time::sleep(LOOK) => Some(UNKNOWN.to_owned()),
            };
            if let Some(text) = text {
                output.remark(&text);
            }
            Ok(Exit::Interrupted)
        }
    }
}
