//! Granting work: at once where there is some, else as soon as there is.

use std::sync::Arc;
use std::time::Duration;

use orca_proto::duration::Span;
use orca_proto::ids::{FencingToken, NodeId, TaskId};
use orca_proto::limits;
use orca_proto::node::{ClaimRequest, Claimed, Grant};
use orca_proto::problem::Kind;
use orca_proto::spec::Role;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::check::Check;
use super::lines::millicpus;
use super::node::{check_owner, role_of};
use super::signals::{Waiter, Wanting};
use super::transaction::statement;
use super::{App, Error, Principal};
use crate::db::apply::role_word;
use crate::db::rules::{self, Rules};
use crate::db::{corrupt, node, queue, word};
use crate::dispatch::{Asker, Capacity, Fleet, Moment, choose};

/// The longest that a claim is held.
const HOLD: Duration = Duration::from_secs(60);
/// The most queues that a claim may name.
const QUEUES: usize = 64;
/// The most processor cores that a node may say it has.
const CPUS: f64 = 1e6;
/// Lanes that one claim takes of.
const LANES: usize = 64;
/// How often a claim looks again when what it chose was gone.
const LOOKS: usize = 3;
/// Before a claim that was refused what it chose looks again.
const REFUSED: Duration = Duration::from_secs(1);

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
        // Boxed, as is the look: thousands of claims wait, and what only working takes room for must not be kept meanwhile.
        let asker = Arc::new(Box::pin(self.asker(who, node, role, &request)).await?);
        let waiter = self.0.signals.join(Arc::clone(&asker));
        let _here = self.0.presence.hold(node);
        loop {
            waiter.take();
            let (grants, refused) = Box::pin(self.look(node, &asker, &request, &waiter)).await?;
            if !grants.is_empty() {
                return Ok(Claimed { grants });
            }
            // What it was refused it would be refused again at once: others are woken instead of it for a while.
            let until = if refused {
                waiter.pass();
                deadline.min(Instant::now() + REFUSED)
            } else {
                deadline
            };
            tokio::select! {
                () = waiter.woken() => {}
                () = tokio::time::sleep_until(until) => if until >= deadline { return Ok(Claimed { grants }) },
                () = self.0.shutdown.cancelled() => return Ok(Claimed { grants }),
            }
        }
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
        };
        Ok(Wanting { namespace: who.namespace.clone(), role, node })
    }

    /// Chooses from what is thought to wait, and takes it, as long as there seems to be something. Answers also whether there
    /// was something to the last that the database refused: the node has no slots left, or a limit is not known here yet.
    async fn look(
        &self,
        node: NodeId,
        asker: &Arc<Wanting>,
        request: &ClaimRequest,
        waiter: &Waiter<'_>,
    ) -> Result<(Vec<Grant<Box<RawValue>>>, bool), Error> {
        let mut refused = false;
        for _ in 0..LOOKS {
            let look = self.0.lines.look(&asker.namespace, asker.role);
            if look.lines.is_empty() {
                return Ok((Vec::new(), false));
            }
            let known = self.rules(&asker.namespace).await?;
            let fleet = match look.lines.iter().any(|line| !line.lane.prefers.is_empty()) {
                true => self.fleet(&asker.namespace, asker.role).await?,
                false => Arc::default(),
            };
            let now_us = self.0.clock.now_us();
            let moment = Moment { settings: &known.settings, usage: &known.usage, fleet: &fleet, now_us };
            let mut picks = self.0.lines.with_fairness(&asker.namespace, asker.role, |fairness| {
                choose(fairness, &asker.node, &look.lines, &moment)
            });
            if picks.is_empty() {
                return Ok((Vec::new(), false));
            }
            picks.truncate(LANES);
            let lanes: Vec<i32> = picks.iter().map(|pick| pick.lane).collect();
            let wants: Vec<i32> =
                picks.iter().map(|pick| i32::try_from(pick.most).unwrap_or(i32::MAX)).collect();
            let most = i32::try_from(request.slots).unwrap_or(i32::MAX);
            let (app, instance) = (self.clone(), request.instance);
            let (granted, left) = self
                .spawned(async move {
                    statement!(app, |connection| {
                        queue::claim(connection, (node, instance), &lanes, &wants, most, app.0.lease).await
                    })
                })
                .await?;
            self.0.lines.left(&look, &left);
            // There may be more than fits here, and others who wait for it.
            for lane in left.iter().filter(|lane| lane.since.is_some()) {
                if let Some(key) = self.0.lines.key(lane.lane) {
                    self.0.signals.wake_other_claim(&key, waiter);
                }
            }
            refused = left.iter().any(|lane| lane.since.is_some());
            if !granted.is_empty() {
                self.0.signals.pulse.notify_one();
                let grants: Result<_, Error> =
                    granted.into_iter().map(|granted| grant(granted, self.0.lease)).collect();
                return Ok((grants?, false));
            }
        }
        Ok((Vec::new(), refused))
    }

    /// What is set for a namespace, and in use of it where that is bounded.
    pub(crate) async fn rules(&self, namespace: &str) -> Result<Arc<Rules>, Error> {
        let known = match self.0.lines.settings(namespace) {
            Some(known) => known,
            None => {
                let mut connection = self.0.pool.acquire().await?;
                let known = Arc::new(rules::load(&mut connection, namespace).await?);
                self.0.lines.keep_settings(namespace, Arc::clone(&known));
                known
            }
        };
        if !known.settings.is_bounded() {
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
