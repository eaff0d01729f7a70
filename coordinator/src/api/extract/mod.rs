//! What handlers read of a request, each with a refusal that says where the fault is.

mod body;
mod headers;
mod json;
mod path;
mod query;

pub(crate) use body::{NoBody, OptionalJson, Upload};
pub(crate) use headers::{IdempotencyKey, LastEventId};
pub(crate) use json::Json;
pub(crate) use path::{LeasePath, Path};
pub(crate) use query::Query;
