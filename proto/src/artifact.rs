//! Files that outlive a container: what operators upload and what attempts keep.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{ArtifactId, TaskId};

/// A stored file. Its bytes are at `/v1/artifacts/{id}/content`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Artifact {
    /// Its id.
    pub id: ArtifactId,
    /// The name it was stored under. Letters, digits, `.`, `_`, `-`; at most 128 bytes.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes, 64 lowercase hexadecimal digits.
    pub sha256: String,
    /// The task whose attempt kept it; absent for an upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// When it was stored.
    pub created_at: Timestamp,
}

/// The query of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
pub struct UploadQuery {
    /// The name to store it under. Letters, digits, `.`, `_`, `-`; does not begin with a dot; at most 128 bytes.
    pub name: String,
}

/// Whether `name` may name an artifact: it never becomes a path by itself, but people will save it under that name.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    let mut errors = Vec::new();
    crate::spec::check::name(name, "", "._-", &mut errors);
    errors.is_empty() && !name.starts_with('.')
}
