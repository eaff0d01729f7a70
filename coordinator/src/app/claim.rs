//! Granting work: at once where there is some, else as soon as there is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use orca_proto::duration::Span;
use orca_proto::ids::{FencingToken, InstanceId, NodeId, TaskId};
use orca_proto::limits;
use orca_proto::node::{ClaimRequest, Claimed, Grant};
use orca_proto::problem::Kind;
use orca_proto::spec::Role;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::check::Check;
use super::lane::millicpus;
use super::node::{check_owner, role_of};
use super::transaction::statement;
use super::waiting::{Waiter, Wanting};
use super::{App, Error, Principal};
use crate::db::apply::role_word;
use crate::db::node::Service;
use crate::db::rules::{self, Rules};
use crate::db::{corrupt, node, queue, word};
use crate::dispatch::{Asker, Capacity, Fleet, Flow, LaneKey, Line, Moment, Pick, again_in, choose};
use crate::sabotage::{Guard, without};

/// The longest that a claim is held.
const HOLD: Duration = Duration::from_secs(60);
/// The most queues that a claim may name.
const QUEUES: usize = 64;
/// The most processor cores that a node may say it has.
const CPUS: f64 = 1e6;
/// How often a claim looks again when what it chose was gone.
const LOOKS: usize = 3;

/// When a claim that was refused what it chose looks again: the node's slots are all lent, and who knows until when.
const REFUSED: Duration = Duration::from_secs(1);
/// How often a held claim of a cordoned node looks whether it still is.
const CORDONED: Duration = Duration::from_secs(1);
/// The longest that a claim waits for a rate by itself.
const SOON: Duration = Duration::from_secs(1);
/// The shortest.
const SHORTEST: Duration = Duration::from_millis(2);
/// When a claim looks again where by this machine's clock a task may begin, and by the database's not yet.
const SKEW: Duration = Duration::from_millis(50);

/// What a look brought.
#[derive(Default)]
struct Found {
    grants: Vec<Grant<Box<RawValue>>>,
    /// When there may be more, as far as that is known.
    again_in: Option<Duration>,
    /// There was something that the database refused: the node has no slots left, or a limit is not known here yet.
    refused: bool,
}

/// Grants whose specs are the text as it was stored.
pub type RawClaimed = Claimed<Box<RawValue>>;

/// That another daemon took over the node's name.
pub(crate) fn superseded() -> Error {
    Error::refused(Kind::Conflict, "another instance registered under this node's name; this one must stop")
}

impl App {
    /// Grants as many tasks as asked for and as the node has slots, or waits for some as long as the request says.
    ///
    /// # Errors
    /// `validation`, `not-found`, `forbidden`; `conflict` if another instance took over the node's name.
    pub async fn node_claim(
        &self,
        who: &Principal,
        node: NodeId,
        request: ClaimRequest,
    ) -> Result<RawClaimed, Error> {
        let role = role_of(who)?;
        check_claim(&request)?;
        let deadline = Instant::now() + request.wait.get().min(HOLD);
        // Boxed, as is all that works: thousands of claims wait, and what only working takes room for is not kept meanwhile.
        let asker = Arc::new(self.in_turn(|| Box::pin(self.asker(who, node, role, &request))).await?);
        let waiter = self.0.signals.join(Arc::clone(&asker));
        let _here = self.0.presence.hold(node);
        let nothing = Claimed { grants: Vec::new() };
        let mut held = false;
        loop {
            waiter.take();
            let found = self.in_turn(|| Box::pin(self.look(&waiter, &asker, &request))).await?;
            if !found.grants.is_empty() {
                return Ok(Claimed { grants: found.grants });
            }
            if !held && deadline > Instant::now() {
                // Not when it came, for most are answered at once; but whoever takes no more from now on wakes it.
                match self.in_turn(|| Box::pin(self.service(node))).await? {
                    Service::Takes => held = true,
                    Service::Ending => return Ok(nothing),
                    Service::Paused => {
                        // Nothing is kept for it meanwhile.
                        drop(waiter);
                        self.until_it_takes(node, deadline).await?;
                        return Ok(nothing);
                    }
                }
            }
            let again = Instant::now() + found.again_in.unwrap_or(HOLD);
            let armed = found.again_in.and_then(|_| self.0.signals.arm(&asker.namespace, again));
            let until = if found.refused { deadline.min(Instant::now() + REFUSED) } else { deadline };
            waiter.park();
            let over = tokio::select! {
                () = waiter.woken() => false,
                () = tokio::time::sleep_until(again), if armed.is_some() => {
                    drop(armed);
                    let lanes = self.0.lines.bounded_lanes(&asker.namespace);
                    self.0.signals.wake_any(lanes.iter().map(|(_, lane)| lane.as_ref()));
                    false
                }
                () = tokio::time::sleep_until(until) => until >= deadline,
                () = self.0.shutdown.cancelled() => true,
            };
            if let Some(handed) = waiter.handed().await {
                return claimed(handed, self.0.lease);
            }
            if over || waiter.drained() {
                return Ok(nothing);
            }
        }
    }

