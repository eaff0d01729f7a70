//! The checker: which of the invariants of ARCHITECTURE.md a history breaks, and the lines that prove it.
//!
//! Pure: it reads nothing but the history. It says "broken" only where no order of events could explain what was seen: a
//! request took effect at some moment between its sending and its answer, and where the database's clock was moved, at
//! whichever moment suits it best. Each invariant is a file, each check counts the facts that it looked at: a check that
//! looked at none has shown nothing, and whoever reads the verdicts must take it as a failure.

mod acknowledged;
mod attempts;
mod cancels;
mod dependencies;
mod fencing;
mod keys;
mod leases;
mod limits;
mod logs;
mod reports;
mod time;
mod view;
mod walls;

#[cfg(test)]
mod tests;

use crate::history::History;
pub(crate) use logs::text as log_text;
use view::View;

/// What became of one invariant.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Its number in the design.
    pub number: u8,
    /// In a few words.
    pub name: &'static str,
    /// Its parts.
    pub checks: Vec<Check>,
}

/// One part of an invariant.
#[derive(Clone, Debug)]
pub struct Check {
    /// What must hold.
    pub name: &'static str,
    /// In how many cases that was looked at.
    pub facts: usize,
    /// Where it does not.
    pub violations: Vec<Violation>,
}

/// Where something does not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What happened.
    pub what: String,
    /// The positions of the lines that prove it.
    pub lines: Vec<usize>,
}

impl Verdict {
    /// Whether something in the history breaks it.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.checks.iter().any(|check| !check.violations.is_empty())
    }
}

impl Check {
    fn of(name: &'static str) -> Self {
        Self { name, facts: 0, violations: Vec::new() }
    }

    /// One more case; `broken` says what is wrong in it.
    fn fact(&mut self, broken: Option<(String, Vec<usize>)>) {
        self.facts += 1;
        if let Some((what, lines)) = broken {
            self.violations.push(Violation { what, lines });
        }
    }
}

/// Checks every invariant.
#[must_use]
pub fn check(history: &History) -> Vec<Verdict> {
    let view = View::of(history);
    let verdict = |number, name, checks| Verdict { number, name, checks };
    vec![
        verdict(1, "an acknowledged task is never lost", acknowledged::check(&view)),
        verdict(2, "leases of a task never overlap", leases::check(&view)),
        verdict(3, "the fencing token rises, a stale one changes nothing", fencing::check(&view)),
        verdict(4, "attempts count up, terminal states stay", attempts::check(&view)),
        verdict(5, "the same report answers the same, another is refused", reports::check(&view)),
        verdict(6, "granted only after the dependencies; whole or not at all", dependencies::check(&view)),
        verdict(7, "one task per idempotency key, one open task per unique key", keys::check(&view)),
        verdict(8, "expired leases are reclaimed, limits are never exceeded", limits::check(&view)),
        verdict(9, "nothing is granted after a cancel", cancels::check(&view)),
        verdict(10, "logs are gapless, in order, and the attempt's own", logs::check(&view)),
        verdict(11, "nobody does what the token does not allow", walls::check(&view)),
    ]
}
