//! Which tasks an order for many is about, and what became of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::TaskId;
use crate::instant;
use crate::limits;
use crate::problem::FieldError;
use crate::spec::check;
use crate::task::State;

/// Tasks of which all that is given holds. Nothing given is refused, unless `all` says that all are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Selector {
    /// One of these; at most 1,000.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<TaskId>,
    /// In this queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// In this group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// With exactly this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// In one of these states.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<State>,
    /// With all of these labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Enqueued before this instant.
    #[serde(deserialize_with = "instant::perhaps", skip_serializing_if = "Option::is_none")]
    pub created_before: Option<Timestamp>,
    /// Really all of them, where nothing else is given.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

impl Selector {
    /// Whether nothing is given that a task must have.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { ids, queue, group, name, states, labels, created_before, all: _ } = self;
        ids.is_empty()
            && queue.is_none()
            && group.is_none()
            && name.is_none()
            && states.is_empty()
            && labels.is_empty()
            && created_before.is_none()
    }

    /// Checks every field against its documented range and appends what is wrong to `errors`, each with a JSON pointer
    /// (RFC 6901) below `at`.
    pub fn validate(&self, at: &str, errors: &mut Vec<FieldError>) {
        let below = check::Pointer::Below(at);
        if self.is_empty() && !self.all {
            errors.push(FieldError::new(
                at,
                "selects nothing in particular; give a filter, or `all: true` for all tasks",
            ));
        }
        if self.ids.len() > limits::SELECTED_IDS {
            errors.push(FieldError::new(below.field("ids").to_string(), "has more than 1,000 entries"));
        }
        if let Some(queue) = &self.queue {
            check::name(queue, below.field("queue"), check::NAME, errors);
        }
        if let Some(group) = &self.group {
            check::name(group, below.field("group"), check::NAME, errors);
        }
        if let Some(name) = &self.name {
            check::text(name, below.field("name"), limits::NAME, errors);
        }
        check::labels(&self.labels, below.field("labels"), errors);
        check::instant(self.created_before, below.field("created_before"), errors);
    }
}

/// `POST /v1/cancellations`: asks that all tasks of a selection, and everything under them, end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BulkCancel {
    /// Which tasks; those that have ended are passed over.
    pub selector: Selector,
    /// Why, for whoever looks later; at most 1,024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl BulkCancel {
    /// Checks every field against its documented range and appends what is wrong to `errors`.
    pub fn validate(&self, errors: &mut Vec<FieldError>) {
        self.selector.validate("/selector", errors);
        check::sentence(self.reason.as_deref(), "/reason", limits::SENTENCE, errors);
    }
}

/// What became of an order for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Affected {
    /// Tasks that it changed.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(selector: &Selector) -> Vec<String> {
        let mut errors = Vec::new();
        selector.validate("/selector", &mut errors);
        errors.into_iter().map(|error| error.pointer).collect()
    }

    #[test]
    fn nothing_in_particular_is_refused_unless_all_are_meant() {
        assert_eq!(faults(&Selector::default()), ["/selector"]);
        assert!(faults(&Selector { all: true, ..Selector::default() }).is_empty());
        assert!(faults(&Selector { states: vec![State::Ready], ..Selector::default() }).is_empty());
    }

    #[test]
    fn each_bad_filter_is_named() {
        let selector = Selector {
            ids: vec![TaskId::new(); limits::SELECTED_IDS + 1],
            queue: Some("a b".into()),
            group: Some(String::new()),
            name: Some("\0".into()),
            labels: BTreeMap::from([("k/1".into(), "\0".into())]),
            created_before: Some(Timestamp::MIN),
            ..Selector::default()
        };
        assert_eq!(
            faults(&selector),
            ["ids", "queue", "group", "name", "labels/k~11", "created_before"]
                .map(|field| format!("/selector/{field}"))
        );
    }
}
