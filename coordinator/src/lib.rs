//! The coordinator: all truth about tasks, in Postgres, served over REST.

pub mod app;
pub mod clock;
pub mod error;
