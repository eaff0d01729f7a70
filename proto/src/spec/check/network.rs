//! The rules for what a task may reach.

use super::{Errors, Pointer, fail};
use crate::limits;
use crate::spec::{EgressRule, Network};

pub(super) fn network(network: &Network, at: Pointer<'_>, errors: &mut Errors) {
    let Network::Egress(list) = network else { return };
    let at = at.field("egress");
    if list.is_empty() {
        return fail(errors, at, "has no entries; a task that reaches nothing has the network none");
    }
    if list.len() > limits::EGRESS {
        return fail(errors, at, "has more than 64 entries");
    }
    for (index, entry) in list.iter().enumerate() {
        if let Err(why) = EgressRule::parse(entry) {
            fail(errors, at.index(index), why);
        }
    }
}
