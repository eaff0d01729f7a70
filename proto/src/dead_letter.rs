//! Dead letters: tasks that ended as `failed` or `expired` and were neither tried again nor purged since.

use serde::{Deserialize, Serialize};

/// The query of `GET /v1/dead-letters`; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields, default)]
pub struct DeadLetterFilter {
    /// In this queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// In this group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// With exactly this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Tasks per page; 1 to 500, 50 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}
