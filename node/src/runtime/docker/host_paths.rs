//! How this node's paths look to the engine. They differ when the node runs in a container of that engine (with its socket
//! mounted): a bind's source is a path of the host, so the state directory is looked up among the container's own mounts.

use std::path::{Path, PathBuf};

use super::{LOOK, within};
use crate::NodeError;

/// Translates this node's paths into the engine's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostPaths {
    /// Destination here, source there; none when the node runs beside the engine.
    mounts: Vec<(PathBuf, PathBuf)>,
}

impl HostPaths {
    /// Finds out whether this is a container, and of which mounts.
    pub(super) async fn discover(api: &bollard::Docker, state_dir: &Path) -> Result<Self, NodeError> {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let hostname = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        let Some(id) = own_container(&mountinfo, &hostname, Path::new("/.dockerenv").exists()) else {
            return Ok(Self::default());
        };
        let inspected = match within(LOOK, "inspect", api.inspect_container(&id, None)).await {
            Ok(inspected) => inspected,
            // A container, but not of this engine: it shares the engine's view or has no way to it.
            Err(error) if error.code() == Some(404) => return Ok(Self::default()),
            Err(error) => {
                return Err(NodeError::Engine(format!("cannot inspect this node's container: {error}")));
            }
        };
        let mounts = inspected.mounts.unwrap_or_default();
        let paths = Self {
            mounts: mounts
                .into_iter()
                .filter_map(|mount| Some((mount.destination?.into(), mount.source?.into())))
                .collect(),
        };
        if paths.translate(state_dir).is_none() {
            return Err(NodeError::Setting {
                setting: "--state-dir",
                why: format!(
                    "is {}, which lies inside this node's container where the engine cannot see it; put it on a volume",
                    state_dir.display()
                ),
            });
        }
        Ok(paths)
    }

    /// Whether a path means the same here and there.
    pub(super) fn are_the_engines(&self) -> bool {
        self.mounts.is_empty()
    }

    /// The engine's path of `path`: below the deepest mount that holds it. `None` if the engine cannot see it.
    pub(super) fn translate(&self, path: &Path) -> Option<PathBuf> {
        if self.mounts.is_empty() {
            return Some(path.to_path_buf());
        }
        let (destination, source) = self
            .mounts
            .iter()
            .filter(|(destination, _)| path.starts_with(destination))
            .max_by_key(|(destination, _)| destination.components().count())?;
        let rest = path.strip_prefix(destination).ok()?;
        Some(if rest.as_os_str().is_empty() { source.clone() } else { source.join(rest) })
    }
}

/// The id of the container that this process is in. An engine mounts `/etc/hostname` and its like from a directory of that
/// name; the host name is the id's beginning unless somebody chose another.
fn own_container(mountinfo: &str, hostname: &str, marked: bool) -> Option<String> {
    let is_id = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let mounted = mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, target) = (fields.next()?, fields.next()?);
        if !["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"].contains(&target) {
            return None;
        }
        root.split("/containers/").nth(1)?.split('/').next().filter(|id| is_id(id)).map(str::to_owned)
    });
    let short = hostname.trim();
    let named = marked && short.len() == 12 && short.bytes().all(|b| b.is_ascii_hexdigit());
    mounted.or_else(|| named.then(|| short.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(mounts: &[(&str, &str)]) -> HostPaths {
        HostPaths {
            mounts: mounts.iter().map(|(to, from)| (PathBuf::from(to), PathBuf::from(from))).collect(),
        }
    }

    #[test]
    fn beside_the_engine_a_path_is_itself() {
        assert_eq!(paths(&[]).translate(Path::new("/var/lib/orca")), Some("/var/lib/orca".into()));
    }

    #[test]
    fn in_a_container_the_deepest_mount_counts() {
        let paths = paths(&[
            ("/var", "/host/var"),
            ("/var/lib/orca", "/var/lib/docker/volumes/node/_data"),
            ("/var/run/docker.sock", "/var/run/docker.sock"),
        ]);
        assert_eq!(
            paths.translate(Path::new("/var/lib/orca/attempts/a")),
            Some("/var/lib/docker/volumes/node/_data/attempts/a".into())
        );
        assert_eq!(
            paths.translate(Path::new("/var/lib/orca")),
            Some("/var/lib/docker/volumes/node/_data".into())
        );
        assert_eq!(paths.translate(Path::new("/var/lib/orcas")), Some("/host/var/lib/orcas".into()));
        assert_eq!(paths.translate(Path::new("/home/x")), None);
    }

    #[test]
    fn the_own_container_is_read_from_its_mounts_before_its_name() {
        let id = "c0ffee".repeat(10) + "abcd";
        let line = format!(
            "700 690 8:1 /var/lib/docker/containers/{id}/hostname /etc/hostname rw - ext4 /dev/sda1 rw"
        );
        assert_eq!(own_container(&line, "web", true), Some(id));
        assert_eq!(own_container("", "0123456789ab\n", true), Some("0123456789ab".into()));
        assert_eq!(own_container("", "0123456789ab\n", false), None);
        let host = "30 1 8:1 /var/lib/docker/containers/x /mnt rw - ext4 /dev/sda1 rw";
        assert_eq!(own_container(host, "laptop", false), None);
    }
}
