//! Granting work: at once where there is some, else as soon as there is.

use std::time::Duration;

use orca_proto::ids::{FencingToken, NodeId, TaskId};
use orca_proto::limits;
use orca_proto::node::{ClaimRequest, Claimed, Grant};
use orca_proto::problem::Kind;
use tokio::time::Instant;

use super::check::Check;
use super::node::{check_owner, role_of};
use super::signals::Lane;
use super::transaction::transaction;
use super::{App, Error, Principal};
use crate::db::apply::role_word;
use crate::db::{from_json, lease, node, queue, word};

/// The longest that a claim is held.
const HOLD: Duration = Duration::from_secs(60);
/// The most queues that a claim may name.
const QUEUES: usize = 64;

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
    ) -> Result<Claimed, Error> {
        let role = role_word(role_of(who)?);
        check_claim(&request)?;
        let deadline = Instant::now() + request.wait.get().min(HOLD);
        let lane = Lane { namespace: who.namespace.clone(), role, queues: request.queues.clone() };
        let waiter = self.0.signals.join(lane);
        loop {
            waiter.take();
            let (grants, wanted) = self.claim_once(who, node, role, &request).await?;
            if grants.len() >= wanted {
                // There may be more than fits here.
                waiter.pass_on();
            }
            if !grants.is_empty() {
                return Ok(Claimed { grants });
            }
            tokio::select! {
                () = waiter.woken() => {}
                () = tokio::time::sleep_until(deadline) => return Ok(Claimed { grants }),
                () = self.0.shutdown.cancelled() => return Ok(Claimed { grants }),
            }
        }
    }

    /// One look; answers the grants and how many there could have been.
    async fn claim_once(
        &self,
        who: &Principal,
        node: NodeId,
        role: &'static str,
        request: &ClaimRequest,
    ) -> Result<(Vec<Grant>, usize), Error> {
        let (app, who, request) = (self.clone(), who.clone(), request.clone());
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                let known = node::seen(tx, &who.namespace, node, request.instance, None)
                    .await?
                    .ok_or_else(Error::not_found)?;
                check_owner(&who, &known.subject)?;
                if known.instance != request.instance.0 {
                    return Err(superseded());
                }
                if known.role != role {
                    return Err(Error::refused(Kind::Forbidden, "the node was registered with another role"));
                }
                let free = i64::from(known.slots) - lease::count(tx, node).await?;
                let wanted = free.clamp(0, i64::from(request.slots));
                if wanted == 0 {
                    return Ok((Vec::new(), 0));
                }
                let picked = queue::pick(tx, &who.namespace, role, &request.queues, wanted).await?;
                if picked.is_empty() {
                    return Ok((Vec::new(), 1));
                }
                let granted = queue::grant(tx, &picked, node, &known.name, app.0.lease).await?;
                effects.events = true;
                let mut grants = granted
                    .into_iter()
                    .map(|granted| grant(granted, app.0.lease))
                    .collect::<Result<Vec<Grant>, Error>>()?;
                let place = |grant: &Grant| picked.iter().position(|id| *id == grant.task.0);
                grants.sort_by_key(place);
                Ok((grants, usize::try_from(wanted).unwrap_or_default()))
            })
        })
        .await
    }
}

fn grant(granted: queue::Granted, lease: Duration) -> Result<Grant, Error> {
    Ok(Grant {
        task: TaskId(granted.id),
        token: FencingToken(granted.token),
        attempt: granted.attempt,
        max_attempts: granted.max_attempts,
        lease: lease.into(),
        step: granted.step.as_deref().map(|step| word(step, "tasks.step")).transpose()?,
        parent: granted.parent.map(TaskId),
        has_dependencies: granted.has_dependencies,
        deadline_in: None,
        spec: from_json(&granted.spec, "tasks.spec")?,
    })
}

fn check_claim(request: &ClaimRequest) -> Result<(), Error> {
    let mut check = Check::default();
    if !(1..=limits::CLAIM).contains(&request.slots) {
        check.fail("/slots", "must lie between 1 and 256");
    }
    if request.wait.get() > HOLD {
        check.fail("/wait", "must be at most 60s");
    }
    if request.queues.len() > QUEUES {
        check.fail("/queues", "has more than 64 entries");
    }
    for (index, queue) in request.queues.iter().enumerate() {
        check.name(queue, &format!("/queues/{index}"));
    }
    check.done()
}
