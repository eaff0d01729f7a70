//! Keeping leases alive, and telling a node what to cancel.

use std::collections::HashSet;
use std::time::Duration;

use orca_proto::ids::NodeId;
use orca_proto::limits;
use orca_proto::node::{LeaseRef, RenewRequest, Renewed};
use tokio::time::Instant;

use super::check::Check;
use super::claim::superseded;
use super::node::{check_owner, role_of};
use super::transaction::transaction;
use super::{App, Error, Principal};
use crate::db::{lease, node};

/// How often a held renewal looks for cancels, should a signal be lost.
const POLL: Duration = Duration::from_secs(1);

impl App {
    /// Renews the leases first, then holds the request until one of them is to be cancelled: at most as long as asked for
    /// and a third of a lease.
    ///
    /// # Errors
    /// `validation`, `not-found`, `forbidden`; `conflict` if another instance took over the node's name.
    pub async fn node_renew(
        &self,
        who: &Principal,
        node: NodeId,
        request: RenewRequest,
    ) -> Result<Renewed, Error> {
        role_of(who)?;
        let mut check = Check::default();
        for (list, pointer) in [(&request.leases, "/leases"), (&request.cancelling, "/cancelling")] {
            if list.len() > limits::RENEWAL {
                check.fail(pointer, "has more than 10,240 entries");
            }
        }
        if let Some(unwell) = &request.unwell {
            check.text(unwell, "/unwell", limits::SENTENCE);
        }
        check.done()?;
        let deadline = Instant::now() + request.wait.get().min(self.0.lease / 3);
        let kept = Box::pin(self.renew_once(who, node, &request)).await?;
        if request.draining || request.unwell.is_some() {
            self.0.signals.drain(node);
            self.0.signals.post_drain(node);
        }
        let known: HashSet<LeaseRef> = request.cancelling.iter().copied().collect();
        let fresh = |leases: &[(LeaseRef, bool)]| -> Vec<LeaseRef> {
            leases
                .iter()
                .filter(|(lease, cancel)| *cancel && !known.contains(lease))
                .map(|(l, _)| *l)
                .collect()
        };
        let held: HashSet<LeaseRef> = kept.iter().map(|(lease, _)| *lease).collect();
        let lost: Vec<LeaseRef> =
            request.leases.iter().copied().filter(|lease| !held.contains(lease)).collect();
        let mut cancel = fresh(&kept);
        let _here = self.0.presence.hold(node);
        while lost.is_empty() && cancel.is_empty() && Instant::now() < deadline {
            // Without leases there is nothing to cancel: only the end of the wait, or of the coordinator, matters.
            let poll = if held.is_empty() { self.0.lease } else { POLL };
            let most = poll.min(deadline.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = self.0.signals.node_changed(node, most) => {}
                () = self.0.shutdown.cancelled() => break,
            }
            if !held.is_empty() {
                cancel = Box::pin(self.cancels(node)).await?;
                cancel.retain(|lease| held.contains(lease) && !known.contains(lease));
            }
        }
        Ok(Renewed { lease: self.0.lease.into(), lost, cancel })
    }

    async fn cancels(&self, node: NodeId) -> Result<Vec<LeaseRef>, Error> {
        let mut connection = self.0.pool.acquire().await?;
        Ok(lease::cancels(&mut connection, node).await?)
    }

    async fn renew_once(
        &self,
        who: &Principal,
        node: NodeId,
        request: &RenewRequest,
    ) -> Result<Vec<(LeaseRef, bool)>, Error> {
        let (app, who, request) = (self.clone(), who.clone(), request.clone());
        self.spawned(async move {
            transaction!(app, |tx, _effects| {
                let (draining, unwell) = (request.draining, request.unwell.as_deref());
                let known = node::seen(tx, &who.namespace, node, request.instance, draining, unwell)
                    .await?
                    .ok_or_else(Error::not_found)?;
                check_owner(&who, &known.subject)?;
                if known.instance != request.instance.0 {
                    return Err(superseded());
                }
                Ok(lease::renew(tx, node, &request.leases, app.0.lease).await?)
            })
        })
        .await
    }
}
