//! What a container may touch: an allow-list. Everything that is not written here stays at the engine's most closed default,
//! whatever the task asks for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use orca_proto::agent::{env, files};
use orca_proto::limits;
use orca_proto::spec::{Network, Resources};

use crate::runtime::Launch;

/// The attempt's directory inside a container.
const INSIDE: &str = "/orca";
/// Volumes that an image may declare.
const VOLUMES: usize = 32;
/// Memory for secrets, in bytes: what they may take, each rounded up to pages.
const SECRETS: usize = 2 * limits::SECRETS_BYTES;
/// Files in it, and itself.
const SECRET_FILES: usize = 2 * limits::SECRETS;

/// Where things are for the engine, which may run on the other side of a mount.
pub(super) struct Sources {
    pub(super) directory: PathBuf,
    pub(super) agent_dir: PathBuf,
    /// Name under `files/`, and path.
    pub(super) artifacts: Vec<(String, PathBuf)>,
}

/// The whole of what the engine is told of a container.
pub(super) fn body(launch: &Launch, sources: &Sources) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(launch.image.id.clone()),
        user: launch.user.clone(),
        entrypoint: Some(vec![format!("{INSIDE}/{}", files::AGENT)]),
        cmd: Some(Vec::new()),
        env: Some(vec![format!("{}={INSIDE}", env::DIR)]),
        labels: Some(launch.labels.clone()),
        attach_stdin: Some(false),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        open_stdin: Some(false),
        tty: Some(false),
        // An image's own health check would run beside the task, unseen and unlimited.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
        host_config: Some(host_config(launch, sources)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(launch: &Launch, sources: &Sources) -> HostConfig {
    // The GPUs are those that the node set apart.
    let Resources { cpus, memory, pids, tmp, disk, shm, open_files, gpus: _ } = launch.resources;
    let bytes = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    let ulimit = |name: &str, limit| ResourcesUlimits {
        name: Some(name.into()),
        soft: Some(limit),
        hard: Some(limit),
    };
    HostConfig {
        // The same limit with and without swap: no swap at all.
        memory: Some(bytes(memory.0)),
        memory_swap: Some(bytes(memory.0)),
        nano_cpus: Some(nano_cpus(cpus)),
        pids_limit: Some(i64::from(pids)),
        ulimits: Some(vec![
            ulimit("nofile", i64::from(open_files)),
            ulimit("core", 0),
            // Nothing that it may write to holds more.
            ulimit("fsize", bytes(tmp.0.max(disk.0).max(shm.0))),
        ]),
        shm_size: Some(bytes(shm.0)),
        device_requests: gpus(launch.gpus.numbers()),
        // What a task may reach by name, it reaches through its node.
        network_mode: Some(match launch.network {
            Network::Open => "bridge".into(),
            Network::None | Network::Egress(_) => "none".into(),
        }),
        privileged: Some(false),
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        readonly_rootfs: Some(true),
        ipc_mode: Some("private".into()),
        init: Some(false),
        auto_remove: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        // The agent carries the task's output; this holds only what the agent itself says on its way down.
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from([("max-size".into(), "64k".into()), ("max-file".into(), "1".into())])),
        }),
        tmpfs: Some(tmpfs(&launch.image.volumes, tmp.0, launch.secrets)),
        mounts: Some(mounts(sources)),
        ..HostConfig::default()
    }
}

/// The NVIDIA runtime's way to name GPUs; nothing where there are none to name.
fn gpus(numbers: &[u32]) -> Option<Vec<DeviceRequest>> {
    let request = DeviceRequest {
        driver: Some("nvidia".into()),
        device_ids: Some(numbers.iter().map(u32::to_string).collect()),
        capabilities: Some(vec![vec!["gpu".into()]]),
        ..DeviceRequest::default()
    };
    (!numbers.is_empty()).then(|| vec![request])
}

#[expect(clippy::cast_possible_truncation, reason = "validated to lie between 0.01 and 1024")]
fn nano_cpus(cpus: f64) -> i64 {
    (cpus * 1e9).round() as i64
}

/// `/tmp`, and a sized tmpfs in place of each volume that the image declares: those would otherwise be unbounded disk. Where there
/// are secrets, one more for them, which is no place for anything else.
fn tmpfs(volumes: &[String], size: u64, secrets: bool) -> HashMap<String, String> {
    let options = format!("rw,nosuid,nodev,size={size},mode=1777");
    let volumes = volumes.iter().map(|path| path.trim_end_matches('/'));
    let mut all: HashMap<String, String> =
        volumes.chain(["/tmp"]).map(|path| (path.to_owned(), options.clone())).collect();
    if secrets {
        let options = format!("rw,nosuid,nodev,noexec,size={SECRETS},nr_inodes={SECRET_FILES},mode=1777");
        all.insert(format!("{INSIDE}/{}", files::SECRETS), options);
    }
    all
}

