//! Dispatch: which of the tasks in line a node that asks for work is given, and why a task is not given to any.
//!
//! Pure: it reads no clock and no database. Ready tasks stand in lanes ([`LaneKey`]): all tasks of a lane are the same to
//! dispatch and are served first in, first out. [`choose()`] answers a claim from what is known of the lanes that have
//! something in line; [`explain()`] answers `why` from the same [`gates`](obstacle), so the two cannot disagree.
//!
//! One claim's order: the highest level first, where a level is a priority, raised by time in line; inside a level the
//! flows (a group of a queue) share by weight; inside a flow the oldest head.

mod asker;
mod choose;
mod condition;
mod explain;
mod fairness;
mod lane;
mod level;
mod obstacle;
mod rate;
mod sentence;
mod settings;
mod usage;
mod words;

#[cfg(test)]
mod tests;

pub(crate) use asker::{Asker, Fleet, fits};
pub(crate) use choose::{Pick, choose};
pub(crate) use condition::{
    approval, approved, arrived, backoff, cancel_requested, children, dependency, due, ended, further,
    held_by, out_of_service, signal,
};
pub(crate) use explain::{Ahead, InLine, before, explain, lasting, why};
pub(crate) use fairness::Fairness;
pub(crate) use lane::{Capacity, Flow, Labels, LaneKey, Line};
pub(crate) use obstacle::{Moment, again_in};
pub(crate) use rate::Bucket;
pub(crate) use settings::{GroupRules, QueueRules, Settings};
pub(crate) use usage::{GroupUsage, QueueUsage, Usage};
