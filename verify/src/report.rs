//! What is told of a run: the load, the faults, how tasks ended, and each invariant with its facts.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::checker::Verdict;
use crate::history::{Answer, Call, History, Line, Phase, What};
use crate::load::HUNG_UP;

/// Violations of one check that are shown.
const SHOWN: usize = 3;
/// Lines of a violation that are shown, and characters of each.
const LINES: usize = 6;
const WIDTH: usize = 500;

/// The load, the faults by kind, and tasks by their end.
#[must_use]
pub fn summary(history: &History) -> String {
    let mut calls: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
    for op in &history.ops {
        let (sent, done, unknown) = calls.entry(name(&op.call)).or_default();
        *sent += 1;
        *done += usize::from(op.succeeded());
        *unknown += usize::from(op.answer().is_none());
    }
    let mut faults: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    let mut attempts = 0;
    for line in &history.lines {
        match &line.what {
            What::Answer { answer: Answer::None { why }, .. } if why == HUNG_UP => {
                *faults.entry(HUNG_UP).or_default().entry("client").or_default() += 1;
            }
            What::Fault { fault, target, phase: Phase::Begin | Phase::Once } => {
                let kind = target.split_once('>').map_or(target.as_str(), |_| "links");
                let kind = kind.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
                *faults.entry(fault).or_default().entry(kind).or_default() += 1;
            }
            What::Task { task, .. } => {
                *ends.entry(task.summary.state.as_str()).or_default() += 1;
                attempts += task.attempts.len();
            }
            _ => {}
        }
    }
    let mut text = String::new();
    let list = |map: &BTreeMap<&str, usize>| {
        map.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    let _ = writeln!(text, "requests (sent / done / no answer):");
    for (name, (sent, done, unknown)) in &calls {
        let _ = writeln!(text, "  {name:<10} {sent:>7} {done:>7} {unknown:>7}");
    }
    let _ = writeln!(text, "faults:");
    for (fault, targets) in &faults {
        let _ = writeln!(text, "  {fault:<20} {}", list(targets));
    }
    if faults.is_empty() {
        let _ = writeln!(text, "  none");
    }
    let _ = writeln!(text, "tasks: {}; {attempts} attempts", list(&ends));
    text
}

fn name(call: &Call) -> &'static str {
    match call {
        Call::Enqueue { .. } => "enqueue",
        Call::Retry { .. } => "retry",
        Call::Cancel { .. } => "cancel",
        Call::Signal { .. } => "signal",
        Call::Read { .. } => "read",
        Call::Limit { .. } => "limit",
        Call::Register { .. } => "register",
        Call::Claim { .. } => "claim",
        Call::Renew { .. } => "renew",
        Call::Fenced { .. } => "fenced",
        Call::Log { .. } => "log",
        Call::Spawn { .. } => "spawn",
        Call::Report { .. } => "report",
        Call::Probe { .. } => "probe",
    }
}

/// Each invariant with its facts, and the lines that prove what is broken.
#[must_use]
pub fn verdicts(history: &History, verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for verdict in verdicts {
        let facts: usize = verdict.checks.iter().map(|check| check.facts).sum();
        let word = if verdict.is_broken() { "BROKEN" } else { "holds" };
        let _ = writeln!(text, "{:>2} {:<62} {word:<6} {facts:>8} facts", verdict.number, verdict.name);
        for check in &verdict.checks {
            let count = check.violations.len();
            let mark = if count > 0 {
                format!("BROKEN {count} times")
            } else if check.facts == 0 {
                "LOOKED AT NOTHING".to_owned()
            } else {
                String::new()
            };
            let _ = writeln!(text, "     {:<58} {:>8} {mark}", check.name, check.facts);
            for violation in check.violations.iter().take(SHOWN) {
                let _ = writeln!(text, "       {}", violation.what);
                for position in violation.lines.iter().take(LINES) {
                    let line = history.lines.get(*position).map(short).unwrap_or_default();
                    let _ = writeln!(text, "         line {}: {line}", position + 1);
                }
            }
        }
    }
    text
}

/// A line, in as many characters as are worth reading; of a task its state and its attempts.
fn short(line: &Line) -> String {
    let text = match &line.what {
        What::Task { task, .. } => serde_json::to_string(&serde_json::json!({
            "at": line.at,
            "task": task.summary.id,
            "queue": task.summary.queue,
            "state": task.summary.state,
            "finished_at": task.summary.finished_at,
            "depends_on": task.depends_on,
            "attempts": task.attempts,
        })),
        _ => serde_json::to_string(line),
    };
    text.unwrap_or_default().chars().take(WIDTH).collect()
}
