//! Which faults, when: three decks (nodes, the core, the network) are shuffled and dealt over the time there is, each kind
//! once before any comes again.

use std::time::Duration;

use super::longer_than;
use crate::system::NODES;

/// Something to break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, and a new process after a while.
    KillNode(usize, Duration),
    /// SIGSTOP for longer than a lease, then SIGCONT.
    StopNode(usize, Duration),
    /// SIGKILL, and a new process after a while.
    KillCoordinator(usize, Duration),
    /// SIGSTOP for longer than a lease, then SIGCONT.
    StopCoordinator(usize, Duration),
    /// What `pg_ctl restart -m immediate` does.
    RestartPostgres,
    /// SIGKILL of its first process, and a start.
    KillPostgres,
    /// SIGSTOP of all its processes for longer than a lease, then SIGCONT.
    StopPostgres(Duration),
    /// All its connections are taken, two of them by transactions that do nothing, for a while.
    ExhaustConnections(Duration),
    /// The database's clock moves by so many milliseconds.
    MoveClock(i64),
    /// A link, by number modulo their count, gives every piece late for a while.
    DelayLink(usize, Duration, Duration),
    /// A link gives nothing for a while.
    StallLink(usize, Duration),
    /// A link's open connections are closed.
    CutLink(usize),
    /// One direction of a link's open connections is closed.
    HalfCloseLink(usize),
    /// A link is cut and refuses new connections for a while.
    RefuseLink(usize, Duration),
}

/// A fault and when it is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// After the begin of the load.
    pub after: Duration,
    /// What.
    pub fault: Fault,
}

/// The faults of a run of that length: for each 20 s about 10 in the core, 6 of nodes, 12 of links.
#[must_use]
pub fn deal(rng: &mut fastrand::Rng, length: Duration, lease: Duration) -> Vec<Planned> {
    let mut planned = Vec::new();
    let part = |per_20s: f64| (length.as_secs_f64() / 20.0 * per_20s).ceil().max(1.0);
    for (deck, per_20s) in [(core as Deck, 10.0), (nodes as Deck, 6.0), (network as Deck, 12.0)] {
        let count = part(per_20s);
        let mut cards: Vec<Fault> = Vec::new();
        // The first second and the last tenth are calm.
        let room = (length.as_secs_f64() * 0.9 - 1.0).max(0.1);
        for n in 0..count as usize {
            if cards.is_empty() {
                cards = deck(rng, lease);
                rng.shuffle(&mut cards);
            }
            let Some(fault) = cards.pop() else { continue };
            let after = 1.0 + room * (n as f64 + 0.7 * rng.f64()) / count;
            planned.push(Planned { after: Duration::from_secs_f64(after), fault });
        }
    }
    planned.sort_by_key(|planned| planned.after);
    planned
}

type Deck = fn(&mut fastrand::Rng, Duration) -> Vec<Fault>;

fn millis(rng: &mut fastrand::Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

fn core(rng: &mut fastrand::Rng, lease: Duration) -> Vec<Fault> {
    let ahead = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    vec![
        Fault::KillCoordinator(0, millis(rng, 100..1_000)),
        Fault::KillCoordinator(1, millis(rng, 100..1_000)),
        Fault::StopCoordinator(rng.usize(0..2), longer_than(lease, rng)),
        Fault::RestartPostgres,
        Fault::KillPostgres,
        Fault::StopPostgres(longer_than(lease, rng)),
        Fault::ExhaustConnections(millis(rng, 1_000..2_500)),
        Fault::ExhaustConnections(millis(rng, 1_000..2_500)),
        Fault::MoveClock(ahead + rng.i64(500..2_000)),
        Fault::MoveClock(-rng.i64(500..2_000)),
    ]
}

fn nodes(rng: &mut fastrand::Rng, lease: Duration) -> Vec<Fault> {
    (0..NODES)
        .flat_map(|node| {
            [Fault::KillNode(node, millis(rng, 50..2_500)), Fault::StopNode(node, longer_than(lease, rng))]
        })
        .collect()
}

fn network(rng: &mut fastrand::Rng, _: Duration) -> Vec<Fault> {
    let mut cards = Vec::new();
    for _ in 0..3 {
        cards.push(Fault::DelayLink(rng.usize(0..1_000), millis(rng, 20..150), millis(rng, 500..2_500)));
        cards.push(Fault::CutLink(rng.usize(0..1_000)));
        cards.push(Fault::HalfCloseLink(rng.usize(0..1_000)));
    }
    cards.push(Fault::StallLink(rng.usize(0..1_000), millis(rng, 500..2_500)));
    cards.push(Fault::StallLink(rng.usize(0..1_000), millis(rng, 500..2_500)));
    cards.push(Fault::RefuseLink(rng.usize(0..1_000), millis(rng, 200..1_500)));
    cards
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::mem::discriminant;

    use super::*;

    #[test]
    fn one_seed_gives_the_same_faults_and_twenty_seconds_are_enough_for_every_kind() {
        let plan =
            |seed| deal(&mut fastrand::Rng::with_seed(seed), Duration::from_secs(20), Duration::from_secs(2));
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        let kinds: HashSet<_> = plan(7).iter().map(|planned| discriminant(&planned.fault)).collect();
        assert_eq!(kinds.len(), 14);
        assert!(plan(7).iter().all(|planned| planned.after < Duration::from_secs(18)));
    }
}
