//! Nodes: how they make themselves known, and how operators see them.

use std::time::Duration;

use orca_proto::duration::Span;
use orca_proto::ids::NodeId;
use orca_proto::node::{Node, Registered, Registration};
use orca_proto::page::Page;
use orca_proto::problem::Kind;
use orca_proto::queue::Pause;
use orca_proto::spec::Role;
use orca_proto::token::Access;

use super::check::Check;
use super::transaction::transaction;
use super::{App, Error, Principal};
use crate::db::node::Named;
use crate::db::{lease, node};
use crate::reconcile;

/// The role that a principal's nodes have.
///
/// # Errors
/// `forbidden` for operators.
pub(crate) fn role_of(who: &Principal) -> Result<Role, Error> {
    match who.access {
        Access::Planner => Ok(Role::Plan),
        Access::Worker => Ok(Role::Work),
        Access::Operator | Access::Admin => Err(Error::refused(
            Kind::Forbidden,
            "this needs a planner's or worker's token, not an operator's",
        )),
    }
}

/// Whether this credential may act for the node.
pub(crate) fn check_owner(who: &Principal, owner: &str) -> Result<(), Error> {
    if who.subject == owner {
        return Ok(());
    }
    Err(Error::refused(
        Kind::Forbidden,
        "another credential registered this node; give the node another name or use that credential",
    ))
}

impl App {
    /// All nodes of the namespace, by name.
    ///
    /// # Errors
    /// The database's.
    pub async fn node_list(&self, who: &Principal) -> Result<Page<Node>, Error> {
        let mut connection = self.0.pool.acquire().await?;
        let items = node::list(&mut connection, &who.namespace, None, self.0.lease).await?;
        Ok(Page { items, next: None })
    }

    /// One node.
    ///
    /// # Errors
    /// `not-found`, or the database's.
    pub async fn node_get(&self, who: &Principal, id: NodeId) -> Result<Node, Error> {
        let mut connection = self.0.pool.acquire().await?;
        let found = node::list(&mut connection, &who.namespace, Some(id), self.0.lease).await?;
        found.into_iter().next().ok_or_else(Error::not_found)
    }

    /// Has a node take no more work: once this is answered, nothing is granted to it. What it runs goes on. One that is
    /// cordoned stays as it is.
    ///
    /// # Errors
    /// `not-found`, `validation`, or the database's.
    pub async fn node_cordon(&self, who: &Principal, id: NodeId, pause: Pause) -> Result<Node, Error> {
        let mut errors = Vec::new();
        pause.validate(&mut errors);
        if !errors.is_empty() {
            return Err(Error::validation(errors));
        }
        let (app, by) = (self.clone(), who.clone());
        let known = self
            .spawned(async move {
                let mut connection = app.0.pool.acquire().await?;
                let reason = pause.reason.as_deref();
                Ok(node::cordon(&mut connection, &by.namespace, id, &by.subject, reason).await?)
            })
            .await?;
        if !known {
            return Err(Error::not_found());
        }
        self.0.signals.drain(id);
        self.0.signals.post_drain(id);
        self.node_get(who, id).await
    }

    /// Has a node take work again.
    ///
    /// # Errors
    /// `not-found`, or the database's.
    pub async fn node_uncordon(&self, who: &Principal, id: NodeId) -> Result<Node, Error> {
        let (app, by) = (self.clone(), who.clone());
        let known = self
            .spawned(async move {
                let mut connection = app.0.pool.acquire().await?;
                Ok(node::uncordon(&mut connection, &by.namespace, id).await?)
            })
            .await?;
        if known { self.node_get(who, id).await } else { Err(Error::not_found()) }
    }

    /// Makes a node known, or known again. Another instance under a known name ends the leases of the one before, but those
    /// that it goes on with.
    ///
    /// # Errors
    /// `validation`; `forbidden` if the token is of another role or the name another credential's.
    pub async fn node_register(
        &self,
        who: &Principal,
        registration: Registration,
    ) -> Result<Registered, Error> {
        if role_of(who)? != registration.role {
            let detail = format!("the token is a {}'s; register with that role", who.access);
            return Err(Error::refused(Kind::Forbidden, detail));
        }
        check_registration(&registration)?;
        let (app, who) = (self.clone(), who.clone());
        let (id, resumed, replaced) = self
            .spawned(async move {
                transaction!(app, |tx, _effects| {
                    let known =
                        node::lock_by_name(tx, &who.namespace, &registration.name, app.0.lease).await?;
                    let (mut resumed, mut replaced) = (Vec::new(), 0);
                    let id = match known {
                        None => NodeId::new(),
                        Some(known) => {
                            check_owner(&who, &known.subject)?;
                            check_home(&known, &registration, app.0.lease)?;
                            let id = NodeId(known.id);
                            lease::lock_node(tx, id).await?;
                            let kept = lease::renew(tx, id, &registration.resumes, app.0.lease).await?;
                            resumed = kept.into_iter().map(|(lease, _cancelled)| lease).collect();
                            // A registration that is sent again must not take what was granted in between.
                            if known.instance != registration.instance.0 {
                                replaced = lease::expire_node(tx, id, &resumed).await?;
                            }
                            id
                        }
                    };
                    node::register(tx, &who.namespace, &who.subject, id, &registration).await?;
                    Ok((id, resumed, replaced))
                })
            })
            .await?;
        if replaced > 0 {
            tracing::info!(node.id = %id, leases = replaced, "a new instance replaced a node's daemon");
            reconcile::expire_leases(self).await?;
        }
        Ok(Registered { id, lease: self.0.lease.into(), resumed })
    }
}

/// Two daemons of one name would end each other's leases in turns.
fn check_home(known: &Named, registration: &Registration, lease: Duration) -> Result<(), Error> {
    let elsewhere = known.home.is_some() && registration.home.is_some() && known.home != registration.home;
    if !(elsewhere && known.alive) {
        return Ok(());
    }
    let detail = format!(
        "another daemon with another state directory is alive under the name {}; give this one another name, or, if that \
         one is gone, start this one again in {}",
        registration.name,
        Span::from(lease)
    );
    Err(Error::refused(Kind::Conflict, detail))
}

fn check_registration(registration: &Registration) -> Result<(), Error> {
    let mut check = Check::default();
    check.name(&registration.name, "/name");
    if !(1..=10_000).contains(&registration.slots) {
        check.fail("/slots", "must lie between 1 and 10,000");
    }
    if registration.resumes.len() > orca_proto::limits::RENEWAL {
        check.fail("/resumes", "has more than 10,240 entries");
    }
    check.text(&registration.version, "/version", 128);
    check.text(&registration.runtime, "/runtime", 256);
    let own = registration.labels.keys().filter(|key| !key.starts_with("orca/"));
    if own.count() > orca_proto::limits::LABELS {
        check.fail("/labels", "has more than 32 entries");
    }
    for (key, value) in &registration.labels {
        let pointer = format!("/labels/{}", key.replace('~', "~0").replace('/', "~1"));
        check.name(&key.replace('/', "."), &pointer);
        check.text(value, &pointer, orca_proto::limits::NAME);
    }
    check.done()
}
