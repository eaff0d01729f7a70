//! The file by which `--healthcheck` knows that the daemon renews: rewritten after each renewal, it holds the lease's length.

use std::path::Path;
use std::time::{Duration, SystemTime};

/// Its name in the state directory.
const FILE: &str = "heartbeat";

/// Says that a renewal just succeeded.
pub(crate) fn beat(state_dir: &Path, lease: Duration) {
    let path = state_dir.join(FILE);
    if let Err(error) = std::fs::write(&path, lease.as_millis().to_string()) {
        tracing::warn!(path = %path.display(), %error, "cannot write the heartbeat");
    }
}

/// Whether the last renewal is younger than a lease.
pub(crate) fn is_fresh(state_dir: &Path) -> bool {
    let path = state_dir.join(FILE);
    let lease = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    let age = std::fs::metadata(&path)
        .and_then(|meta| meta.modified())
        .ok()
        .and_then(|at| SystemTime::now().duration_since(at).ok());
    matches!((lease, age), (Some(millis), Some(age)) if age < Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_healthy_only_while_its_last_renewal_is_younger_than_a_lease() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_fresh(dir.path()));
        beat(dir.path(), Duration::from_secs(60));
        assert!(is_fresh(dir.path()));
        let file = std::fs::File::options().write(true).open(dir.path().join(FILE)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(61)).unwrap();
        assert!(!is_fresh(dir.path()));
    }
}
