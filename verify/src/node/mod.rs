//! The node whose tasks only pretend: it claims, keeps leases and reports as any node does, and does in between what each
//! task's input says, lies included.
//!
//! It never gives up by itself when its lease is over, as a right node would: what a node says that was stopped for too
//! long is the very thing that fencing is for.

mod attempt;
mod behaviour;
mod coordinators;
mod reports;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use orca_proto::duration::Span;
use orca_proto::ids::{InstanceId, NodeId};
use orca_proto::node::{ClaimRequest, Grant, LeaseRef, Registration, RenewRequest};
use orca_proto::problem::Kind;
use orca_proto::spec::Role;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use behaviour::{Behaviour, End};
pub use coordinators::{Coordinators, patiently};

use crate::history::{Answer, Call, Granted, Recorder};
use reports::Reporter;

/// How long a claim is held.
const HOLD: Duration = Duration::from_millis(800);
/// Between two tries after a failure.
const PAUSE: Duration = Duration::from_millis(100);

/// What a node is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSettings {
    /// Its name.
    pub name: String,
    /// The namespace of its token.
    pub namespace: String,
    /// Its token.
    pub token: String,
    /// Its role.
    pub role: Role,
    /// Attempts at once.
    pub slots: u32,
    /// Where the coordinators are reached from here.
    pub coordinators: Vec<String>,
    /// How long a lease lasts, in milliseconds.
    pub lease_ms: u64,
    /// Where it writes what it sees.
    pub history: PathBuf,
    /// Reports go many at a time.
    pub batch_reports: bool,
    /// Who must be refused when it speaks for this node's leases, if somebody tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impostor: Option<String>,
}

/// One run of a node.
pub(crate) struct Node {
    settings: NodeSettings,
    recorder: Recorder,
    coordinators: Coordinators,
    impostor: Option<Coordinators>,
    instance: InstanceId,
    id: Mutex<Option<NodeId>>,
    held: Mutex<HashMap<LeaseRef, Held>>,
    reporter: Reporter,
}

/// A lease that the node holds, or thinks that it does.
#[derive(Clone)]
struct Held {
    cancel: CancellationToken,
    lost: CancellationToken,
    /// Not renewed: its task pretends to hang with its node.
    deaf: bool,
}

/// Runs a node until it is told to stop; then what runs is left to its leases.
///
/// # Errors
/// If its settings cannot be used.
pub async fn run(settings: NodeSettings, recorder: Recorder, shutdown: CancellationToken) -> Result<()> {
    let first = settings.name.len() + settings.name.bytes().map(usize::from).sum::<usize>();
    let coordinators = Coordinators::new(&settings.coordinators, &settings.token, first)?;
    let impostor = settings
        .impostor
        .as_ref()
        .map(|token| Coordinators::new(&settings.coordinators, token, first))
        .transpose()?;
    let (reporter, inbox) = Reporter::new();
    let node = Arc::new(Node {
        settings,
        recorder,
        coordinators,
        impostor,
        instance: InstanceId::new(),
        id: Mutex::new(None),
        held: Mutex::new(HashMap::new()),
        reporter,
    });
    let tracker = TaskTracker::new();
    let work = async {
        node.register().await;
        // Two claims at a time, each for all free slots: the limit is the coordinator's to keep.
        tokio::join!(
            claims(&node, &tracker),
            claims(&node, &tracker),
            renewals(&node),
            reports::send(&node, inbox)
        );
    };
    Box::pin(shutdown.run_until_cancelled(work)).await;
    Ok(())
}

