//! What a task runs and what that may use and reach.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{EgressRule, is_default};
use crate::ids::ArtifactId;
use crate::quantity::Bytes;

/// The container of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// An OCI image reference, such as `debian:bookworm-slim` or `ghcr.io/me/tool@sha256:…`.
    pub image: String,
    /// The program and its arguments. When empty, the image's own entrypoint and command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment variables, over those of the image. Not for secrets. Names that begin with `ORCA_` are Orca's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// User (`name`, `uid` or `uid:gid`), when not the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory (absolute), when not the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// How the image is got.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pull: Pull,
}

/// When an image is fetched from its registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Pull {
    /// Only if the node's engine does not hold it.
    #[default]
    Missing,
    /// Before every attempt.
    Always,
    /// Never; an absent image is refused.
    Never,
}

/// A stored file to put into the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct InputArtifact {
    /// Which one.
    pub id: ArtifactId,
    /// Its name under `$ORCA_DIR/files/`. Letters, digits, `.`, `_`, `-`; does not begin with a dot.
    pub name: String,
    /// Unpack a tar archive into a directory of that name. Links, devices, absolute names and `..` are refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unpack: bool,
}

/// What a container may use. Enforced by the engine, without swap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Processor cores; 0.01 to 1024.
    #[serde(skip_serializing_if = "Resources::usual_cpus")]
    pub cpus: f64,
    /// Memory; at least 16MiB (the agent lives there too).
    #[serde(skip_serializing_if = "Resources::usual_memory")]
    pub memory: Bytes,
    /// Processes and threads; 8 to 1,000,000.
    #[serde(skip_serializing_if = "Resources::usual_pids")]
    pub pids: u32,
    /// Size of the writable `/tmp`; counts as memory where it is used. At least 1MiB.
    #[serde(skip_serializing_if = "Resources::usual_tmp")]
    pub tmp: Bytes,
    /// What it may write into `$ORCA_DIR`, which lies on the node's disk: results and files to keep. At least 1MiB.
    #[serde(skip_serializing_if = "Resources::usual_disk")]
    pub disk: Bytes,
    /// Size of `/dev/shm`; counts as memory where it is used. At least 1MiB.
    #[serde(skip_serializing_if = "Resources::usual_shm")]
    pub shm: Bytes,
    /// Files that one process may hold open; 64 to 1,048,576. An engine cannot always give more than it has itself, so the
    /// default is what any has.
    #[serde(skip_serializing_if = "Resources::usual_open_files")]
    pub open_files: u32,
    /// Whole GPUs; at most 16. Only a node that offers so many takes the task.
    #[serde(skip_serializing_if = "Resources::usual_gpus")]
    pub gpus: u32,
}

impl Resources {
    const USUAL: Self = Self {
        cpus: 1.0,
        memory: Bytes::mib(512),
        pids: 512,
        tmp: Bytes::mib(64),
        disk: Bytes::mib(1024),
        shm: Bytes::mib(64),
        open_files: 16_384,
        gpus: 0,
    };

    fn usual_cpus(cpus: &f64) -> bool {
        *cpus == Self::USUAL.cpus
    }

    fn usual_memory(memory: &Bytes) -> bool {
        *memory == Self::USUAL.memory
    }

    fn usual_pids(pids: &u32) -> bool {
        *pids == Self::USUAL.pids
    }

    fn usual_tmp(tmp: &Bytes) -> bool {
        *tmp == Self::USUAL.tmp
    }

    fn usual_disk(disk: &Bytes) -> bool {
        *disk == Self::USUAL.disk
    }

    fn usual_shm(shm: &Bytes) -> bool {
        *shm == Self::USUAL.shm
    }

    fn usual_open_files(open_files: &u32) -> bool {
        *open_files == Self::USUAL.open_files
    }

    fn usual_gpus(gpus: &u32) -> bool {
        *gpus == Self::USUAL.gpus
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self::USUAL
    }
}

/// What a container may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Nothing but its own loopback and its node's socket.
    #[default]
    None,
    /// These hosts and no others, by a proxy on its loopback (`HTTPS_PROXY` and its kin name it): 1 to 64 entries of the form
    /// `HOST` (ports 443 and 80) or `HOST:PORT`, as in `["api.example.com", "*.example.com:8443", "[2606:4700::1111]:853"]`.
    /// Lowercase, ASCII; `*.` stands for one or more labels. The container itself has no network all the same: its node
    /// resolves each name once and connects, to public addresses only unless its settings open others.
    Egress(Vec<String>),
    /// Whatever the node's engine lets a bridge reach. A node refuses it unless its settings allow it.
    Open,
}

impl Network {
    /// Whether this reaches whatever `other` reaches. An entry that is none includes nothing but itself.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Open, _) | (_, Self::None) => true,
            (Self::Egress(own), Self::Egress(list)) => {
                // Most say what is above them, word for word.
                let others: Vec<&String> = list.iter().filter(|entry| !own.contains(entry)).collect();
                let read = |entry: &String| EgressRule::parse(entry).ok();
                let own: Vec<EgressRule> =
                    if others.is_empty() { Vec::new() } else { own.iter().filter_map(read).collect() };
                others
                    .into_iter()
                    .all(|entry| EgressRule::parse(entry).is_ok_and(|rule| rule.is_within(&own)))
            }
            (Self::None, _) | (Self::Egress(_), Self::Open) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_includes_what_it_covers_and_no_more() {
        let list =
            |entries: &[&str]| Network::Egress(entries.iter().map(|entry| (*entry).to_owned()).collect());
        let includes = |own: &[&str], other: &[&str]| list(own).includes(&list(other));
        assert!(Network::Open.includes(&Network::Open) && Network::Open.includes(&list(&["a.example"])));
        assert!(Network::None.includes(&Network::None) && list(&["a.example"]).includes(&Network::None));
        assert!(!Network::None.includes(&list(&["a.example"])) && !Network::None.includes(&Network::Open));
        assert!(!list(&["*.a.example"]).includes(&Network::Open));
        for (own, other) in [
            (&["a.example", "b.example"][..], &["b.example"][..]),
            (&["a.example"], &["a.example:443", "a.example:80"]),
            (&["a.example:443", "a.example:80"], &["a.example"]),
            (&["*.a.example:22"], &["x.a.example:22", "*.y.a.example:22", "*.a.example:22"]),
        ] {
            assert!(includes(own, other), "{own:?} {other:?}");
        }
        for (own, other) in [
            (&["a.example"][..], &["b.example"][..]),
            (&["a.example"], &["a.example", "b.example"]),
            (&["a.example"], &["a.example:22"]),
            (&["a.example:443"], &["a.example"]),
            (&["*.a.example"], &["a.example"]),
            (&["*.a.example"], &["*.ba.example"]),
            (&["*.b.a.example"], &["*.a.example"]),
            (&["b.a.example"], &["*.a.example"]),
            (&["*.a.example"], &["203.0.113.7"]),
            (&["A"], &["B"]),
        ] {
            assert!(!includes(own, other), "{own:?} {other:?}");
        }
    }
}
