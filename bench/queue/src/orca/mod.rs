//! Orca, as people run it: coordinators that are processes of their own, and clients that reach them by REST alone.

pub(crate) mod coordinator;
mod enqueue;
mod node;
mod starts;

pub(crate) use coordinator::{Coordinator, Installation};
pub(crate) use enqueue::{BEST_BULK, Bulk, bulk, preload, single, task};
pub(crate) use node::{BEST, Fleet, Settings, drain, registration, work};
pub(crate) use starts::starts;
