//! Removes containers that no attempt answers for: an engine may make one long after it was asked to, when whoever asked has
//! given up and gone. The next start would sweep them too, but a node runs for months. Images that nobody has used for long
//! go by [`tidy`].

use std::collections::HashSet;
use std::time::Duration;

use super::Node;
use crate::attempt::lease_of;

/// Time between two looks. What is found twice in a row goes, so an attempt has this long to remove its own.
const PERIOD: Duration = Duration::from_secs(60);

/// Looks again and again, until dropped.
pub(super) async fn run(node: &Node) {
    let mut suspects = HashSet::new();
    loop {
        tokio::time::sleep(PERIOD).await;
        suspects = round(node, &suspects).await;
    }
}

/// Has the runtime remove images that nobody uses, again and again, until dropped.
pub(super) async fn tidy(node: &Node) {
    let Some(gc) = node.settings.images.gc else { return };
    loop {
        tokio::time::sleep(gc.every).await;
        node.runtime.tidy().await;
    }
}

/// Removes those of `suspects` that are still there; answers who is suspect now.
async fn round(node: &Node, suspects: &HashSet<String>) -> HashSet<String> {
    let names = match node.runtime.names().await {
        Ok(names) => names,
        Err(fault) => {
            tracing::debug!(%fault, "cannot list containers");
            return HashSet::new();
        }
    };
    // The lease is held before there is a container, so looking at leases second misses none.
    let stray: HashSet<String> = names
        .into_iter()
        .filter(|name| lease_of(name).is_none_or(|lease| !node.member.leases().holds(lease)))
        .collect();
    for name in stray.intersection(suspects) {
        tracing::warn!(name, "removing a container that no attempt answers for");
        if let Err(fault) = node.runtime.remove(name).await {
            tracing::warn!(name, %fault, "cannot remove the container; trying again");
        }
    }
    stray
}
