//! The parts of `cargo xtask bench`: a system of separate processes, the smallest task, and figures.

pub(crate) mod figures;
pub(crate) mod fleet;
pub(crate) mod memory;
pub(crate) mod noop;
pub(crate) mod start;
