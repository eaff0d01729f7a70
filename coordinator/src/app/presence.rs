//! Which nodes are here: those whose requests are held, and those that were heard of since the last time it was written down.
//!
//! A held request shows that its node lives for as long as it is open. It is written down in one statement for all of them,
//! every few seconds, instead of one for each request: thousands of idle nodes then cost next to nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use orca_proto::ids::NodeId;

/// Who is here.
#[derive(Default)]
pub(crate) struct Presence(Mutex<State>);

#[derive(Default)]
struct State {
    held: HashMap<NodeId, usize>,
    heard: BTreeSet<NodeId>,
}

/// A held request of a node.
pub(crate) struct Here<'a> {
    presence: &'a Presence,
    node: NodeId,
}

impl Presence {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node is here for as long as the answer lives.
    pub(crate) fn hold(&self, node: NodeId) -> Here<'_> {
        let mut state = self.lock();
        *state.held.entry(node).or_default() += 1;
        state.heard.insert(node);
        Here { presence: self, node }
    }

    /// Those who are here, and those who were since the last call.
    pub(crate) fn collect(&self) -> Vec<NodeId> {
        let mut state = self.lock();
        let mut nodes = std::mem::take(&mut state.heard);
        nodes.extend(state.held.keys());
        nodes.into_iter().collect()
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        let mut state = self.presence.lock();
        if let Some(count) = state.held.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                state.held.remove(&self.node);
            }
        }
        // Nobody has written down yet that it was here until now.
        state.heard.insert(self.node);
    }
}