    /// Runs what `work` makes as one of a few: where thousands of nodes come at once, most of them wait before they take room.
    async fn in_turn<T, F: Future<Output = Result<T, Error>>>(
        &self,
        work: impl FnOnce() -> F,
    ) -> Result<T, Error> {
        let _turn = self.0.claiming.acquire().await.map_err(|error| Error::Internal(error.to_string()))?;
        work().await
    }

    async fn service(&self, node: NodeId) -> Result<Service, Error> {
        let mut connection = self.0.pool.acquire().await?;
        Ok(node::service(&mut connection, node).await?)
    }

    /// Holds the claim of a node that is cordoned: it would come again at once.
    async fn until_it_takes(&self, node: NodeId, deadline: Instant) -> Result<(), Error> {
        while Instant::now() < deadline && self.service(node).await? == Service::Paused {
            tokio::select! {
                () = tokio::time::sleep_until(deadline.min(Instant::now() + CORDONED)) => {}
                () = self.0.shutdown.cancelled() => return Ok(()),
            }
        }
        Ok(())
    }

    /// The node that asks, if it may.
    async fn asker(
        &self,
        who: &Principal,
        id: NodeId,
        role: Role,
        request: &ClaimRequest,
    ) -> Result<Wanting, Error> {
        let known = {
            let mut connection = self.0.pool.acquire().await?;
            node::get(&mut connection, &who.namespace, id).await?.ok_or_else(Error::not_found)?
        };
        check_owner(who, &known.subject)?;
        if known.instance != request.instance.0 {
            return Err(superseded());
        }
        if known.role != role_word(role) {
            return Err(Error::refused(Kind::Forbidden, "the node was registered with another role"));
        }
        // Hardly ever: a node names the same queues all its life.
        if known.queues != request.queues {
            let (app, queues) = (self.clone(), request.queues.clone());
            self.spawned(async move {
                let mut connection = app.0.pool.acquire().await?;
                Ok(node::serves(&mut connection, id, &queues).await?)
            })
            .await?;
        }
        let node = Asker {
            name: known.name,
            labels: known.labels,
            queues: request.queues.iter().cloned().collect(),
            slots: request.slots,
            free: request
                .free
                .map(|free| Capacity { millicpus: millicpus(free.cpus), memory: free.memory.0 }),
            size: None,
        };
        Ok(Wanting { id, instance: request.instance, namespace: who.namespace.clone(), role, node })
    }

    /// Chooses from what is thought to wait, and takes it, as long as there seems to be something.
    async fn look(
        &self,
        waiter: &Waiter<'_>,
        asker: &Wanting,
        request: &ClaimRequest,
    ) -> Result<Found, Error> {
        let (lines, signals) = (&self.0.lines, &self.0.signals);
        let mut found = Found::default();
        let mut refused: HashMap<i32, Arc<LaneKey>> = HashMap::new();
        let mut looks = 0;
        while looks < LOOKS {
            let mut look = lines.look(&asker.namespace, asker.role);
            look.lines.retain(|line| !refused.contains_key(&line.id));
            if look.lines.is_empty() {
                break;
            }
            let known = self.rules(&asker.namespace).await?;
            let fleet = match look.lines.iter().any(|line| !line.lane.prefers.is_empty()) {
                true => self.fleet(&asker.namespace, asker.role).await?,
                false => Arc::default(),
            };
            let now_us = self.0.clock.now_us();
            let moment = Moment { settings: &known.settings, usage: &known.usage, fleet: &fleet, now_us };
            let picks = lines.with_fairness(&asker.namespace, asker.role, |fairness| {
                choose(fairness, &asker.node, &look.lines, &moment)
            });
            let rated = known.settings.has_rates();
            if rated {
                found.wait(due_in(asker, &look.lines, &moment));
            }
            if picks.is_empty() {
                break;
            }
            let (granted, left) = self.grant((asker.id, request.instance), &picks, request.slots).await?;
            lines.left(&look, &left);
            let more = left.iter().filter(|lane| lane.since.is_some());
            let more: Vec<_> = more.filter_map(|lane| Some((lane.lane, lines.key(lane.lane)?))).collect();
            if granted.is_empty() {
                // A limit that another coordinator's claims have used up, or slots that this node had lent already.
                if rated && !more.is_empty() {
                    found.wait(Some(SKEW));
                }
                let unfinished = left.iter().any(|lane| lane.unfinished);
                if !unfinished {
                    refused.extend(more);
                }
                // Passing over what has ended comes to an end by itself.
                looks += usize::from(!unfinished);
                continue;
            }
            // There may be more than fits here, and others who wait for it.
            waiter.leave();
            more.iter().for_each(|(_, lane)| signals.wake_claim(lane));
            if known.settings.is_bounded() {
                let lanes = lines.bounded_lanes(&asker.namespace);
                signals.wake_any(lanes.iter().map(|(_, lane)| lane.as_ref()));
            }
            signals.pulse.notify_one();
            found.grants = claimed(granted, self.0.lease)?.grants;
            break;
        }
        if looks == LOOKS {
            // Others had what it chose, each time: of what else waits somebody must be told.
            signals.dropped.notify_one();
        }
        found.refused = !refused.is_empty();
        for lane in refused.values() {
            signals.wake_after(lane, waiter);
        }
        Ok(found)
    }

