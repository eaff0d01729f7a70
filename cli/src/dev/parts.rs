//! The parts that run in this process: one coordinator, one planner node, one worker node.

use std::collections::BTreeMap;
use std::time::Duration;

use orca_coordinator::StartError;
use orca_node::{
    Capacity, CoordinatorSettings, EgressSettings, ImageSettings, NodeError, NodeSettings, PlacementSettings,
    RuntimeKind, RuntimeSettings, Secret,
};
use orca_proto::client::Client;
use orca_proto::node::NodeState;
use orca_proto::spec::Role;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::credentials::Credentials;
use super::data_dir::DataDir;
use super::{DevArgs, Runtime};
use crate::error::{Exit, Failure};

/// How long the parts may take until everything is up.
const UP: Duration = Duration::from_secs(60);
/// How long running tasks may go on after Ctrl-C before they are given back to the queue.
const DRAIN: Duration = Duration::from_secs(10);
/// What a drained node may take on top, to remove its containers and say goodbye.
const NODE_END: Duration = Duration::from_secs(45);
/// How long the coordinator may take to answer what it has begun.
const COORDINATOR_END: Duration = Duration::from_secs(20);
/// Between two looks at whether everything is up.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes of input artifacts that a node keeps.
const CACHE: u64 = 10 << 30;
/// Bytes that must be free for the nodes to take work.
const MIN_DISK: u64 = 256 << 20;

/// The running parts.
pub(super) struct Parts {
    running: JoinSet<(&'static str, Result<(), String>)>,
    nodes: CancellationToken,
    hurry: CancellationToken,
    coordinator: CancellationToken,
}

impl Parts {
    /// Starts all three.
    pub(super) fn start(
        args: &DevArgs,
        data: &DataDir,
        credentials: &Credentials,
        database_url: &str,
        listener: TcpListener,
        url: &str,
        runtime: Runtime,
    ) -> Self {
        let mut parts = Self {
            running: JoinSet::new(),
            nodes: CancellationToken::new(),
            hurry: CancellationToken::new(),
            coordinator: CancellationToken::new(),
        };
        let mut settings =
            orca_coordinator::Settings::new(database_url, data.coordinator(), credentials.key_file.clone());
        settings.secrets.key_file = Some(credentials.secrets_key_file.clone());
        let shutdown = parts.coordinator.clone();
        parts.running.spawn(async move {
            let ended: Result<(), StartError> =
                Box::pin(orca_coordinator::run(settings, listener, shutdown)).await;
            ("the coordinator", ended.map_err(|error| told(&error)))
        });
        for (name, role, token) in [
            ("the planner node", Role::Plan, &credentials.planner),
            ("the worker node", Role::Work, &credentials.worker),
        ] {
            let settings = NodeSettings {
                hurry: parts.hurry.clone(),
                ..node_settings(args, data, role, token, url, runtime)
            };
            let shutdown = parts.nodes.clone();
            parts.running.spawn(async move {
                let ended: Result<(), NodeError> = Box::pin(orca_node::run(settings, shutdown)).await;
                (name, ended.map_err(|error| told(&error)))
            });
        }
        parts
    }

    /// Resolves when the coordinator answers and both nodes take work.
    ///
    /// # Errors
    /// A [`Failure`] if a part ends, or time is up.
    pub(super) async fn up(&mut self, client: &Client) -> Result<(), Failure> {
        let up = async {
            loop {
                // Only nodes of this run were heard of since its start: an earlier run's are gone or replaced.
                if client.ready().await.is_ok()
                    && let Ok(nodes) = client.nodes().await
                    && nodes.items.iter().filter(|node| node.state == NodeState::Ready).count() >= 2
                {
                    return;
                }
                sleep(LOOK).await;
            }
        };
        tokio::select! {
            failure = self.ended() => Err(failure),
            up = timeout(UP, up) => up.map_err(|_| {
                Failure::new(Exit::Other, "not everything came up within a minute")
                    .hint("`orca dev -v` tells what the parts say")
            }),
        }
    }

    /// Resolves when a part ends that nobody asked to; says which and why.
    pub(super) async fn ended(&mut self) -> Failure {
        match self.running.join_next().await {
            Some(Ok((name, Err(why)))) => Failure::new(Exit::Other, format!("{name} stopped")).because(why),
            Some(Ok((name, Ok(())))) => Failure::new(Exit::Other, format!("{name} stopped")),
            Some(Err(error)) => Failure::new(Exit::Other, "a part of Orca broke").because(error.to_string()),
            None => std::future::pending().await,
        }
    }

    /// Stops everything: nodes first, so that they can give back what they hold. `hurry` cuts the nodes short.
    pub(super) async fn stop(mut self, hurry: impl Future<Output = ()>) {
        let began = Instant::now();
        self.nodes.cancel();
        let drained = async {
            // The coordinator does not end before it is told to.
            while self.running.len() > 1 && self.running.join_next().await.is_some() {}
        };
        let cut_short = self.hurry.clone();
        let hurried = async {
            hurry.await;
            tracing::warn!("stopping at once; what still runs is cut off and will run again");
            cut_short.cancel();
            std::future::pending::<()>().await;
        };
        let in_time = tokio::select! {
            () = drained => true,
            () = hurried => true,
            () = sleep(DRAIN + NODE_END) => false,
        };
        if !in_time {
            tracing::warn!("the nodes took too long to drain; what they hold will run again");
            self.running.abort_all();
        }
        tracing::debug!(elapsed_ms = began.elapsed().as_millis(), "nodes are down");
        self.coordinator.cancel();
        let ended = async { while self.running.join_next().await.is_some() {} };
        if timeout(COORDINATOR_END, ended).await.is_err() {
            self.running.abort_all();
        }
    }
}

fn node_settings(
    args: &DevArgs,
    data: &DataDir,
    role: Role,
    token: &str,
    url: &str,
    runtime: Runtime,
) -> NodeSettings {
    let name = match role {
        Role::Plan => "planner",
        Role::Work => "worker",
    };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let slots = args.slots.unwrap_or_else(|| u32::try_from(processors * 2).unwrap_or(u32::MAX));
    NodeSettings {
        role,
        coordinator: CoordinatorSettings { url: url.to_owned(), token: Secret::new(token) },
        placement: PlacementSettings {
            name: format!("dev-{name}"),
            slots,
            queues: Vec::new(),
            labels: BTreeMap::new(),
            gpus: 0,
            // What nobody enforces need not be counted.
            capacity: match runtime {
                Runtime::Docker => Some(Capacity::of_this_machine()),
                Runtime::Process => None,
            },
        },
        runtime: RuntimeSettings {
            kind: match runtime {
                Runtime::Docker => RuntimeKind::Docker,
                Runtime::Process => RuntimeKind::Process,
            },
            docker_host: args.docker_host().map(ToOwned::to_owned),
            agent: args.agent.clone(),
            allow_network: args.allow_network,
            cache_bytes: CACHE,
            min_disk: MIN_DISK,
        },
        egress: EgressSettings { forbidden: args.no_egress, allow: args.egress_allow.clone() },
        images: ImageSettings::default(),
        state_dir: data.path().join(name),
        drain_timeout: DRAIN,
        hurry: CancellationToken::new(),
        hand_over: CancellationToken::new(),
    }
}

/// An error with everything that caused it, where that says more.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
