//! The guards that a coordinator built with the feature `sabotage` can go without, what must then be noticed, and the load
//! that shows it.

use std::time::Duration;

use crate::load::Mix;

/// A guard that can be taken out.
#[derive(Clone, Copy, Debug)]
pub struct Sabotage {
    /// As in `ORCA_SABOTAGE`.
    pub name: &'static str,
    /// What the coordinator does without it.
    pub what: &'static str,
    /// The invariants of which at least one must be found broken.
    pub breaks: &'static [u8],
    /// The load that shows it.
    pub mix: fn() -> Mix,
}

/// How long the load of each is.
pub const LENGTH: Duration = Duration::from_secs(6);

/// Every guard.
pub const ALL: [Sabotage; 11] = [
    Sabotage {
        name: "token_predicate",
        what: "takes a node's word under any token of the task",
        breaks: &[3],
        mix: || Mix { hang: 25, pause_ms: 30, ..brisk() },
    },
    Sabotage {
        name: "row_lock",
        what: "grants what another claim has taken in the same moment",
        breaks: &[2, 3],
        mix: || Mix { plain: 200, pause_ms: 5, operators: 10, limits: false, ..brisk() },
    },
    Sabotage {
        name: "dependency_check",
        what: "puts tasks in line whose dependencies have not succeeded",
        breaks: &[6],
        mix: || Mix { graphs: 60, ..brisk() },
    },
    Sabotage {
        name: "idempotency_key",
        what: "makes another task for a key that has one",
        breaks: &[7],
        mix: || Mix { keyed: 60, ..brisk() },
    },
    Sabotage {
        name: "unique_key",
        what: "makes another task for a unique key that is held",
        breaks: &[7],
        mix: || Mix { unique: 80, ..brisk() },
    },
    Sabotage {
        name: "queue_limit",
        what: "grants past the limits of queues and groups",
        breaks: &[8],
        mix: || Mix { plain: 80, pause_ms: 20, ..brisk() },
    },
    Sabotage {
        name: "lease_expiry",
        what: "reclaims leases that have not run out",
        breaks: &[8],
        mix: || Mix { plain: 60, ..brisk() },
    },
    Sabotage {
        name: "cancel_blocks_grant",
        what: "leaves in line what is cancelled, or tries it again",
        breaks: &[9, 4, 1],
        mix: || Mix { plain: 60, cancels: 60, pause_ms: 20, ..brisk() },
    },
    Sabotage {
        name: "log_contiguity",
        what: "stores log lines with gaps, or twice",
        breaks: &[10],
        mix: || Mix { plain: 60, ..brisk() },
    },
    Sabotage {
        name: "terminal_final",
        what: "lets events change what has ended",
        breaks: &[4, 1],
        mix: || Mix { plain: 40, cancels: 60, reads: 40, ..brisk() },
    },
    Sabotage {
        name: "namespace_wall",
        what: "looks for a task in every namespace",
        breaks: &[11],
        mix: || Mix { probes: 60, ..brisk() },
    },
];

fn brisk() -> Mix {
    Mix { pause_ms: 40, ..Mix::default() }
}

/// The guard of that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Sabotage> {
    ALL.iter().find(|sabotage| sabotage.name == name)
}
