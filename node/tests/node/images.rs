//! Images on their way from a registry: how often it is asked, what is shown to it, how its failures end, and what is kept.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bollard::Docker;
use orca_node::{ImageGcSettings, ImageSettings, RuntimeKind};
use orca_proto::duration::Span;
use orca_proto::log::Stream;
use orca_proto::node::LeaseRef;
use orca_proto::quantity::Bytes;
use orca_proto::spec::{NewTask, Pull};
use orca_proto::task::Outcome;
use serde_json::json;

use crate::docker::{Imported, probe};
use crate::registry::Registry;
use crate::rig::Rig;

/// A rig on the real engine, and a registry with one image.
struct Stand {
    rig: Rig,
    registry: Registry,
    api: Docker,
    image: Imported,
    digest: String,
}

impl Stand {
    async fn start(change: impl FnOnce(&mut ImageSettings)) -> Self {
        Self::with(Registry::start().await, change).await
    }

    async fn with(registry: Registry, change: impl FnOnce(&mut ImageSettings)) -> Self {
        let program = tokio::task::spawn_blocking(probe).await.unwrap();
        let name = registry.name();
        let digest = registry.put(&name, &program);
        let rig = Rig::with(RuntimeKind::Docker, Duration::from_secs(30), |settings| {
            settings.placement.slots = 16;
            settings.images.pull.patience = Duration::ZERO;
            change(&mut settings.images);
        })
        .await;
        let api = Docker::connect_with_defaults().unwrap().negotiate_version().await.unwrap();
        Self { rig, registry, api, image: Imported(name), digest }
    }

    fn task(&self, arguments: &[&str]) -> NewTask {
        let mut task = NewTask::new(&self.image.0);
        task.container.command =
            std::iter::once("/probe").chain(arguments.iter().copied()).map(str::to_owned).collect();
        task.resources.memory = Bytes::mib(64);
        task.timeouts.grace = Span::secs(2);
        task
    }

    fn grant(&self) -> LeaseRef {
        self.rig.grant(self.task(&["result", "1"]))
    }

    async fn outcome(&self, lease: LeaseRef) -> Outcome {
        self.rig.fake.report_of(lease).await.outcome
    }

    fn asked(&self) -> usize {
        self.registry.shelf().asked
    }

    async fn is_held(&self) -> bool {
        self.api.inspect_image(&self.image.0).await.is_ok()
    }

    /// The name by which the engine knows it, with its digest.
    fn exactly(&self) -> String {
        format!("{}@{}", self.image.0.trim_end_matches(":1"), self.digest)
    }
}

fn reason(outcome: Outcome) -> String {
    match outcome {
        Outcome::Rejected { reason } => format!("rejected: {reason}"),
        Outcome::RuntimeError { reason } => format!("runtime_error: {reason}"),
        other => panic!("another outcome: {other:?}"),
    }
}

#[tokio::test]
async fn an_image_is_pulled_once_however_many_tasks_want_it_and_each_start_tells_its_digest() {
    let stand = Stand::start(|_| {}).await;
    stand.registry.shelf().delay = Duration::from_millis(500);
    let leases: Vec<_> = (0..10).map(|_| stand.grant()).collect();
    for lease in &leases {
        assert_eq!(stand.outcome(*lease).await, Outcome::Succeeded);
    }
    assert_eq!(stand.asked(), 1);
    {
        let book = stand.rig.fake.book();
        for lease in &leases {
            assert_eq!(book.images[lease], stand.exactly());
        }
        // It came soon, so nothing was said of it.
        assert!(book.logs.is_empty(), "{:?}", book.logs);
    }
    stand.rig.stop().await.unwrap();
}

