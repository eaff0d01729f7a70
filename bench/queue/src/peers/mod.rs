//! The peers: job queues on Postgres that other people wrote, used as their documents say, at the best of their settings.

pub(crate) mod awa;
pub(crate) mod graphile;
