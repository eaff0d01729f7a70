//! The coordinator as its callers meet it: `run` on a real port and a real Postgres, one database per test.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops where what it needs is not there"
)]

mod authorization;
mod binary;
mod harness;
mod problems;
mod queues;
mod schedules;
mod secrets;
mod shutdown;
mod streams;
mod verbs;
mod waits;
