//! What a node has left: slots, and, where it counts them, processors and memory. Whoever claims offers a part of it, and what
//! was offered once is offered to nobody else meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::node::Free;
use crate::quantity::Bytes;
use crate::spec::Resources;

/// How long an offer waits for more than the least there can be, counted from when there is something.
const GATHER: Duration = Duration::from_millis(3);
/// Processors are counted in millionths.
const MICRO: f64 = 1_000_000.0;
/// The least of processors that a task can ask for, in millionths.
const LEAST_CPUS: i64 = 10_000;
/// The least of memory that a task can ask for, in bytes.
const LEAST_MEMORY: i64 = 16 << 20;

/// What one task uses besides its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// In millionths of a core.
    cpus: i64,
    /// In bytes.
    memory: i64,
}

impl Use {
    /// What a task with these resources uses.
    #[must_use]
    pub fn of(resources: &Resources) -> Self {
        Self::new(resources.cpus, resources.memory)
    }

    fn new(cpus: f64, memory: Bytes) -> Self {
        // A float beyond the range becomes its end.
        Self { cpus: (cpus * MICRO).round() as i64, memory: i64::try_from(memory.0).unwrap_or(i64::MAX) }
    }

    const fn plus(self, other: Self) -> Self {
        Self { cpus: self.cpus.saturating_add(other.cpus), memory: self.memory.saturating_add(other.memory) }
    }

    const fn minus(self, other: Self) -> Self {
        Self { cpus: self.cpus.saturating_sub(other.cpus), memory: self.memory.saturating_sub(other.memory) }
    }

    fn free(self) -> Free {
        Free { cpus: self.cpus.max(0) as f64 / MICRO, memory: Bytes(u64::try_from(self.memory).unwrap_or(0)) }
    }
}

#[derive(Debug)]
struct Left {
    /// Below zero where more runs than there are slots.
    slots: i64,
    rest: Use,
    /// Whoever saw that there is something waits for so many slots.
    wanted: u32,
    /// Offers that are out.
    offers: usize,
    /// Whether a task has given room back since the last offer.
    fresh: bool,
}

/// All that a node has for tasks.
#[derive(Debug)]
pub struct Room {
    slots: u32,
    total: Option<Use>,
    left: Mutex<Left>,
    freed: Notify,
}

