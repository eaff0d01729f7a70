//! Ids in the path. One that is not even an id is answered like one that does not exist.

use axum::extract::{FromRequestParts, Path as AxumPath};
use axum::http::request::Parts;
use orca_proto::ids::{FencingToken, TaskId};
use orca_proto::node::LeaseRef;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::refusal::Refusal;

/// A part of the path.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = AxumPath::<T>::from_request_parts(parts, state).await;
        path.map(|AxumPath(value)| Self(value)).map_err(|_| Refusal::not_found())
    }
}

/// The two parts of a path that name an attempt's lease.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct LeasePath {
    /// The task's id.
    id: TaskId,
    /// The lease's fencing token.
    token: FencingToken,
}

impl LeasePath {
    /// The lease.
    pub(crate) fn lease(self) -> LeaseRef {
        LeaseRef { task: self.id, token: self.token }
    }
}
