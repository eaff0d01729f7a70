//! Pages of a list, joined by opaque cursors.

use serde::{Deserialize, Serialize};

/// Some of a list, newest first unless the route says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Give this as `cursor` to go on; absent on the last page. Opaque: its form may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
