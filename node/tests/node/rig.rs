//! A fake coordinator with one real node that works for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orca_node::{
    CoordinatorSettings, EgressSettings, ImageSettings, NodeError, NodeSettings, PlacementSettings,
    RuntimeKind, RuntimeSettings, Secret,
};
use orca_proto::duration::Span;
use orca_proto::ids::{FencingToken, TaskId};
use orca_proto::node::{Grant, LeaseRef};
use orca_proto::spec::{NewTask, Role};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fake::Fake;

/// A node and its coordinator.
pub(crate) struct Rig {
    pub(crate) fake: Fake,
    pub(crate) shutdown: CancellationToken,
    pub(crate) state: TempDir,
    node: JoinHandle<Result<(), NodeError>>,
    settings: NodeSettings,
}

/// A daemon on threads of its own, so that it can end like a process: with all that it was doing.
pub(crate) struct Daemon {
    threads: Option<tokio::runtime::Runtime>,
    node: JoinHandle<Result<(), NodeError>>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) hand_over: CancellationToken,
}

impl Daemon {
    /// Stops it in the middle of whatever it does.
    pub(crate) async fn kill(mut self) {
        let threads = self.threads.take().unwrap();
        tokio::task::spawn_blocking(move || threads.shutdown_timeout(Duration::from_secs(10))).await.unwrap();
        let _cut_off = (&mut self.node).await;
    }

    /// Waits until it went by itself.
    pub(crate) async fn ended(mut self) -> Result<(), NodeError> {
        let ended = tokio::time::timeout(Duration::from_secs(60), &mut self.node).await;
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
        ended.expect("the node does not end").unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// The real agent.
pub(crate) fn agent() -> PathBuf {
    let path = std::env::var_os("ORCA_AGENT_BINARY").map(PathBuf::from);
    path.expect("ORCA_AGENT_BINARY must name the static agent; `cargo xtask test` builds it and sets this")
}

pub(crate) fn settings(fake: &Fake, state: &Path, kind: RuntimeKind) -> NodeSettings {
    NodeSettings {
        role: Role::Work,
        coordinator: CoordinatorSettings { url: fake.url.clone(), token: Secret::new("test") },
        placement: PlacementSettings {
            name: "test".into(),
            slots: 4,
            queues: Vec::new(),
            labels: BTreeMap::new(),
            gpus: 0,
            capacity: None,
        },
        runtime: RuntimeSettings {
            kind,
            docker_host: None,
            agent: Some(agent()),
            allow_network: false,
            cache_bytes: 1 << 30,
            min_disk: 0,
        },
        egress: EgressSettings::default(),
        images: ImageSettings::default(),
        state_dir: state.to_path_buf(),
        drain_timeout: Duration::from_secs(30),
        hurry: CancellationToken::new(),
        hand_over: CancellationToken::new(),
    }
}

impl Rig {
    pub(crate) async fn start(kind: RuntimeKind) -> Self {
        Self::with(kind, Duration::from_secs(30), |_| {}).await
    }

    pub(crate) async fn with(
        kind: RuntimeKind,
        lease: Duration,
        change: impl FnOnce(&mut NodeSettings),
    ) -> Self {
        let fake = Fake::start(lease).await;
        let state = tempfile::tempdir().unwrap();
        let mut settings = settings(&fake, state.path(), kind);
        change(&mut settings);
        let shutdown = CancellationToken::new();
        let node = tokio::spawn(orca_node::run(settings.clone(), shutdown.clone()));
        let rig = Self { fake, shutdown, state, node, settings };
        rig.fake.until("the registration", |book| book.registrations.first().map(drop)).await;
        rig
    }

    /// Ends the rig's first daemon, and starts others with the same state directory in its place.
    pub(crate) async fn replaced(&self) -> Daemon {
        self.shutdown.cancel();
        self.ended().await.unwrap();
        self.daemon().await
    }

    /// One more daemon with the same settings, once it is registered.
    pub(crate) async fn daemon(&self) -> Daemon {
        let before = self.fake.book().registrations.len();
        let (shutdown, hand_over) = (CancellationToken::new(), CancellationToken::new());
        let settings = NodeSettings { hand_over: hand_over.clone(), ..self.settings.clone() };
        let threads =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let node = threads.spawn(orca_node::run(settings, shutdown.clone()));
        self.fake
            .until("another registration", |book| (book.registrations.len() > before).then_some(()))
            .await;
        Daemon { threads: Some(threads), node, shutdown, hand_over }
    }

    /// Grants one attempt of `spec`.
    pub(crate) fn grant(&self, spec: NewTask) -> LeaseRef {
        self.grant_with(spec, |_| {})
    }

    pub(crate) fn grant_with(&self, spec: NewTask, change: impl FnOnce(&mut Grant)) -> LeaseRef {
        let lease = LeaseRef { task: TaskId::new(), token: FencingToken(1) };
        let mut grant = Grant {
            task: lease.task,
            token: lease.token,
            attempt: 1,
            max_attempts: 3,
            lease: Span::from(self.fake.lease),
            step: None,
            parent: None,
            has_dependencies: false,
            deadline_in: None,
            spec,
        };
        change(&mut grant);
        self.fake.change(|book| book.queue.push_back(grant));
        lease
    }

    /// Waits until the attempt wrote a line that contains `text`.
    pub(crate) async fn said(&self, lease: LeaseRef, text: &str) {
        let found = |book: &mut crate::fake::Book| {
            book.logs.get(&lease)?.iter().find(|line| line.text.contains(text)).map(drop)
        };
        self.fake.until(text, found).await;
    }

    /// Tells the node to go, and waits until it went.
    pub(crate) async fn stop(self) -> Result<(), NodeError> {
        self.shutdown.cancel();
        let ended = self.ended().await;
        assert!(self.no_files(), "an attempt left files");
        ended
    }

    /// Waits until the node went by itself.
    pub(crate) async fn ended(&self) -> Result<(), NodeError> {
        let finished = async {
            while !self.node.is_finished() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), finished).await.expect("the node does not end");
        Ok(())
    }

    /// Waits until the node went by itself, and answers how.
    pub(crate) async fn outcome(self) -> Result<(), NodeError> {
        self.ended().await?;
        self.node.await.unwrap()
    }

    /// Whether nothing of any attempt is left on disk.
    pub(crate) fn no_files(&self) -> bool {
        ["attempts", "intents"].iter().all(|name| {
            std::fs::read_dir(self.state.path().join(name)).is_ok_and(|mut dir| dir.next().is_none())
        })
    }
}

/// A task that runs `script` by a shell.
pub(crate) fn shell(script: &str) -> NewTask {
    let mut task = NewTask::new("debian:bookworm-slim");
    task.container.command = vec!["/bin/sh".into(), "-c".into(), script.into()];
    task.timeouts.grace = Span::secs(2);
    task
}
