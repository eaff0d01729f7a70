//! Asks before an order for many is carried out.

use std::io::{IsTerminal, Write};

use crate::error::{Exit, Failure};

/// Goes on if `yes` was given or the person at the terminal agrees to what `question` finds out; `meant` says in words what
/// it is about where nobody can be asked. A question that comes to nothing leaves nothing to do: `false`.
///
/// # Errors
/// A [`Failure`] if they do not agree, or nobody is there to ask.
pub(super) async fn agreed(
    meant: &str,
    question: impl AsyncFnOnce() -> Result<Option<String>, Failure>,
    yes: bool,
) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::invalid("this is about many tasks, and nobody is here to ask")
            .because(meant.to_owned())
            .hint("--yes says that it is meant"));
    }
    let Some(question) = question().await? else { return Ok(false) };
    let _ = write!(std::io::stderr().lock(), "{} [y/N] ", crate::output::escape::line(&question));
    // Not on this thread: Ctrl-C must be heard meanwhile.
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    match answer.await {
        Ok(Ok(answer)) if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") => Ok(true),
        Ok(Ok(_)) => Err(Failure::new(Exit::Other, "nothing was done")),
        Ok(Err(error)) => Err(Failure::file("cannot read the answer", &error)),
        Err(error) => Err(Failure::new(Exit::Other, "cannot read the answer").because(error.to_string())),
    }
}
