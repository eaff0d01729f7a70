//! `survey`: counts files, lines, bytes and words of a directory tree and hashes each file, as an Orca goal.
//!
//! This is the example to read first. Nothing here is Orca's own library: a task's program needs only the environment
//! variables that Orca sets and the small command `$ORCA_AGENT` ([`orca`]), so the same can be written in any language.
//!
//! | task | runs | does |
//! |---|---|---|
//! | the goal, step `plan` | `survey goal` | looks at the tree, plans the parts and the total ([`plan`]) |
//! | `part-1`, `part-2`, … | `survey part` | surveys a range of the files ([`part`]) |
//! | `total` | `survey total` | adds the parts up, keeps `report.json` ([`total`]) |
//! | the goal, step `finish` | `survey goal` | returns the total as the goal's result ([`finish`]) |
//!
//! The goal's input is `{"tree": ARTIFACT_ID, "parts": N}`: the id of a tar archive that is also the goal's input artifact
//! `tree`, unpacked; and, optionally, how many parts to make.

mod finish;
mod orca;
mod part;
mod plan;
mod tally;
mod total;
mod tree;
mod words;

use std::process::ExitCode;

const USAGE: &str =
    "usage: survey goal|plan|part|total|finish  (inside an Orca task; `goal` is plan or finish by ORCA_STEP)";

/// What went wrong, for a person: what, and with which file or command.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let mode = std::env::args().nth(1);
    let done = match mode.as_deref() {
        Some("goal") => match std::env::var("ORCA_STEP").as_deref() {
            Ok("finish") => finish::run(),
            _ => plan::run(),
        },
        Some("plan") => plan::run(),
        Some("part") => part::run(),
        Some("total") => total::run(),
        Some("finish") => finish::run(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("survey: {error}");
            ExitCode::FAILURE
        }
    }
}
