//! One file per verb.

pub(crate) mod audit;
pub(crate) mod bench;
pub(crate) mod demo;
pub(crate) mod dist;
pub(crate) mod images;
pub(crate) mod map;
pub(crate) mod sqlx;
pub(crate) mod test;
pub(crate) mod verify;
