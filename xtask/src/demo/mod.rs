//! The parts of `cargo xtask demo`: what is surveyed, the system that does it, and what is shown of it.

pub(crate) mod archive;
pub(crate) mod goal;
pub(crate) mod image;
pub(crate) mod report;
pub(crate) mod system;
pub(crate) mod watch;
