//! The real agent against a fake node: what it runs, what it relays, how it stops, and what it reports.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod egress;
mod fake_node;
mod node_away;
mod outcomes;
mod output;
mod secrets;
mod stopping;
mod verbs;
