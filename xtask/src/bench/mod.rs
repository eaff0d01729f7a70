//! The parts of `cargo xtask bench`: a system of separate processes, the smallest task, the queue beside its peers, and figures.

pub(crate) mod figures;
pub(crate) mod fleet;
pub(crate) mod memory;
pub(crate) mod noop;
pub(crate) mod queue;
pub(crate) mod runtime;
pub(crate) mod start;
pub(crate) mod storage;
