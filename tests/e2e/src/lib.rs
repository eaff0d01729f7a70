//! Whole-system tests: a real Postgres in a container, a real coordinator and real nodes as processes, real containers.
//!
//! Each test is a [`scenario()`]: it gets a [`System`] of its own (database, ports, directories, keys, node names), does its
//! part, and then the system is taken down whatever happened; a container left behind fails the test. Where a test fails,
//! the tasks and the ends of all logs are printed.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | where binaries and images are found; the environment variables |
//! | [`database`] | Postgres in a container |
//! | [`daemon`] | one process: start, signals, log |
//! | [`system`] | a coordinator, its nodes and its database together |
//! | [`scenario`](mod@scenario) | runs a test's body, and takes the system down after it |
//! | [`engine`] | what tests ask of the Docker engine |
//! | [`watch`] | waits with a limit |
//! | [`tasks`] | the specs that tests enqueue |
//! | [`command`] | runs the `orca` command and other programs to their end |
//! | [`registry`] | a registry that holds no images |
//! | [`compose`] | the Compose stack, under a name of its own |
//! | [`survey`] | an independent count of a directory |
#![expect(clippy::panic, clippy::expect_used, reason = "a harness reports by failing the test")]

pub mod command;
pub mod compose;
pub mod daemon;
pub mod database;
pub mod engine;
pub mod registry;
pub mod scenario;
pub mod settings;
pub mod survey;
pub mod system;
pub mod tasks;
pub mod watch;

pub use scenario::scenario;
pub use system::{Shape, System};
