//! Fairness: what each flow has had, against what its weight entitles it to.
//!
//! Weighted fair queueing with the start of service as its order. A flow's *credit* is in tasks: where flows compete for a
//! grant, each gains its weight's share of one task and the one that is served pays one. A flow that does not compete,
//! because it has nothing in line, is paused, or suits another node, neither gains nor pays: absence earns nothing, and work
//! done where nobody else wanted the node is not held against anyone.

use std::collections::HashMap;

use super::lane::Flow;

/// Guards against drift; no fair history comes near.
const MOST_CREDIT: f64 = 65_536.0;

/// Flows without anything in line that are remembered in any case.
const SPARE: usize = 64;

/// The memory of one (namespace, role). Bounded by the flows in line: those that have nothing there are forgotten in time.
#[derive(Debug, Default)]
pub(crate) struct Fairness {
    index: HashMap<Flow, usize>,
    seats: Vec<Seat>,
    claim: u64,
    present: usize,
}

/// One flow's history.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seat {
    /// In tasks.
    credit: f64,
    /// Grants to tasks of the level's own priority since the last to one that time has lifted there, where both waited.
    pub(super) turn: u32,
    /// The last claim that found something in line.
    claim: u64,
    /// The caller's note during a claim.
    note: usize,
}

/// A flow as one claim finds it.
pub(super) enum Found {
    /// For the first time in this claim, at this seat.
    New(usize),
    /// With the note that was left.
    Noted(usize),
}

impl Fairness {
    /// Begins a claim.
    pub(super) fn begin(&mut self) {
        self.claim += 1;
        self.present = 0;
    }

    /// The flow's seat, or what was noted of it during this claim; a new one leaves `note`.
    pub(super) fn find(&mut self, flow: &Flow, note: usize) -> Found {
        let at = match self.index.get(flow) {
            Some(at) => *at,
            None => {
                self.seats.push(Seat::default());
                self.index.insert(flow.clone(), self.seats.len() - 1);
                self.seats.len() - 1
            }
        };
        match self.seats.get_mut(at) {
            Some(seat) if seat.claim == self.claim => Found::Noted(seat.note),
            Some(seat) => {
                (seat.claim, seat.note) = (self.claim, note);
                self.present += 1;
                Found::New(at)
            }
            None => Found::New(at),
        }
    }

    /// What is known of the flow at this seat.
    pub(super) fn seat(&self, at: usize) -> Seat {
        self.seats.get(at).copied().unwrap_or_default()
    }

    /// Remembers.
    pub(super) fn remember(&mut self, at: usize, seat: Seat) {
        if let Some(kept) = self.seats.get_mut(at) {
            (kept.credit, kept.turn) = (seat.credit, seat.turn);
        }
    }

    /// Ends a claim: once those without anything in line are the most, they are forgotten.
    pub(super) fn end(&mut self) {
        if self.seats.len() <= 2 * self.present + SPARE {
            return;
        }
        let (seats, claim) = (std::mem::take(&mut self.seats), self.claim);
        let kept = &mut self.seats;
        self.index.retain(|_, at| match seats.get(*at) {
            Some(seat) if seat.claim == claim => {
                *at = kept.len();
                kept.push(*seat);
                true
            }
            _ => false,
        });
    }

    /// Flows remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.seats.len()
    }
}

impl Seat {
    /// When, on a clock that advances by 1 while the flow's weight in tasks is due to it, it is owed the task after the
    /// `served` that it was given in this claim.
    pub(super) fn starts(self, served: u32, weight: f64) -> f64 {
        (f64::from(served) - self.credit) / weight
    }

    /// After competing until `clock` and being served so often.
    #[must_use]
    pub(super) fn settled(self, clock: f64, weight: f64, served: u32) -> Self {
        let credit = self.credit + clock * weight - f64::from(served);
        Self { credit: credit.clamp(-MOST_CREDIT, MOST_CREDIT), ..self }
    }
}
