//! The one contract between Orca's parts.
//!
//! Everything that crosses a wire is defined here and nowhere else: typed ids ([`ids`]), what an operator asks for
//! ([`spec`], [`plan`]), what the coordinator answers ([`task`], [`event`], [`log`], [`artifact`], [`page`], [`why`]), what
//! operators set and order ([`queue`], [`schedule`], [`namespace`], [`selector`], [`dead_letter`], [`approval`],
//! [`signal`], [`secret`]), what nodes and coordinator say to each other ([`node`], [`attempt`]), what the agent and its node say ([`agent`]), the one error
//! format ([`problem`]), how its JSON is read ([`strict`]), tokens ([`token`], feature `auth`) and the typed client ([`client`], feature `client`).
//! Limits that several parts must agree on are in [`limits`].
//!
//! Architecture invariant: this crate does no I/O except in `client`, and depends on no other Orca crate.

pub mod agent;
pub mod approval;
pub mod artifact;
pub mod attempt;
#[cfg(feature = "client")]
pub mod client;
pub mod dead_letter;
pub mod duration;
pub mod event;
pub mod ids;
pub mod image;
mod instant;
pub mod limits;
pub mod log;
pub mod namespace;
pub mod node;
pub mod page;
pub mod plan;
pub mod problem;
pub mod quantity;
pub mod queue;
pub mod schedule;
pub mod secret;
pub mod selector;
pub mod signal;
pub mod spec;
pub mod strict;
pub mod task;
#[cfg(feature = "auth")]
pub mod token;
pub mod why;
