//! The application on a real Postgres: what ARCHITECTURE.md says always holds, one behaviour per file.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod attempts;
mod bulk;
mod cancel;
mod claims;
mod dead_letters;
mod deadlines;
mod dispatch;
mod errors;
mod events;
mod gates;
mod goals;
mod graph;
mod idempotency;
mod idle_lanes;
mod inbox;
mod large;
mod limits;
mod lines;
mod locks;
mod model;
mod nodes;
mod partitions;
mod quotas;
mod races;
mod reports;
mod retention;
mod schedules;
mod settlement;
mod signals;
mod support;
mod unique;
mod why;