#[tokio::test]
async fn always_asks_the_registry_each_time_and_never_does_not_ask_it() {
    let mut stand = Stand::start(|_| {}).await;
    let mut never = stand.task(&["result", "1"]);
    never.container.pull = Pull::Never;
    let lease = stand.rig.grant(never.clone());
    assert!(reason(stand.outcome(lease).await).starts_with("rejected: this node does not hold"));
    assert_eq!(stand.asked(), 0);
    let mut always = stand.task(&["result", "1"]);
    always.container.pull = Pull::Always;
    for times in 1..=2 {
        let lease = stand.rig.grant(always.clone());
        assert_eq!(stand.outcome(lease).await, Outcome::Succeeded);
        assert_eq!(stand.asked(), times);
        assert_eq!(stand.rig.fake.book().images[&lease], stand.exactly());
        let program = tokio::task::spawn_blocking(probe).await.unwrap();
        let old = std::mem::replace(&mut stand.digest, stand.registry.put(&stand.image.0, &program));
        assert_ne!(old, stand.digest);
    }
    let lease = stand.rig.grant(never);
    assert_eq!(stand.outcome(lease).await, Outcome::Succeeded);
    assert_eq!(stand.asked(), 2);
    let replaced: Vec<String> = {
        let text = std::fs::read_to_string(stand.rig.state.path().join("images.json")).unwrap();
        let known: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        known.keys().filter(|name| name.starts_with("sha256:")).cloned().collect()
    };
    assert_eq!(replaced.len(), 1);
    let _old = Imported(replaced[0].clone());
    stand.rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_registry_gets_the_credentials_that_are_written_for_it() {
    // These letters become + and / in the plain alphabet of base64, which engines do not read.
    let login = "me:a~b?c>d~~~???>>>";
    let registry = Registry::start().await;
    registry.shelf().wanted = Some(format!("Basic {}", STANDARD.encode(login)));
    let file = tempfile::NamedTempFile::new().unwrap();
    let host = format!("127.0.0.1:{}", registry.port);
    let config = json!({ "auths": { host: { "auth": STANDARD.encode(login) } } });
    std::fs::write(file.path(), config.to_string()).unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let path = file.path().to_path_buf();

    let without = Stand::with(registry.clone(), |_| {}).await;
    let why = reason(without.outcome(without.grant()).await);
    assert!(why.starts_with("rejected: ") && why.contains("(--registry-auth)"), "{why}");
    without.rig.stop().await.unwrap();

    let stand = Stand::with(registry, |images| images.registry_auth = Some(path)).await;
    assert_eq!(stand.outcome(stand.grant()).await, Outcome::Succeeded);
    stand.registry.shelf().wanted = Some("Basic other".into());
    let mut anew = stand.task(&["result", "1"]);
    anew.container.pull = Pull::Always;
    let why = reason(stand.outcome(stand.rig.grant(anew)).await);
    assert!(why.starts_with("rejected: ") && why.contains("showed the registry"), "{why}");
    assert!(!why.contains("a~b"), "{why}");
    stand.rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_registry_that_fails_is_asked_again_with_growing_waits_and_the_log_says_so() {
    let stand = Stand::start(|images| images.pull.patience = Duration::from_secs(30)).await;
    stand.registry.shelf().failures = 2;
    let begun = std::time::Instant::now();
    let lease = stand.rig.grant(stand.task(&["say", "hello"]));
    assert_eq!(stand.outcome(lease).await, Outcome::Succeeded);
    assert!(begun.elapsed() >= Duration::from_secs(3), "1 s and 2 s lie between three tries");
    assert_eq!(stand.asked(), 3);
    let lines = stand.rig.fake.book().logs[&lease].clone();
    let said: Vec<_> = lines.iter().map(|line| (line.stream, line.text.as_str())).collect();
    assert!(
        matches!(
            said.as_slice(),
            [(Stream::System, first), .., (Stream::System, pulled), (Stream::Stdout, "hello")]
                if first.contains("failed, next try in") && pulled.starts_with("pulled ")
        ),
        "{said:?}"
    );
    assert!(lines.iter().map(|line| line.seq).eq(0..lines.len() as i64), "{lines:?}");
    stand.rig.stop().await.unwrap();
}

#[tokio::test]
async fn no_line_of_the_program_is_lost_where_nobody_heard_of_the_pull() {
    let stand = Stand::start(|_| {}).await;
    stand.registry.shelf().delay = Duration::from_secs(4);
    let lease = stand.rig.grant(stand.task(&["say", "hello"]));
    while stand.asked() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stand.rig.fake.change(|book| book.away = true);
    // The first line about the pull is due after 2 s.
    tokio::time::sleep(Duration::from_secs(3)).await;
    stand.rig.fake.change(|book| book.away = false);
    assert_eq!(stand.outcome(lease).await, Outcome::Succeeded);
    let lines = stand.rig.fake.book().logs[&lease].clone();
    let said: Vec<_> = lines.iter().map(|line| (line.seq, line.text.as_str())).collect();
    assert_eq!(said, [(0, "hello")]);
    stand.rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_failure_is_shared_by_all_who_wait_and_by_those_who_come_before_the_next_try() {
    let stand = Stand::start(|_| {}).await;
    stand.registry.shelf().failures = 100;
    let together: Vec<_> = (0..5).map(|_| stand.grant()).collect();
    for lease in together {
        let why = reason(stand.outcome(lease).await);
        assert!(why.starts_with("runtime_error: ") && why.contains("500"), "{why}");
    }
    let asked = stand.asked();
    assert_eq!(asked, 1);
    let late = stand.grant();
    assert!(reason(stand.outcome(late).await).starts_with("runtime_error: "));
    assert_eq!(stand.asked(), asked);
    stand.rig.stop().await.unwrap();
}

#[tokio::test]
async fn however_much_a_registry_says_an_outcome_that_can_be_recorded_is_made_of_it() {
    let stand = Stand::start(|_| {}).await;
    stand.registry.shelf().words = Some("x\u{0}y".repeat(10_000));
    let absent = stand.registry.name();
    let mut task = stand.task(&["result", "1"]);
    task.container.image = absent;
    let why = reason(stand.outcome(stand.rig.grant(task)).await);
    assert!(why.contains("x\u{2400}y") && why.ends_with('…'), "{why}");
    assert!(why.len() < 16 << 10 && !why.contains('\0'), "{} bytes", why.len());
    stand.rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_pull_in_which_nothing_moves_is_broken_off_and_tried_again() {
    let stand = Stand::start(|images| {
        images.pull.idle = Duration::from_secs(1);
        images.pull.patience = Duration::from_secs(30);
    })
    .await;
    stand.registry.shelf().stalls = 1;
    let lease = stand.grant();
    assert_eq!(stand.outcome(lease).await, Outcome::Succeeded);
    assert_eq!(stand.asked(), 2);
    stand.rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_pull_has_an_end_however_slowly_it_moves() {
    let stand = Stand::start(|images| {
        images.pull.total = Duration::from_secs(1);
        images.pull.patience = Duration::from_secs(30);
    })
    .await;
    stand.registry.shelf().stalls = 100;
    let lease = stand.grant();
    let why = reason(stand.outcome(lease).await);
    assert!(why.starts_with("runtime_error: ") && why.contains("--pull-timeout"), "{why}");
    stand.rig.stop().await.unwrap();
}

#[tokio::test]
async fn a_cancel_does_not_wait_for_a_pull() {
    let stand = Stand::start(|_| {}).await;
    stand.registry.shelf().stalls = 100;
    let lease = stand.grant();
    while stand.asked() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stand.rig.fake.change(|book| book.cancel.push(lease));
    assert_eq!(stand.outcome(lease).await, Outcome::Cancelled);
    stand.rig.stop().await.unwrap();
}

#[tokio::test]
async fn what_the_registry_does_not_have_is_rejected_at_once() {
    let stand = Stand::start(|images| images.pull.patience = Duration::from_secs(60)).await;
    let absent = stand.registry.name();
    for _ in 0..2 {
        let mut task = stand.task(&["result", "1"]);
        task.container.image.clone_from(&absent);
        let lease = stand.rig.grant(task);
        let why = reason(stand.outcome(lease).await);
        assert!(why.starts_with("rejected: cannot pull"), "{why}");
    }
    assert_eq!(stand.asked(), 1, "an answer is believed for a moment");
    stand.rig.stop().await.unwrap();
}

#[tokio::test]
async fn an_image_that_is_not_on_the_list_is_rejected_and_nobody_is_asked_for_it() {
    let stand = Stand::start(|images| images.allow = vec!["registry.example.com/team/*".into()]).await;
    let lease = stand.grant();
    let why = reason(stand.outcome(lease).await);
    assert!(why.starts_with("rejected: ") && why.contains("--allow-image"), "{why}");
    assert_eq!(stand.asked(), 0);
    stand.rig.stop().await.unwrap();
    let listed = Stand::start(|images| images.allow = vec!["*".into()]).await;
    let lease = listed.grant();
    assert_eq!(listed.outcome(lease).await, Outcome::Succeeded);
    listed.rig.stop().await.unwrap();
}

#[tokio::test]
async fn an_image_goes_when_nobody_used_it_for_long_but_not_while_a_task_does_nor_one_of_somebody_elses() {
    let stand = Stand::start(|images| {
        images.gc = Some(ImageGcSettings {
            max_age: Duration::ZERO,
            min_free: 0.0,
            every: Duration::from_millis(200),
        });
    })
    .await;
    let program = tokio::task::spawn_blocking(probe).await.unwrap();
    let other = Imported(stand.registry.name());
    stand.registry.put(&other.0, &program);
    let theirs = bollard::query_parameters::CreateImageOptionsBuilder::new().from_image(&other.0).build();
    futures_util::TryStreamExt::try_collect::<Vec<_>>(stand.api.create_image(Some(theirs), None, None))
        .await
        .unwrap();
    let mut task = stand.task(&["result", "1"]);
    task.container.image.clone_from(&other.0);
    let lease = stand.rig.grant(task);
    assert_eq!(stand.outcome(lease).await, Outcome::Succeeded);

    let lease = stand.rig.grant(stand.task(&["sleep", "60"]));
    stand.rig.said(lease, "ready").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(stand.is_held().await, "a running task's image is kept");
    stand.rig.fake.change(|book| book.cancel.push(lease));
    assert_eq!(stand.outcome(lease).await, Outcome::Cancelled);
    let gone = async {
        while stand.is_held().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
    assert!(stand.api.inspect_image(&other.0).await.is_ok(), "what somebody else pulled is kept");

    let again = stand.grant();
    assert_eq!(stand.outcome(again).await, Outcome::Succeeded);
    assert_eq!(stand.rig.fake.report_of(again).await.result, Some(json!(1)));
    stand.rig.stop().await.unwrap();
}

#[tokio::test]
async fn an_image_goes_when_the_disk_is_too_full_and_not_when_it_may_stay() {
    for (min_free, goes) in [(1.0, true), (0.0, false)] {
        let stand = Stand::start(|images| {
            images.gc = Some(ImageGcSettings {
                max_age: Duration::from_secs(3_600),
                min_free,
                every: Duration::from_millis(200),
            });
        })
        .await;
        let lease = stand.grant();
        assert_eq!(stand.outcome(lease).await, Outcome::Succeeded);
        let gone = async {
            while stand.is_held().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let limit = Duration::from_secs(if goes { 30 } else { 3 });
        assert_eq!(tokio::time::timeout(limit, gone).await.is_ok(), goes);
        stand.rig.stop().await.unwrap();
    }
}

#[tokio::test]
async fn an_allow_list_that_is_none_and_credentials_that_others_can_read_stop_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let path = file.path().to_path_buf();
    let fake = crate::fake::Fake::start(Duration::from_secs(30)).await;
    let state = tempfile::tempdir().unwrap();
    let start = async |change: &dyn Fn(&mut ImageSettings)| {
        let mut settings = crate::rig::settings(&fake, state.path(), RuntimeKind::Docker);
        change(&mut settings.images);
        orca_node::run(settings, tokio_util::sync::CancellationToken::new()).await.unwrap_err().to_string()
    };
    let why = start(&|images| images.registry_auth = Some(path.clone())).await;
    assert!(why.starts_with("--registry-auth") && why.contains("chmod 600"), "{why}");
    let why = start(&|images| images.allow = vec!["a b".into()]).await;
    assert!(why.starts_with("--allow-image") && why.contains("a b"), "{why}");
    let why = start(&|images| images.pull.idle = Duration::ZERO).await;
    assert!(why.starts_with("--pull-idle-timeout"), "{why}");
}
