//! Whether the node can do its work: while its engine does not answer or its disk is nearly full it claims nothing, and says why.
//! What runs goes on, and once the cause is gone the node takes work again by itself.

use std::path::Path;
use std::time::Duration;

use orca_proto::quantity::Bytes;

use super::Node;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(5);

/// Looks again and again, until dropped.
pub(super) async fn run(node: &Node) {
    let mut last = None;
    loop {
        let unwell = look(node).await;
        match (&last, &unwell) {
            (None, Some(why)) => tracing::warn!(why, "takes no more work for now"),
            (Some(_), None) => tracing::info!("takes work again"),
            _ => {}
        }
        last.clone_from(&unwell);
        node.member.say(unwell);
        tokio::time::sleep(PERIOD).await;
    }
}

/// What is wrong, if anything is.
async fn look(node: &Node) -> Option<String> {
    if let Err(fault) = node.runtime.ping().await {
        return Some(format!("the engine does not answer: {fault}"));
    }
    let least = node.settings.runtime.min_disk;
    match free(node.state.root()) {
        Ok(free) if free < least => Some(format!(
            "only {} are free where {} lies, and --min-disk wants {}",
            Bytes(free),
            node.state.root().display(),
            Bytes(least)
        )),
        Ok(_) => None,
        Err(error) => Some(format!("cannot see how full {} is: {error}", node.state.root().display())),
    }
}

/// Bytes that the node may still write below `path`.
fn free(path: &Path) -> std::io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
