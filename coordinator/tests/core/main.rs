//! The application on a real Postgres: what design section 4 promises, one behaviour per file.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod attempts;
mod cancel;
mod claims;
mod dispatch;
mod events;
mod goals;
mod graph;
mod idempotency;
mod inbox;
mod large;
mod limits;
mod model;
mod nodes;
mod partitions;
mod quotas;
mod races;
mod retention;
mod schedules;
mod support;
mod why;
