//! Which secrets a task's program is given.

use serde::{Deserialize, Serialize};

/// One secret of the task's namespace, as a file in `$ORCA_SECRETS_DIR` that the program alone can read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretFile {
    /// Which one.
    pub name: String,
    /// Its file's name, when not its own. Letters, digits, `.`, `_`, `-`; does not begin with a dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#as: Option<String>,
}

impl SecretFile {
    /// The name of its file.
    #[must_use]
    pub fn file(&self) -> &str {
        self.r#as.as_deref().unwrap_or(&self.name)
    }
}
