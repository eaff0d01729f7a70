//! Everything that reaches standard output: JSON documents for programs, tables and lines for people.
//!
//! Standard output carries what was asked for and nothing else; remarks and progress go to standard error. A reader that
//! has gone ends the command quietly.

pub(crate) mod escape;
pub(crate) mod spec;
pub(crate) mod table;
pub(crate) mod task;
pub(crate) mod time;

use std::io::{self, IsTerminal, Write};

use orca_proto::task::State;
use serde::Serialize;

use crate::error::{Exit, Failure};

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one document, exactly as the API answers; streams as one document per line.
    Json,
}

/// Where results go, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// The form that was asked for.
    format: Format,
    /// Whether standard output is a terminal.
    terminal: bool,
    /// Whether standard output may be coloured.
    colour: bool,
    /// Whether standard error is a terminal that may show progress.
    progress: bool,
}

/// How a piece of text looks on a terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Style {
    /// Went well.
    Good,
    /// Went wrong.
    Bad,
    /// Is under way.
    Busy,
    /// Matters less.
    Faint,
    /// Stands out.
    Strong,
}

impl Output {
    /// Output in `format`, with what the terminals and `NO_COLOR` allow.
    pub(crate) fn new(format: Format) -> Self {
        let terminal = io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let progress = io::stderr().is_terminal() && !plain_terminal();
        Self { format, terminal, colour: terminal && !plain, progress }
    }

    /// Whether a program reads.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether a person at a terminal reads.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether progress may be drawn on standard error.
    pub(crate) fn shows_progress(&self) -> bool {
        self.progress
    }

    /// Writes one line. What came from elsewhere must have been escaped.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        write_out(&[text.as_bytes(), b"\n"])
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        write_out(&[bytes])
    }

    /// Writes one JSON document.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(unwritable)?;
        self.line(&escape::json(text))
    }

    /// Writes one JSON document on one line, as part of a stream.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(unwritable)?;
        self.line(&escape::json(text))
    }

    /// A remark on standard error for people. Where nobody can read it, it is lost.
    pub(crate) fn remark(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// `text` in `style`, where colours are on.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match style {
            Style::Good => "32",
            Style::Bad => "31",
            Style::Busy => "36",
            Style::Faint => "2",
            Style::Strong => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// A state in its colour.
    pub(crate) fn state(&self, state: State) -> String {
        match style_of(state) {
            Some(style) => self.paint(style, state.as_str()),
            None => state.as_str().to_owned(),
        }
    }

    /// Whether standard output may be coloured.
    pub(crate) fn is_coloured(&self) -> bool {
        self.colour
    }
}

/// How a state looks.
pub(crate) fn style_of(state: State) -> Option<Style> {
    match state {
        State::Succeeded => Some(Style::Good),
        State::Failed | State::Expired => Some(Style::Bad),
        State::Cancelled | State::Skipped => Some(Style::Faint),
        State::Running | State::Waiting => Some(Style::Busy),
        State::Blocked | State::Scheduled | State::Ready => None,
    }
}

/// A number with its thousands apart, such as `1,203`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut apart = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart
}

fn plain_terminal() -> bool {
    std::env::var_os("TERM").is_some_and(|value| value == "dumb")
}

fn unwritable(error: serde_json::Error) -> Failure {
    Failure::new(Exit::Other, "cannot write the answer as JSON").because(error.to_string())
}

fn write_out(parts: &[&[u8]]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = parts.iter().try_for_each(|part| out.write_all(part)).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::file("cannot write to standard output", &error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1_203, 1_000_000].map(count), ["0", "999", "1,203", "1,000,000"]);
    }
}
