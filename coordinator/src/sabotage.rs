//! Guards that `cargo xtask verify` takes out, one at a time, to see that its checker notices.
//!
//! Only a build with the cargo feature `sabotage` can be told to (by `ORCA_SABOTAGE=NAME`); in every other build
//! [`without`] is a constant `false`, and the compiler removes what hangs on it. No release is built with the feature.

/// One guard of the queue. What each stands for is in `verify/src/sabotage.rs`, beside what must then be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// The fencing token in the question whether a lease is held.
    TokenPredicate,
    /// The row locks of a claim.
    RowLock,
    /// That a task with open dependencies is not in line.
    DependencyCheck,
    /// The look at what an idempotency key made before.
    IdempotencyKey,
    /// The look at who holds a unique key.
    UniqueKey,
    /// The limits of queues and groups.
    QueueLimit,
    /// That only leases that have run out are reclaimed.
    LeaseExpiry,
    /// That what is cancelled leaves the line and is not tried again.
    CancelBlocksGrant,
    /// That log lines must go on where the stored ones end.
    LogContiguity,
    /// That nothing happens to a task that has ended.
    TerminalFinal,
    /// The namespace in the questions for one task.
    NamespaceWall,
}

impl Guard {
    /// As in `ORCA_SABOTAGE`.
    #[cfg(feature = "sabotage")]
    const fn name(self) -> &'static str {
        match self {
            Self::TokenPredicate => "token_predicate",
            Self::RowLock => "row_lock",
            Self::DependencyCheck => "dependency_check",
            Self::IdempotencyKey => "idempotency_key",
            Self::UniqueKey => "unique_key",
            Self::QueueLimit => "queue_limit",
            Self::LeaseExpiry => "lease_expiry",
            Self::CancelBlocksGrant => "cancel_blocks_grant",
            Self::LogContiguity => "log_contiguity",
            Self::TerminalFinal => "terminal_final",
            Self::NamespaceWall => "namespace_wall",
        }
    }
}

/// Whether this guard has been taken out.
#[cfg(feature = "sabotage")]
pub(crate) fn without(guard: Guard) -> bool {
    static TAKEN_OUT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    TAKEN_OUT.get_or_init(|| std::env::var("ORCA_SABOTAGE").unwrap_or_default()) == guard.name()
}

/// Whether this guard has been taken out: never.
#[cfg(not(feature = "sabotage"))]
pub(crate) const fn without(_guard: Guard) -> bool {
    false
}
