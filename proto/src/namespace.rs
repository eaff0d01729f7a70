//! Namespaces: walls between tenants, and how much each may hold.

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::problem::FieldError;

/// How much a namespace may hold. What is absent has no limit. Over it, an enqueue is answered 429 `quota-exceeded`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Most tasks that have not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_open: Option<u64>,
    /// Most tasks that run at once; more wait in line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
    /// Most queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queues: Option<u32>,
}

impl Quota {
    /// Checks every field against its documented range and appends what is wrong to `errors`.
    pub fn validate(&self, errors: &mut Vec<FieldError>) {
        let Self { max_open, max_running, max_queues } = self;
        let given = [
            ("/max_open", *max_open),
            ("/max_running", max_running.map(u64::from)),
            ("/max_queues", max_queues.map(u64::from)),
        ];
        for (pointer, value) in given {
            if value.is_some_and(|value| value >= u64::from(limits::RUNNING)) {
                errors.push(FieldError::new(pointer, "must be less than 1,000,000,000"));
            }
        }
    }
}

/// A namespace, its quota and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// How much it may hold.
    pub quota: Quota,
    /// Tasks that have not ended.
    pub open: u64,
    /// Tasks that a node holds.
    pub running: u64,
}
