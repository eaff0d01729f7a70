//! A whole node against a fake coordinator, with the real agent, on each runtime.
//!
//! `ORCA_AGENT_BINARY` names the static agent (`cargo xtask test` sets it); without it these tests fail. Those of
//! [`docker`] and [`images`] need a Docker engine.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test and what it is built of fail by panicking"
)]

mod docker;
mod egress;
mod fake;
mod health;
mod images;
mod process;
mod registry;
mod restart;
mod rig;
mod secrets;
mod socket;
