//! A secret's value, from a file, from standard input, or typed without being shown. Never from an argument: everybody on the machine
//! can read those, and shells write them down.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use orca_proto::limits;
use orca_proto::secret::SecretValue;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::error::{Exit, Failure};

/// Reads it.
///
/// # Errors
/// A [`Failure`] that does not quote it.
pub(super) async fn read(name: &str, file: Option<&Path>) -> Result<SecretValue, Failure> {
    if let Some(path) = file {
        let bytes = File::open(path).and_then(bounded);
        let bytes =
            bytes.map_err(|error| Failure::file(format!("cannot read {}", path.display()), &error))?;
        return text(bytes);
    }
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let bytes = aside(move || bounded(stdin.lock())).await?;
        return text(without_newline(bytes));
    }
    // Dropped with this future, so also when Ctrl-C ends it while the read goes on.
    let silence = Silence::begin();
    let mut prompt = io::stderr();
    // Who cannot be asked can still type.
    let _ = write!(prompt, "value of {name} (not shown): ").and_then(|()| prompt.flush());
    let line = aside(move || {
        let mut line = String::new();
        stdin.read_line(&mut line).map(|_| line.into_bytes())
    })
    .await;
    drop(silence);
    text(without_newline(line?))
}

/// A read that cannot be cancelled must not hold up what can.
async fn aside(read: impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static) -> Result<Vec<u8>, Failure> {
    let read = tokio::task::spawn_blocking(read).await;
    let read =
        read.map_err(|error| Failure::new(Exit::Other, "cannot read the value").because(error.to_string()))?;
    read.map_err(|error| Failure::file("cannot read standard input", &error))
}

/// A little more than may be sent, so that what is too long is noticed.
fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limits::SECRET as u64 + 3).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Without the newline that `echo` and most programs end with.
fn without_newline(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    bytes
}

fn text(bytes: Vec<u8>) -> Result<SecretValue, Failure> {
    String::from_utf8(bytes).map(SecretValue::new).map_err(|_| {
        Failure::invalid("the value is not text (UTF-8)")
            .hint("set it as base64, and let the program decode it")
    })
}

/// A terminal that does not show what is typed.
struct Silence(Option<Termios>);

impl Silence {
    fn begin() -> Self {
        let Ok(before) = tcgetattr(io::stdin()) else { return Self(None) };
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        let set = tcsetattr(io::stdin(), OptionalActions::Flush, &silent);
        Self(set.is_ok().then_some(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Nobody is left to tell.
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_is_no_part_of_what_is_piped() {
        for (given, value) in
            [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("\n", ""), (" a ", " a ")]
        {
            assert_eq!(without_newline(given.into()), value.as_bytes(), "{given:?}");
        }
    }

    #[test]
    fn what_is_no_text_is_refused_without_being_shown() {
        let told = text(b"swordfish\xff".to_vec()).unwrap_err().render();
        assert!(told.contains("base64") && !told.contains("sword"), "{told}");
    }
}