/// Why an image's volumes cannot be had; without a tmpfs in its place each would be a directory of unbounded size.
pub(super) fn wrong_volume(volumes: &[String]) -> Option<String> {
    if volumes.len() > VOLUMES {
        return Some(format!("the image declares {} volumes; the most is {VOLUMES}", volumes.len()));
    }
    let is_wrong = |path: &&String| {
        let parts = Path::new(path.as_str());
        let plain = path.starts_with('/') && !path.contains("//") && !path.contains("/.");
        !plain || parts.starts_with(INSIDE) || parts.parent().is_none()
    };
    let wrong = volumes.iter().find(is_wrong)?;
    Some(format!("the image declares a volume at {wrong:?}, where there can be none"))
}

/// Propagation is left to the engine: private, but for paths below its own root (named volumes), where it insists on slave.
fn mounts(sources: &Sources) -> Vec<Mount> {
    let mount = |source: &Path, target: String, read_only: bool| Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target),
        read_only: Some(read_only),
        ..Mount::default()
    };
    let mut mounts = vec![
        mount(&sources.directory, INSIDE.into(), false),
        mount(&sources.agent_dir, format!("{INSIDE}/bin"), true),
    ];
    mounts.extend(
        sources
            .artifacts
            .iter()
            .map(|(name, path)| mount(path, format!("{INSIDE}/{}/{name}", files::FILES), true)),
    );
    mounts
}

#[cfg(test)]
mod tests {
    use orca_proto::quantity::Bytes;

    use super::*;
    use crate::runtime::Image;
    use crate::runtime::gpus::{GpuPool, Gpus};

    fn launch(network: Network) -> Launch {
        Launch {
            name: "orca-t-1-1".into(),
            image: Image { id: "sha256:abc".into(), volumes: vec!["/data/".into()], ..Image::default() },
            user: Some("1000".into()),
            resources: Resources {
                cpus: 0.5,
                memory: Bytes::mib(64),
                pids: 32,
                tmp: Bytes::mib(8),
                disk: Bytes::mib(16),
                shm: Bytes::mib(4),
                open_files: 1_024,
                gpus: 0,
            },
            gpus: Gpus::default(),
            network,
            directory: "/s/attempts/t-1".into(),
            artifacts: vec![],
            secrets: false,
            labels: HashMap::from([("orca.task".into(), "t".into())]),
        }
    }

    fn sources() -> Sources {
        Sources {
            directory: "/s/attempts/t-1".into(),
            agent_dir: "/s/agent".into(),
            artifacts: vec![("in".into(), "/s/cache/abc".into())],
        }
    }

    #[test]
    fn a_container_is_told_exactly_this_and_nothing_more() {
        let told = serde_json::to_value(body(&launch(Network::None), &sources())).unwrap();
        insta::assert_json_snapshot!(told);
    }

    #[tokio::test]
    async fn gpus_are_named_one_by_one_and_change_nothing_else() {
        let without = host_config(&launch(Network::None), &sources());
        assert_eq!(without.device_requests, None);
        let mut launch = launch(Network::None);
        launch.gpus = GpuPool::new(2).take(2).await.unwrap();
        let with = host_config(&launch, &sources());
        let request = &with.device_requests.clone().unwrap()[0];
        assert_eq!(request.device_ids.as_deref(), Some(&["0".to_owned(), "1".to_owned()][..]));
        assert_eq!(HostConfig { device_requests: None, ..with }, without);
    }

    #[test]
    fn secrets_add_a_small_directory_in_memory_and_change_nothing_else() {
        let mut with = body(&Launch { secrets: true, ..launch(Network::None) }, &sources());
        let tmpfs = with.host_config.as_mut().unwrap().tmpfs.as_mut().unwrap();
        let options = tmpfs.remove("/orca/secrets").unwrap();
        assert_eq!(options, "rw,nosuid,nodev,noexec,size=524288,nr_inodes=64,mode=1777");
        assert_eq!(with, body(&launch(Network::None), &sources()));
    }

    #[test]
    fn an_image_cannot_have_a_volume_that_would_not_be_bounded() {
        let wrong = |path: &str| wrong_volume(&[path.to_owned()]).is_some();
        for path in
            ["/", "/orca", "/orca/out", "/orca/secrets", "data", "/a/../orca", "//orca", "/./orca", ""]
        {
            assert!(wrong(path), "{path}");
        }
        for path in ["/data", "/var/lib/postgresql/data/", "/orcas", "/tmp"] {
            assert!(!wrong(path), "{path}");
        }
        let many: Vec<String> = (0..=VOLUMES).map(|number| format!("/v{number}")).collect();
        assert!(wrong_volume(&many).is_some() && wrong_volume(&many[1..]).is_none());
    }

    #[test]
    fn a_container_that_may_reach_named_hosts_has_no_network_either() {
        let named = Network::Egress(vec!["example.com".into()]);
        assert_eq!(body(&launch(named), &sources()), body(&launch(Network::None), &sources()));
    }

    #[test]
    fn an_open_network_is_a_bridge_and_changes_nothing_else() {
        let mut open = body(&launch(Network::Open), &sources());
        assert_eq!(open.host_config.as_ref().unwrap().network_mode.as_deref(), Some("bridge"));
        open.host_config.as_mut().unwrap().network_mode = Some("none".into());
        assert_eq!(open, body(&launch(Network::None), &sources()));
    }
}
