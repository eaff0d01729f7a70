//! The real processes of a run: Postgres, two coordinators, nodes, and the links between them.

mod link;
mod postgres;
mod process;
mod start;

pub use link::{Break, Link, Mode};
pub use postgres::Postgres;
pub use process::Process;
pub use start::{Binaries, NAMESPACES, NODES, System, Tokens};
