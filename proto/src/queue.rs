//! Queues and the groups inside them: what an operator sets, and what is in line.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::duration::Span;
use crate::limits;
use crate::problem::FieldError;
use crate::spec::check;

/// How a queue is served. What is absent has no limit, or its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// Most tasks of the queue that run at once; at least 1 (to stop a queue, pause it).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
    /// Most tasks of the queue that begin in a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// The time in line that counts as one level of priority; 60 s unless told; `0s`: none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ageing: Option<Span>,
}

impl QueueSettings {
    /// The ageing of a queue that names none.
    pub const AGEING: Span = Span::secs(60);

    /// Checks every field against its documented range and appends what is wrong to `errors`.
    pub fn validate(&self, errors: &mut Vec<FieldError>) {
        let Self { max_running, rate, ageing } = self;
        running(*max_running, errors);
        rate_of(*rate, errors);
        if let Some(ageing) = ageing {
            check::span(*ageing, "/ageing", errors);
        }
    }
}

/// How a group inside a queue is served. What is absent has no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct GroupSettings {
    /// Its share of the queue against the other groups' that have tasks in line; 1 to 1,000.
    pub weight: u32,
    /// Most tasks of the group that run at once; at least 1 (to stop a group, pause it).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
    /// Most tasks of the group that begin in a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self { weight: 1, max_running: None, rate: None }
    }
}

impl GroupSettings {
    /// Checks every field against its documented range and appends what is wrong to `errors`.
    pub fn validate(&self, errors: &mut Vec<FieldError>) {
        let Self { weight, max_running, rate } = self;
        if !(1..=limits::WEIGHT).contains(weight) {
            errors.push(FieldError::new("/weight", "must lie between 1 and 1,000"));
        }
        running(*max_running, errors);
        rate_of(*rate, errors);
    }
}

/// So many tasks in such a time. They may all begin at its start; after that they are spread evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// 1 to 1,000,000.
    pub tasks: u32,
    /// 1 ms to 366 days.
    pub per: Span,
}

fn running(max_running: Option<u32>, errors: &mut Vec<FieldError>) {
    match max_running {
        Some(0) => {
            errors.push(FieldError::new("/max_running", "must be at least 1; to let nothing begin, pause it"))
        }
        Some(limits::RUNNING..) => {
            errors.push(FieldError::new("/max_running", "must be less than 1,000,000,000"))
        }
        _ => {}
    }
}

fn rate_of(rate: Option<Rate>, errors: &mut Vec<FieldError>) {
    let Some(Rate { tasks, per }) = rate else { return };
    if !(1..=1_000_000).contains(&tasks) {
        errors.push(FieldError::new("/rate/tasks", "must lie between 1 and 1,000,000"));
    }
    check::positive(per, "/rate/per", errors);
}

/// Pauses a queue, a group or a schedule: what runs goes on, nothing begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Pause {
    /// Why, for whoever looks later; at most 1,024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Pause {
    /// Checks every field against its documented range and appends what is wrong to `errors`.
    pub fn validate(&self, errors: &mut Vec<FieldError>) {
        check::sentence(self.reason.as_deref(), "/reason", limits::SENTENCE, errors);
    }
}

/// Since when, by whom and why something is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Paused {
    /// Since when.
    pub at: Timestamp,
    /// By whom: the token's subject.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A queue that a task or a setting has named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// How it is served.
    pub settings: QueueSettings,
    /// Present while it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// Tasks in line for a node; above 2,000 about so many.
    pub ready: u64,
    /// Tasks that a node holds.
    pub running: u64,
    /// Its groups, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// Where this answers a change: whether neither a task nor a setting had named it before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub created: bool,
}

/// A group inside a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How it is served.
    pub settings: GroupSettings,
    /// Present while it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// Tasks in line for a node; above 2,000 about so many.
    pub ready: u64,
    /// Tasks that a node holds.
    pub running: u64,
    /// Where this answers a change: whether neither a task nor a setting had named it before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub created: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_limit_is_named() {
        let rate = Some(Rate { tasks: 0, per: Span::default() });
        let queue = QueueSettings { max_running: Some(0), rate, ageing: Some(Span::secs(400 * 86_400)) };
        let mut errors = Vec::new();
        queue.validate(&mut errors);
        GroupSettings { weight: 0, max_running: Some(u32::MAX), rate: None }.validate(&mut errors);
        Pause { reason: Some("\0".into()) }.validate(&mut errors);
        let pointers: Vec<&str> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(
            pointers,
            ["/max_running", "/rate/tasks", "/rate/per", "/ageing", "/weight", "/max_running", "/reason"]
        );
    }

    #[test]
    fn settings_that_say_nothing_are_the_usual_ones() {
        let group: GroupSettings = serde_json::from_str("{}").unwrap();
        assert_eq!((&group, group.weight), (&GroupSettings::default(), 1));
        let mut errors = Vec::new();
        group.validate(&mut errors);
        serde_json::from_str::<QueueSettings>("{}").unwrap().validate(&mut errors);
        assert!(errors.is_empty(), "{errors:?}");
        assert!(serde_json::from_str::<QueueSettings>(r#"{"max_runing":1}"#).is_err());
    }
}
