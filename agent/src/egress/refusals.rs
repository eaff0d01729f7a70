//! Tells the task's log which hosts were refused: each once, and not without end.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use orca_proto::spec::Destination;
use tokio::sync::mpsc;

/// Hosts that are told of.
const TOLD: usize = 64;

/// What was told already, and where the next goes.
pub(super) struct Refusals {
    told: Mutex<HashSet<Destination>>,
    notes: mpsc::Sender<String>,
}

impl Refusals {
    /// Tells by `notes`.
    pub(super) fn to(notes: mpsc::Sender<String>) -> Self {
        Self { told: Mutex::default(), notes }
    }

    /// Notes that `to` was refused because of `why`, unless that was said before or there is no room to say it.
    pub(super) fn note(&self, to: &Destination, why: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD || told.contains(to) {
            return;
        }
        let text = if told.len() + 1 == TOLD {
            "egress: more hosts were refused than are told of here".to_owned()
        } else {
            format!("egress: {why}")
        };
        if self.notes.try_send(text).is_ok() {
            told.insert(to.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_is_told_of_once_and_not_more_than_anybody_reads() {
        let (sender, mut notes) = mpsc::channel(TOLD * 4);
        let refusals = Refusals::to(sender);
        for n in [1, 2, 1, 2] {
            refusals.note(&format!("h{n}.example:443").parse().unwrap(), &format!("no h{n}"));
        }
        assert_eq!(notes.try_recv().unwrap(), "egress: no h1");
        assert_eq!(notes.try_recv().unwrap(), "egress: no h2");
        notes.try_recv().unwrap_err();
        for n in 0..1_000 {
            refusals.note(&format!("h{n}.example:80").parse().unwrap(), "no");
        }
        let rest: Vec<_> = std::iter::from_fn(|| notes.try_recv().ok()).collect();
        assert_eq!(rest.len(), TOLD - 2);
        assert!(rest.last().unwrap().contains("more hosts"));
    }

    #[test]
    fn what_found_no_room_is_told_the_next_time() {
        let (sender, mut notes) = mpsc::channel(1);
        let refusals = Refusals::to(sender);
        let (first, second) = ("a.example:1".parse().unwrap(), "b.example:1".parse().unwrap());
        refusals.note(&first, "a");
        refusals.note(&second, "b");
        assert_eq!(notes.try_recv().unwrap(), "egress: a");
        refusals.note(&second, "b");
        assert_eq!(notes.try_recv().unwrap(), "egress: b");
    }
}
