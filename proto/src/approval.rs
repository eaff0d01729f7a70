//! An operator's yes or no to a task that waits for it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::problem::FieldError;
use crate::spec::check;

/// `POST /v1/tasks/{id}/approval`: an operator's answer to the task's [`crate::spec::Approval`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// `true`: it may run. `false`: it ends as `cancelled`.
    pub approve: bool,
    /// Why, for whoever looks later; at most 1,024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl Decision {
    /// Checks every field against its documented range and appends what is wrong to `errors`.
    pub fn validate(&self, errors: &mut Vec<FieldError>) {
        check::sentence(self.comment.as_deref(), "/comment", limits::SENTENCE, errors);
    }
}

/// What was decided of a task that waited for an approval, by whom and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Decided {
    /// Whether it was approved.
    pub approved: bool,
    /// When.
    pub at: Timestamp,
    /// By whom: the token's subject; `its timeout` where it goes on because nobody answered in time.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}
