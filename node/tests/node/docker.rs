//! What depends on the engine: the container's posture, its outcomes, and that nothing is ever left.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, KillContainerOptionsBuilder,
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
};
use futures_util::TryStreamExt;
use orca_node::{NodeSettings, RuntimeKind};
use orca_proto::duration::Span;
use orca_proto::node::LeaseRef;
use orca_proto::quantity::Bytes;
use orca_proto::spec::{InputArtifact, Network, NewTask, Pull};
use orca_proto::task::{Outcome, Timeout};
use serde_json::json;
use uuid::Uuid;

use crate::egress::{echo, naming};
use crate::rig::Rig;

/// A rig on the real engine, with an image that holds nothing but the probe.
pub(crate) struct Bench {
    pub(crate) rig: Rig,
    pub(crate) api: Docker,
    image: Imported,
}

/// An image that goes when its test does, however that ends, with all containers made of it.
pub(crate) struct Imported(pub(crate) String);

impl Drop for Imported {
    fn drop(&mut self) {
        let image = self.0.clone();
        let removal = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(remove_image(&image));
        });
        removal.join().unwrap();
    }
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::with(Duration::from_secs(30), |_| {}).await
    }

    pub(crate) async fn with(lease: Duration, change: impl FnOnce(&mut NodeSettings)) -> Self {
        let api = Docker::connect_with_defaults().unwrap().negotiate_version().await.unwrap();
        let image =
            import(&api, &["ENTRYPOINT [\"/probe\"]", "CMD [\"result\", \"\\\"by itself\\\"\"]"]).await;
        // Both, as a machine may call both localhost.
        let opened = ["127.0.0.0/8", "::1/128"].map(|range| range.parse().unwrap()).to_vec();
        let changed = |settings: &mut NodeSettings| {
            settings.egress.allow = opened;
            change(settings);
        };
        let rig = Rig::with(RuntimeKind::Docker, lease, changed).await;
        Self { rig, api, image }
    }

    pub(crate) fn task(&self, arguments: &[&str]) -> NewTask {
        let mut task = NewTask::new(&self.image.0);
        let arguments = arguments.iter().map(|one| (*one).to_owned());
        task.container.command = std::iter::once("/probe".to_owned()).chain(arguments).collect();
        task.container.pull = Pull::Never;
        task.resources.memory = Bytes::mib(64);
        task.timeouts.grace = Span::secs(2);
        task
    }

    async fn outcome(&self, task: NewTask) -> Outcome {
        let lease = self.rig.grant(task);
        self.rig.fake.report_of(lease).await.outcome
    }

    /// The engine's containers of this rig's state directory, dead or alive.
    pub(crate) async fn containers(&self) -> Vec<String> {
        let id = std::fs::read_to_string(self.rig.state.path().join("id")).unwrap();
        labelled(&self.api, &format!("orca.state={id}")).await
    }

    pub(crate) async fn end(self) {
        self.rig.shutdown.cancel();
        self.rig.ended().await.unwrap();
        let left = self.containers().await;
        assert!(left.is_empty(), "containers are left: {left:?}");
        self.rig.stop().await.unwrap();
    }

    pub(crate) fn name(lease: LeaseRef) -> String {
        format!("orca-{}-1-{}", lease.task, lease.token)
    }
}