impl Node {
    fn who(&self) -> &str {
        &self.settings.name
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(self.settings.lease_ms)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<LeaseRef, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self) -> Option<NodeId> {
        *self.id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes itself known, until somebody answers.
    async fn register(&self) {
        let registration = Registration {
            name: self.settings.name.clone(),
            instance: self.instance,
            role: self.settings.role,
            slots: self.settings.slots,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime: "pretence".to_owned(),
            labels: Default::default(),
            cpus: None,
            memory: None,
            resumes: Vec::new(),
            home: None,
        };
        loop {
            let call = Call::Register {
                namespace: self.settings.namespace.clone(),
                name: self.settings.name.clone(),
                instance: self.instance,
                slots: self.settings.slots,
            };
            let request = patiently(Duration::ZERO, self.coordinators.current().register(&registration));
            let answer = |known: &orca_proto::node::Registered| Answer::Registered { node: known.id };
            match self.recorder.call(self.who(), call, request, answer).await {
                Ok(known) => {
                    *self.id.lock().unwrap_or_else(PoisonError::into_inner) = Some(known.id);
                    return;
                }
                Err(_) => {
                    self.coordinators.turn();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn claim(&self, id: NodeId, slots: u32) -> Result<Vec<Grant>, orca_proto::client::ClientError> {
        let request = ClaimRequest {
            instance: self.instance,
            slots,
            wait: Span::from(HOLD),
            queues: Vec::new(),
            free: None,
        };
        let call = Call::Claim {
            namespace: self.settings.namespace.clone(),
            node: id,
            instance: self.instance,
            slots,
        };
        let answer = |claimed: &orca_proto::node::Claimed| Answer::Granted {
            grants: claimed.grants.iter().map(granted).collect(),
        };
        let sent = patiently(HOLD, self.coordinators.current().claim(id, &request));
        self.recorder.call(self.who(), call, sent, answer).await.map(|claimed| claimed.grants)
    }
}

fn granted(grant: &Grant) -> Granted {
    Granted {
        task: grant.task,
        token: grant.token,
        attempt: grant.attempt,
        max_attempts: grant.max_attempts,
        ask: grant.spec.labels.get("ask").cloned(),
    }
}

async fn claims(node: &Arc<Node>, tracker: &TaskTracker) {
    loop {
        let busy = u32::try_from(tracker.len()).unwrap_or(u32::MAX);
        let (Some(id), Some(free)) =
            (node.id(), node.settings.slots.checked_sub(busy).filter(|free| *free > 0))
        else {
            tokio::time::sleep(PAUSE / 10).await;
            continue;
        };
        match node.claim(id, free).await {
            Ok(grants) => {
                for grant in grants {
                    let (node, held) = (node.clone(), Held::of(&grant));
                    node.held().insert(lease_of(&grant), held.clone());
                    tracker.spawn(async move { attempt::run(&node, grant, held).await });
                }
            }
            Err(error) => recover(node, &error).await,
        }
    }
}

fn lease_of(grant: &Grant) -> LeaseRef {
    LeaseRef { task: grant.task, token: grant.token }
}

impl Held {
    fn of(grant: &Grant) -> Self {
        let behaviour = attempt::behaviour(grant);
        let deaf = behaviour.end(grant.attempt) == End::Hang;
        Self { cancel: CancellationToken::new(), lost: CancellationToken::new(), deaf }
    }
}

async fn recover(node: &Node, error: &orca_proto::client::ClientError) {
    if error.kind() == Some(Kind::NotFound) {
        node.register().await;
    }
    node.coordinators.turn();
    tokio::time::sleep(PAUSE).await;
}

async fn renewals(node: &Arc<Node>) {
    let wait = node.lease() / 4;
    loop {
        let Some(id) = node.id() else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (leases, cancelling) = {
            let held = node.held();
            let kept = held.iter().filter(|(_, held)| !held.deaf);
            let cancelling = kept.clone().filter(|(_, held)| held.cancel.is_cancelled());
            (
                kept.clone().map(|(lease, _)| *lease).collect::<Vec<_>>(),
                cancelling.map(|(l, _)| *l).collect::<Vec<_>>(),
            )
        };
        let request = RenewRequest {
            instance: node.instance,
            leases: leases.clone(),
            cancelling: cancelling.clone(),
            wait: Span::from(wait),
            draining: false,
            unwell: None,
        };
        let call = Call::Renew { node: id, instance: node.instance, leases, cancelling };
        let answer = |renewed: &orca_proto::node::Renewed| Answer::Renewed {
            lost: renewed.lost.clone(),
            cancel: renewed.cancel.clone(),
        };
        let begun = tokio::time::Instant::now();
        let sent = patiently(wait, node.coordinators.current().renew(id, &request));
        match node.recorder.call(node.who(), call, sent, answer).await {
            Ok(renewed) => {
                let held = node.held();
                for lease in &renewed.cancel {
                    if let Some(held) = held.get(lease) {
                        held.cancel.cancel();
                    }
                }
                for lease in &renewed.lost {
                    if let Some(held) = held.get(lease) {
                        held.lost.cancel();
                    }
                }
            }
            Err(error) => recover(node, &error).await,
        }
        // What was granted meanwhile waits for its first renewal no longer than this.
        tokio::time::sleep_until(begun + wait / 4).await;
    }
}