impl Room {
    /// Room for `slots` tasks at once; where `total` is given, for no more than that together.
    #[must_use]
    pub fn new(slots: u32, total: Option<Free>) -> Arc<Self> {
        let total = total.map(|total| Use::new(total.cpus, total.memory));
        let left = Left {
            slots: i64::from(slots),
            rest: total.unwrap_or_default(),
            wanted: 1,
            offers: 0,
            fresh: false,
        };
        Arc::new(Self { slots, total, left: Mutex::new(left), freed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Slots in use or on offer.
    #[must_use]
    pub fn taken(&self) -> u32 {
        u32::try_from(i64::from(self.slots) - self.lock().slots).unwrap_or(0)
    }

    /// Takes room for a task that runs already, also where none is left: then that much less is offered later.
    #[must_use]
    pub fn take(self: &Arc<Self>, what: Use) -> Taken {
        let what = if self.total.is_some() { what } else { Use::default() };
        let mut left = self.lock();
        left.slots -= 1;
        left.rest = left.rest.minus(what);
        Taken { room: Arc::clone(self), what: Some(what) }
    }

    /// Waits until there is something to offer, and a little longer where that is less than half of `most` slots. Whoever
    /// gets the offer has all that is left, up to `most` slots.
    pub(super) async fn offer(self: &Arc<Self>, most: u32) -> Offer {
        let most = most.min(self.slots).max(1);
        let half = most.div_ceil(2);
        let mut until: Option<Instant> = None;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            {
                let mut left = self.lock();
                let is_ready = self.is_ready(&left);
                let patient = until.is_none_or(|until| Instant::now() < until);
                if is_ready && (left.slots >= i64::from(half) || !patient) {
                    let slots = u32::try_from(left.slots).unwrap_or(most).min(most);
                    let rest = if self.total.is_some() { left.rest } else { Use::default() };
                    left.slots -= i64::from(slots);
                    left.rest = left.rest.minus(rest);
                    left.offers += 1;
                    left.fresh = false;
                    let whole = self.total.is_none_or(|total| rest == total);
                    return Offer { room: Arc::clone(self), slots, rest, whole };
                }
                if is_ready {
                    until = until.or_else(|| Some(Instant::now() + GATHER));
                    left.wanted = half;
                } else {
                    until = None;
                }
            }
            match until {
                Some(until) => tokio::select! {
                    () = freed => {}
                    () = tokio::time::sleep_until(until) => {}
                },
                None => freed.await,
            }
        }
    }

    /// Whether to make an offer: the least of tasks would fit, and, where more than slots is counted, it is not just what came
    /// back from one offer while another is out. Two halves on offer in turns would never become the whole that a task may need.
    fn is_ready(&self, left: &Left) -> bool {
        let fits = || {
            left.rest.cpus >= LEAST_CPUS
                && left.rest.memory >= LEAST_MEMORY
                && (left.fresh || left.offers == 0)
        };
        left.slots > 0 && (self.total.is_none() || fits())
    }

    /// Takes back what an offer had left (`from_offer`), or what tasks used.
    fn give_back(&self, slots: u32, rest: Use, from_offer: bool) {
        let wake = {
            let mut left = self.lock();
            let was_ready = self.is_ready(&left);
            left.slots = (left.slots + i64::from(slots)).min(i64::from(self.slots));
            if self.total.is_some() {
                left.rest = left.rest.plus(rest);
            }
            if from_offer {
                left.offers = left.offers.saturating_sub(1);
            } else {
                left.fresh = true;
            }
            self.is_ready(&left) && (!was_ready || left.slots >= i64::from(left.wanted))
        };
        if wake {
            self.freed.notify_waiters();
        }
    }
}

/// A part of the room that is on offer in one claim. What is not taken goes back when this is dropped.
#[derive(Debug)]
pub(super) struct Offer {
    room: Arc<Room>,
    slots: u32,
    rest: Use,
    whole: bool,
}

impl Offer {
    /// Slots on offer.
    pub(super) const fn slots(&self) -> u32 {
        self.slots
    }

    /// What else is on offer, where it is counted.
    pub(super) fn free(&self) -> Option<Free> {
        self.room.total.map(|_| self.rest.free())
    }

    /// Whether nothing that could be added to the offer will come free meanwhile.
    pub(super) const fn is_whole(&self) -> bool {
        self.whole
    }

    /// Takes a slot and `what` for one task; `None` if no slot is left. More than was on offer of the rest becomes a debt:
    /// the coordinator granted it, so the task runs.
    pub(super) fn take(&mut self, what: Use) -> Option<Taken> {
        self.slots = self.slots.checked_sub(1)?;
        let what = if self.room.total.is_some() { what } else { Use::default() };
        self.rest = self.rest.minus(what);
        Some(Taken { room: Arc::clone(&self.room), what: Some(what) })
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.room.give_back(self.slots, self.rest, true);
    }
}

/// The room of one task. Goes back when this is dropped.
#[derive(Debug)]
pub struct Taken {
    room: Arc<Room>,
    /// `None` once it was given back.
    what: Option<Use>,
}

impl Taken {
    /// Gives back the room of many tasks of one node at once, so that whoever waits sees it as a whole.
    pub(super) fn give_back_all(mut all: Vec<Self>) {
        let Some(room) = all.first().map(|first| Arc::clone(&first.room)) else { return };
        let (mut slots, mut rest) = (0_u32, Use::default());
        for what in all.iter_mut().filter_map(|taken| taken.what.take()) {
            slots += 1;
            rest = rest.plus(what);
        }
        room.give_back(slots, rest, false);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(what) = self.what.take() {
            self.room.give_back(1, what, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(cpus: f64, mib: u64) -> Use {
        Use::new(cpus, Bytes::mib(mib))
    }

    #[tokio::test(start_paused = true)]
    async fn what_runs_beyond_the_slots_must_end_before_there_is_an_offer() {
        let room = Room::new(2, None);
        let mut running: Vec<Taken> = (0..3).map(|_| room.take(Use::default())).collect();
        assert_eq!(room.taken(), 3);
        running.pop();
        tokio::time::timeout(Duration::from_secs(9), room.offer(8)).await.unwrap_err();
        running.pop();
        assert_eq!(room.offer(8).await.slots(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_is_free_is_offered_once() {
        let room = Room::new(4, None);
        let mut offer = room.offer(1_024).await;
        assert_eq!((offer.slots(), offer.free()), (4, None));
        let first = offer.take(Use::default()).unwrap();
        assert_eq!(room.taken(), 4);
        drop(offer);
        assert_eq!(room.taken(), 1);
        let second = room.offer(2).await;
        assert_eq!(second.slots(), 2);
        drop((first, second));
        assert_eq!(room.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_free_slot_is_offered_after_a_moment_although_half_would_be_better() {
        let room = Room::new(8, None);
        let mut offer = room.offer(8).await;
        let mut tasks: Vec<_> = (0..8).map(|_| offer.take(Use::default()).unwrap()).collect();
        assert!(offer.take(Use::default()).is_none());
        drop(offer);
        let waiting = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.offer(8).await }
        });
        tokio::task::yield_now().await;
        tasks.pop();
        assert_eq!(waiting.await.unwrap().slots(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_back_at_once_is_offered_at_once() {
        let room = Room::new(8, None);
        let mut offer = room.offer(8).await;
        let tasks: Vec<_> = (0..8).map(|_| offer.take(Use::default()).unwrap()).collect();
        drop(offer);
        let waiting = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.offer(8).await }
        });
        tokio::task::yield_now().await;
        Taken::give_back_all(tasks);
        assert_eq!(waiting.await.unwrap().slots(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_offered_while_processors_or_memory_are_used_up() {
        let room = Room::new(8, Some(Free { cpus: 2.0, memory: Bytes::mib(1_000) }));
        let mut offer = room.offer(8).await;
        assert!(offer.is_whole());
        let half = offer.take(some(0.5, 100)).unwrap();
        let rest = offer.take(some(1.5, 100)).unwrap();
        drop(offer);
        tokio::time::timeout(Duration::from_secs(9), room.offer(8)).await.unwrap_err();
        drop(half);
        let offer = room.offer(8).await;
        assert_eq!(offer.free(), Some(Free { cpus: 0.5, memory: Bytes::mib(900) }));
        assert!(!offer.is_whole());
        drop((rest, offer));
        assert!(room.offer(8).await.is_whole());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_on_offer_in_two_parts_becomes_one_again() {
        let room = Room::new(8, Some(Free { cpus: 2.0, memory: Bytes::mib(1_000) }));
        let mut offer = room.offer(8).await;
        let task = offer.take(some(1.0, 500)).unwrap();
        drop(offer);
        let one = room.offer(8).await;
        drop(task);
        let other = room.offer(8).await;
        assert_eq!(other.free(), one.free());
        drop(one);
        tokio::time::timeout(Duration::from_secs(9), room.offer(8)).await.unwrap_err();
        drop(other);
        assert!(room.offer(8).await.is_whole());
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_was_offered_is_a_debt_until_it_is_given_back() {
        let room = Room::new(8, Some(Free { cpus: 1.0, memory: Bytes::mib(512) }));
        let mut offer = room.offer(8).await;
        let tasks: Vec<_> = (0..3).map(|_| offer.take(some(1.0, 256)).unwrap()).collect();
        drop(offer);
        drop(tasks);
        assert!(room.offer(8).await.is_whole());
    }
}