    /// Takes what was chosen, at most `slots` tasks of it.
    async fn grant(
        &self,
        node: (NodeId, InstanceId),
        picks: &[Pick],
        slots: u32,
    ) -> Result<(Vec<queue::Granted>, Vec<queue::Left>), Error> {
        let most = i32::try_from(slots).unwrap_or(i32::MAX);
        let lanes: Vec<i32> = picks.iter().map(|pick| pick.lane).collect();
        let wants: Vec<i32> = picks.iter().map(|pick| i32::try_from(pick.most).unwrap_or(i32::MAX)).collect();
        let app = self.clone();
        self.spawned(async move {
            statement!(app, |connection| {
                queue::claim(connection, node, &lanes, &wants, most, app.0.lease).await
            })
        })
        .await
    }

    /// What is set for a namespace.
    pub(crate) async fn settings(&self, namespace: &str) -> Result<Arc<Rules>, Error> {
        if let Some(known) = self.0.lines.settings(namespace) {
            return Ok(known);
        }
        let changes = self.0.lines.changes();
        let mut connection = self.0.pool.acquire().await?;
        let known = Arc::new(rules::load(&mut connection, namespace).await?);
        self.0.lines.keep_settings(namespace, Arc::clone(&known), changes);
        Ok(known)
    }

    /// What is set for a namespace, and in use of it where that is bounded.
    pub(crate) async fn rules(&self, namespace: &str) -> Result<Arc<Rules>, Error> {
        let known = self.settings(namespace).await?;
        if !known.settings.is_bounded() || without(Guard::QueueLimit) {
            return Ok(known);
        }
        let mut connection = self.0.pool.acquire().await?;
        let mut rules = rules::load(&mut connection, namespace).await?;
        rules::running(&mut connection, namespace, &mut rules.usage).await?;
        Ok(Arc::new(rules))
    }

    async fn fleet(&self, namespace: &str, role: Role) -> Result<Arc<Fleet>, Error> {
        if let Some(fleet) = self.0.lines.fleet(namespace, role) {
            return Ok(fleet);
        }
        let mut connection = self.0.pool.acquire().await?;
        let nodes = node::live(&mut connection, namespace, role_word(role), self.0.lease).await?;
        let fleet = Arc::new(Fleet::new(nodes.iter().map(|node| (&node.labels, &node.queues))));
        self.0.lines.keep_fleet(namespace, role, Arc::clone(&fleet));
        Ok(fleet)
    }
}

/// How long until something that only a rate holds back may begin, where that is soon: all else is looked at each second anyway.
fn due_in(asker: &Wanting, lines: &[Line], moment: &Moment<'_>) -> Option<Duration> {
    let flows: HashSet<&Flow> =
        lines.iter().filter(|line| asker.takes(&line.lane)).map(|line| &line.lane.flow).collect();
    flows.into_iter().filter_map(|flow| again_in(flow, moment)).min()
}

impl Found {
    fn wait(&mut self, again_in: Option<Duration>) {
        let soon = again_in.filter(|wait| *wait < SOON).map(|wait| wait.max(SHORTEST));
        self.again_in = [self.again_in, soon].into_iter().flatten().min();
    }
}

fn claimed(granted: Vec<queue::Granted>, lease: Duration) -> Result<RawClaimed, Error> {
    let grants = granted.into_iter().map(|granted| grant(granted, lease));
    Ok(Claimed { grants: grants.collect::<Result<_, Error>>()? })
}

fn grant(granted: queue::Granted, lease: Duration) -> Result<Grant<Box<RawValue>>, Error> {
    Ok(Grant {
        task: TaskId(granted.id),
        token: FencingToken(granted.token),
        attempt: granted.attempt,
        max_attempts: granted.max_attempts,
        lease: lease.into(),
        step: granted.step.as_deref().map(|step| word(step, "tasks.step")).transpose()?,
        parent: granted.parent.map(TaskId),
        has_dependencies: granted.has_dependencies,
        deadline_in: granted
            .deadline_ms
            .map(|ms| Span::from(Duration::from_millis(u64::try_from(ms).unwrap_or_default()))),
        spec: RawValue::from_string(granted.spec).map_err(|error| corrupt("tasks.spec", error))?,
    })
}

fn check_claim(request: &ClaimRequest) -> Result<(), Error> {
    let mut check = Check::default();
    if !(1..=limits::CLAIM).contains(&request.slots) {
        check.fail("/slots", "must lie between 1 and 1,024");
    }
    if request.wait.get() > HOLD {
        check.fail("/wait", "must be at most 60s");
    }
    if request.free.is_some_and(|free| !(0.0..=CPUS).contains(&free.cpus)) {
        check.fail("/free/cpus", "must lie between 0 and 1,000,000");
    }
    if request.queues.len() > QUEUES {
        check.fail("/queues", "has more than 64 entries");
    }
    for (index, queue) in request.queues.iter().enumerate() {
        check.name(queue, &format!("/queues/{index}"));
    }
    check.done()
}
