//! Asks before an order for many is carried out.

use std::io::{IsTerminal, Write};

use crate::error::{Exit, Failure};

/// Goes on if `yes` was given or the person at the terminal agrees to `question`.
///
/// # Errors
/// A [`Failure`] if they do not, or nobody is there to ask.
pub(super) async fn agreed(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::invalid("this is about many tasks, and nobody is here to ask")
            .because(question.to_owned())
            .hint("--yes says that it is meant"));
    }
    let _ = write!(std::io::stderr().lock(), "{} [y/N] ", crate::output::escape::line(question));
    // Not on this thread: Ctrl-C must be heard meanwhile.
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    match answer.await {
        Ok(Ok(answer)) if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") => Ok(()),
        Ok(Ok(_)) => Err(Failure::new(Exit::Other, "nothing was done")),
        Ok(Err(error)) => Err(Failure::file("cannot read the answer", &error)),
        Err(error) => Err(Failure::new(Exit::Other, "cannot read the answer").because(error.to_string())),
    }
}
