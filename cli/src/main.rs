//! `orca`: the operators' command.
//!
//! # Layout
//! - `command/`: one file per verb; `command::Command` lists them.
//! - `connection`: which coordinator and which token (flags, then environment, then profile); `profile`: the saved ones.
//! - `watch`: waits for tasks to end, with progress; `output/`: tables, JSON, escaping; `error`: failures and exit codes.
//! - `dev/`: `orca dev`, the whole system in one process.

mod command;
mod connection;
mod dev;
mod error;
mod output;
mod profile;
mod secret_file;
mod watch;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::command::{Command, interrupt};
use crate::connection::{ConnectionArgs, Given};
use crate::error::{Exit, Failure};
use crate::output::{Format, Output};

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  the task that was waited for ended otherwise than succeeded
    2  the command line, a file or a field is not valid
    3  not found
    4  not allowed: no valid token, or one without the right role
    5  the coordinator does not answer
    6  conflict: the thing's state does not allow this
    7  anything else
  130  interrupted";

/// Runs containerised work from a durable queue.
///
/// `orca dev` starts the whole system here; every other command talks to a coordinator. Which one, and with which token,
/// is told by flags, else by ORCA_URL, ORCA_TOKEN and ORCA_TOKEN_FILE, else by the profile that `orca dev` or `orca login`
/// saved.
#[derive(Debug, Parser)]
#[command(name = "orca", version, after_help = EXIT_CODES, max_term_width = 110)]
struct Arguments {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// How results are written
    #[arg(long, short, global = true, value_enum, default_value_t, value_name = "FORM")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let exit = match parse() {
        Ok((arguments, given)) => run(arguments, given),
        Err(error) => {
            // Nobody is left to tell if this cannot be printed.
            let _ = error.print();
            if error.use_stderr() { Exit::Invalid } else { Exit::Done }
        }
    };
    ExitCode::from(exit.code())
}

fn parse() -> Result<(Arguments, Given), clap::Error> {
    let matches = Arguments::command().try_get_matches()?;
    let given = Given::from_matches(&matches);
    Ok((Arguments::from_arg_matches(&matches)?, given))
}

fn run(arguments: Arguments, given: Given) -> Exit {
    let output = Output::new(arguments.output);
    let ended = match arguments.command {
        // This one must leave the process without any other thread.
        Command::Postgres(postgres) => Err(postgres.exec()),
        command => in_runtime(command, arguments.connection, given, output),
    };
    ended.unwrap_or_else(|failure| {
        let _ = std::io::stderr().lock().write_all(failure.told(output).as_bytes());
        failure.exit()
    })
}

fn in_runtime(
    command: Command,
    connection: ConnectionArgs,
    given: Given,
    output: Output,
) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::file("cannot start", &error))?;
    let ended = runtime.block_on(async {
        // `dev` drains on Ctrl-C, and what is done in part is told by the verb; everything else just stops.
        if command.handles_interrupts() {
            return command.run(&connection, given, output).await;
        }
        let left_going = command.left_going().map(str::to_owned);
        interrupt::or_told(command.run(&connection, given, output), async || left_going, output).await
    });
    // A read of standard input cannot be cancelled, and must not hold the process.
    runtime.shutdown_background();
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a line as a shell does, up to a comment, a pipe or a redirection.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        for letter in line.chars() {
            match (quote, letter) {
                (Some(open), letter) if letter == open => quote = None,
                (None, '\'' | '"') => {
                    quote = Some(letter);
                    word.get_or_insert_default();
                }
                (None, '#' | '|' | '<') if word.is_none() => break,
                (None, ' ') => words.extend(word.take()),
                (_, letter) => word.get_or_insert_default().push(letter),
            }
        }
        words.extend(word);
        words
    }

    fn is_understood(line: &str) {
        let id = "01a1f85d-22de-71df-8298-9126b42b20b6";
        let words = words(line).into_iter().map(|word| if word == "TASK" { id.to_owned() } else { word });
        let parsed = Arguments::command().try_get_matches_from(words);
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }

    #[test]
    fn every_example_of_the_readme_is_understood() {
        let readme = include_str!("../../README.md");
        let lines = readme.lines().filter_map(|line| {
            line.split_once("| orca ").map(|(_, rest)| rest).or_else(|| line.strip_prefix("orca "))
        });
        let lines: Vec<String> = lines.map(|rest| format!("orca {rest}")).collect();
        assert!(lines.len() > 15, "{lines:?}");
        lines.iter().for_each(|line| is_understood(line));
    }

    #[test]
    fn every_example_of_a_verbs_help_is_understood() {
        let mut commands = vec![Arguments::command()];
        let mut found = 0;
        while let Some(command) = commands.pop() {
            let about = command.get_long_about().map(ToString::to_string).unwrap_or_default();
            for line in about.lines().filter(|line| line.starts_with("  orca ")) {
                is_understood(line.trim_start());
                found += 1;
            }
            commands.extend(command.get_subcommands().cloned());
        }
        assert!(found > 15, "{found}");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