async fn labelled(api: &Docker, label: &str) -> Vec<String> {
    let filter = HashMap::from([("label".to_owned(), vec![label.to_owned()])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filter).build();
    let found = api.list_containers(Some(options)).await.unwrap();
    found.into_iter().filter_map(|container| container.id).collect()
}

/// The probe, built once.
pub(crate) fn probe() -> Vec<u8> {
    static BUILT: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let build = || {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("probe");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node/fixtures/probe.rs");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let built = Command::new(rustc)
            .args(["--edition", "2024", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"])
            .args([&program, &source])
            .status()
            .unwrap();
        assert!(built.success(), "rustc cannot build the probe");
        std::fs::read(program).unwrap()
    };
    BUILT.get_or_init(build).clone()
}

async fn import(api: &Docker, changes: &[&str]) -> Imported {
    let image = format!("orca-node-test-{}:1", Uuid::now_v7());
    let program = tokio::task::spawn_blocking(probe).await.unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    builder.append_data(&mut header, "probe", program.as_slice()).unwrap();
    let (repo, tag) = image.rsplit_once(':').unwrap();
    let changes = changes.iter().map(|change| (*change).to_owned()).collect();
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(repo).tag(tag).changes(changes).build();
    let body = bollard::body_full(builder.into_inner().unwrap().into());
    api.create_image(Some(options), Some(body), None).try_collect::<Vec<_>>().await.unwrap();
    Imported(image)
}

async fn remove_image(image: &str) {
    let api = Docker::connect_with_defaults().unwrap().negotiate_version().await.unwrap();
    let made = HashMap::from([("ancestor".to_owned(), vec![image.to_owned()])]);
    let all = ListContainersOptionsBuilder::new().all(true).filters(&made).build();
    for container in api.list_containers(Some(all)).await.unwrap() {
        let force = RemoveContainerOptionsBuilder::new().force(true).build();
        let _gone_meanwhile = api.remove_container(&container.id.unwrap(), Some(force)).await;
    }
    let options = RemoveImageOptionsBuilder::new().force(true).build();
    match api.remove_image(image, Some(options), None).await {
        // It was never there, or is gone already.
        Ok(_) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {}
        Err(error) => panic!("{image} is left: {error}"),
    }
}

#[tokio::test]
async fn a_container_returns_its_result_from_an_image_with_nothing_else_in_it() {
    let bench = Bench::start().await;
    let lease = bench.rig.grant(bench.task(&["result", "{\"n\": 1}"]));
    let report = bench.rig.fake.report_of(lease).await;
    assert_eq!((report.outcome, report.result), (Outcome::Succeeded, Some(json!({"n": 1}))));
    assert_eq!(bench.rig.fake.book().started, [lease]);

    let mut task = bench.task(&[]);
    task.container.command.clear();
    let own = bench.rig.grant(task);
    assert_eq!(bench.rig.fake.report_of(own).await.result, Some(json!("by itself")));
    bench.end().await;
}

#[tokio::test]
async fn a_container_can_touch_only_what_the_allow_list_says() {
    let bench = Bench::start().await;
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    builder.append_data(&mut header, "empty", &b""[..]).unwrap();
    let tree = bench.rig.fake.store("data.tar", builder.into_inner().unwrap(), None);
    let plain = bench.rig.fake.store("plain", "plain", None);
    for (user, uid) in [(None, "0"), (Some("12345:6789"), "12345")] {
        let mut task = bench.task(&["facts"]);
        task.container.user = user.map(str::to_owned);
        task.artifacts = vec![
            InputArtifact { id: tree.id, name: "data".into(), unpack: true },
            InputArtifact { id: plain.id, name: "plain".into(), unpack: false },
        ];
        let lease = bench.rig.grant(task);
        let report = bench.rig.fake.report_of(lease).await;
        assert_eq!(
            report.result,
            Some(json!({
                "uid": uid, "caps": "0000000000000000", "no_new_privs": "1", "root": false, "tmp": true,
                "bin": false, "input": false, "interfaces": 1, "inputs": ["data", "plain"], "dir_env": "/orca"
            })),
            "{:?}",
            report.outcome
        );
    }
    bench.end().await;
}

#[tokio::test]
async fn a_container_without_a_network_reaches_the_hosts_that_its_task_names() {
    let bench = Bench::start().await;
    let (host, other) = (echo().await.to_string(), echo().await.to_string());
    let by_name = host.replace("127.0.0.1", "localhost");
    let coordinator = bench.rig.fake.url.strip_prefix("http://").unwrap().to_owned();
    let metadata = "169.254.169.254:80".to_owned();
    let tried = [&host, &by_name, &other, &metadata, &coordinator].map(String::as_str);
    let named = [host.clone(), by_name.clone(), metadata.clone(), coordinator.clone()];
    let arguments: Vec<&str> = std::iter::once("egress").chain(tried).collect();
    for user in [None, Some("12345:6789")] {
        let mut task = naming(bench.task(&arguments), &named);
        task.container.user = user.map(str::to_owned);
        let lease = bench.rig.grant(task);
        let report = bench.rig.fake.report_of(lease).await;
        let expected = json!([
            ["no way", "hello"],
            ["no way", "hello"],
            ["no way", "403"],
            ["no way", "403"],
            ["no way", "403"]
        ]);
        assert_eq!(report.result, Some(expected), "{:?}", report.outcome);
        let book = bench.rig.fake.book();
        let told: Vec<&str> = book.logs[&lease].iter().map(|line| line.text.as_str()).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        for (line, refused) in told.iter().zip([&other, &metadata, &coordinator]) {
            assert!(line.starts_with(&format!("egress: {refused} ")), "{line}");
        }
    }
    bench.end().await;
}

#[tokio::test]
async fn each_way_to_end_is_told_from_the_others() {
    let bench = Bench::start().await;
    let failed = bench.outcome(bench.task(&["exit", "7"])).await;
    assert!(matches!(failed, Outcome::Failed { exit_code: 7, .. }), "{failed:?}");
    assert_eq!(bench.outcome(bench.task(&["abort"])).await, Outcome::Killed { signal: 6 });
    assert_eq!(bench.outcome(bench.task(&["bomb"])).await, Outcome::OutOfMemory);
    let mut slow = bench.task(&["sleep", "60"]);
    slow.timeouts.start_to_close = Span::millis(300);
    assert_eq!(bench.outcome(slow).await, Outcome::TimedOut { which: Timeout::StartToClose });
    let absent = bench.outcome(bench.task(&[])).await;
    assert!(matches!(absent, Outcome::Failed { .. }), "{absent:?}");
    bench.end().await;
}

#[tokio::test]
async fn each_limit_is_the_one_that_the_task_names_and_has_a_default() {
    let bench = Bench::start().await;
    let usual = bench.rig.grant(bench.task(&["limits"]));
    let mut task = bench.task(&["limits"]);
    task.resources.open_files = 100;
    task.resources.shm = Bytes::mib(2);
    task.resources.tmp = Bytes::mib(8);
    let other = bench.rig.grant(task);
    let mut few = bench.task(&["threads"]);
    few.resources.pids = 32;
    let few = bench.rig.grant(few);
    assert_eq!(
        bench.rig.fake.report_of(usual).await.result,
        Some(json!({ "files": 16_384, "shm": "65536k", "tmp": "65536k", "seccomp": "2" }))
    );
    assert_eq!(
        bench.rig.fake.report_of(other).await.result,
        Some(json!({ "files": 100, "shm": "2048k", "tmp": "8192k", "seccomp": "2" }))
    );
    let threads = bench.rig.fake.report_of(few).await.result.unwrap().as_u64().unwrap();
    assert!((8..32).contains(&threads), "{threads}");
    bench.end().await;
}

#[tokio::test]
async fn gpus_that_a_node_does_not_offer_are_rejected_and_those_that_its_engine_cannot_give_are_its_fault() {
    let bench = Bench::with(Duration::from_secs(30), |settings| settings.placement.gpus = 1).await;
    let labels = bench.rig.fake.book().registrations[0].labels.clone();
    assert_eq!(labels.get("gpus.1").map(String::as_str), Some("true"));
    let mut task = bench.task(&["result", "1"]);
    task.resources.gpus = 2;
    let two = bench.outcome(task.clone()).await;
    assert!(matches!(&two, Outcome::Rejected { reason } if reason.contains("--gpus")), "{two:?}");
    // It has the device or it has not; nobody else is told that it is theirs.
    task.resources.gpus = 1;
    let one = bench.outcome(task).await;
    assert!(matches!(one, Outcome::Succeeded | Outcome::RuntimeError { .. }), "{one:?}");
    bench.end().await;
}

#[tokio::test]
async fn running_out_of_memory_is_told_by_the_kernels_count_and_not_by_137() {
    let bench = Bench::start().await;
    let by_memory = |outcome: &Outcome, code: i32| {
        matches!(outcome, Outcome::Failed { exit_code, reason: Some(reason) }
            if *exit_code == code && reason.contains("memory"))
    };
    let leases = [
        // Nobody killed anything.
        bench.task(&["exit", "137"]),
        // The program lives on after one of its processes was killed for memory.
        bench.task(&["outlive", "0", "result", "1"]),
        bench.task(&["outlive", "0", "exit", "3"]),
        // As a shell says that what it ran was killed.
        bench.task(&["outlive", "0", "exit", "137"]),
        // The same word, long after.
        bench.task(&["outlive", "7", "exit", "137"]),
    ]
    .map(|task| bench.rig.grant(task));
    let mut outcomes = Vec::new();
    for lease in leases {
        outcomes.push(bench.rig.fake.report_of(lease).await.outcome);
    }
    assert_eq!(outcomes[0], Outcome::Failed { exit_code: 137, reason: None });
    assert_eq!(outcomes[1], Outcome::Succeeded);
    assert!(by_memory(&outcomes[2], 3), "{:?}", outcomes[2]);
    assert_eq!(outcomes[3], Outcome::OutOfMemory);
    assert!(by_memory(&outcomes[4], 137), "{:?}", outcomes[4]);
    bench.end().await;
}

#[tokio::test]
async fn who_is_killed_from_outside_did_not_run_out_of_memory_though_a_process_of_it_had() {
    let bench = Bench::start().await;
    let container = bench.rig.grant(bench.task(&["outlive", "0", "sleep", "60"]));
    let program = bench.rig.grant(bench.task(&["outlive", "6", "sleep", "60"]));
    for lease in [container, program] {
        bench.rig.said(lease, "outlived").await;
    }
    let kill = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
    bench.api.kill_container(&Bench::name(container), Some(kill)).await.unwrap();
    assert_eq!(bench.rig.fake.report_of(container).await.outcome, Outcome::Killed { signal: 9 });

    let processes = bench.api.top_processes(&Bench::name(program), None).await.unwrap();
    let (titles, rows) = (processes.titles.unwrap(), processes.processes.unwrap());
    let column = titles.iter().position(|title| title == "PID").unwrap();
    let row = rows.iter().find(|row| row.iter().any(|cell| cell.contains("outlive"))).unwrap();
    let killed = Command::new("kill").args(["-KILL", &row[column]]).status().unwrap();
    assert!(killed.success());
    assert_eq!(bench.rig.fake.report_of(program).await.outcome, Outcome::Killed { signal: 9 });
    bench.end().await;
}

#[tokio::test]
async fn what_cannot_run_anywhere_is_rejected() {
    let bench = Bench::start().await;
    let mut absent = bench.task(&["result", "1"]);
    absent.container.image = "orca-node-test-absent:1".into();
    let mut nobody = bench.task(&["result", "1"]);
    nobody.container.user = Some("nobody-here".into());
    let mut network = bench.task(&["result", "1"]);
    network.network = Network::Open;
    for task in [absent, nobody, network] {
        let outcome = bench.outcome(task.clone()).await;
        assert!(matches!(outcome, Outcome::Rejected { .. }), "{:?}: {outcome:?}", task.container);
    }
    let bare = import(&bench.api, &[]).await;
    let mut nothing = bench.task(&[]);
    nothing.container.command.clear();
    nothing.container.image.clone_from(&bare.0);
    let outcome = bench.outcome(nothing).await;
    assert!(matches!(outcome, Outcome::Rejected { .. }), "{outcome:?}");
    bench.end().await;
}

#[tokio::test]
async fn a_cancelled_container_is_gone_when_the_cancel_is_reported() {
    let bench = Bench::start().await;
    let lease = bench.rig.grant(bench.task(&["sleep", "60"]));
    bench.rig.said(lease, "ready").await;
    bench.rig.fake.change(|book| book.cancel.push(lease));
    assert_eq!(bench.rig.fake.report_of(lease).await.outcome, Outcome::Cancelled);
    assert!(bench.containers().await.is_empty());
    bench.end().await;
}

#[tokio::test]
async fn a_container_that_somebody_kills_or_removes_is_not_a_success_or_a_failure_of_the_task() {
    let bench = Bench::start().await;
    let killed = bench.rig.grant(bench.task(&["sleep", "60"]));
    let removed = bench.rig.grant(bench.task(&["sleep", "60"]));
    for lease in [killed, removed] {
        bench.rig.said(lease, "ready").await;
    }
    let kill = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
    bench.api.kill_container(&Bench::name(killed), Some(kill)).await.unwrap();
    assert_eq!(bench.rig.fake.report_of(killed).await.outcome, Outcome::Killed { signal: 9 });
    let force = RemoveContainerOptionsBuilder::new().force(true).build();
    bench.api.remove_container(&Bench::name(removed), Some(force)).await.unwrap();
    let outcome = bench.rig.fake.report_of(removed).await.outcome;
    assert!(matches!(outcome, Outcome::Killed { signal: 9 } | Outcome::RuntimeError { .. }), "{outcome:?}");
    bench.end().await;
}

#[tokio::test]
async fn a_lost_lease_removes_the_container_and_reports_nothing() {
    let bench = Bench::start().await;
    let lease = bench.rig.grant(bench.task(&["sleep", "60"]));
    bench.rig.said(lease, "ready").await;
    bench.rig.fake.change(|book| book.lost.push(lease));
    let gone = async {
        while !bench.containers().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
    assert!(bench.rig.fake.book().reports.is_empty());
    bench.end().await;
}

#[tokio::test]
async fn what_an_earlier_run_left_is_swept_at_the_start() {
    let bench = Bench::start().await;
    let id = std::fs::read_to_string(bench.rig.state.path().join("id")).unwrap();
    bench.rig.shutdown.cancel();
    bench.rig.ended().await.unwrap();
    let body = ContainerCreateBody {
        image: Some(bench.image.0.clone()),
        labels: Some(HashMap::from([("orca.state".into(), id)])),
        ..ContainerCreateBody::default()
    };
    let name = format!("orca-left-{}", Uuid::now_v7());
    let options = CreateContainerOptionsBuilder::new().name(&name).build();
    bench.api.create_container(Some(options), body).await.unwrap();
    std::fs::create_dir_all(bench.rig.state.path().join("attempts/left/deep")).unwrap();

    let shutdown = tokio_util::sync::CancellationToken::new();
    let settings = crate::rig::settings(&bench.rig.fake, bench.rig.state.path(), RuntimeKind::Docker);
    let second = tokio::spawn(orca_node::run(settings, shutdown.clone()));
    bench
        .rig
        .fake
        .until("the second registration", |book| (book.registrations.len() > 1).then_some(()))
        .await;
    assert!(bench.containers().await.is_empty() && bench.rig.no_files());
    shutdown.cancel();
    second.await.unwrap().unwrap();
    bench.end().await;
}
