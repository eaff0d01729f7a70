//! What must always hold, put to the test: a seeded run of the real processes under faults, its history, and a checker
//! that reads nothing but the history.
//!
//! [`history`] is what clients saw, line by line, and at the end what the coordinator says of everything. [`checker`] is
//! pure: it reads a history and tells which of the invariants of ARCHITECTURE.md it breaks, with the lines that prove it. [`run`]
//! makes such a history: [`system`] starts Postgres, coordinators and nodes, [`load`] gives them work, [`node`] is the
//! node whose tasks only pretend, [`fault`] breaks things.
//!
//! Architecture invariant: the load speaks REST through `orca_proto::client` only; SQL is for faults alone. The checker
//! asks nobody anything.

pub mod checker;
pub mod clock;
mod dump;
pub mod fault;
pub mod history;
pub mod load;
pub mod node;
pub mod report;
pub mod run;
pub mod sabotage;
pub mod system;
