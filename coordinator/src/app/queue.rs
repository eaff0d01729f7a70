//! Queues and the groups inside of them: looked at, set, paused.
//!
//! A change waits for the claims under way in its namespace, and those that come after it keep to it: once a pause is
//! answered, nothing is granted.

use std::collections::BTreeMap;

use orca_proto::page::Page;
use orca_proto::problem::Kind;
use orca_proto::queue::{Group, GroupSettings, Pause, Paused, Queue, QueueSettings};
use orca_proto::spec::is_valid_name;
use sqlx::PgConnection;

use super::transaction::transaction;
use super::{App, Error, Principal, quota};
use crate::db::queue_settings::{self, InLine};
use crate::db::rules;
use crate::dispatch::{GroupRules, QueueRules};

/// Queues that are listed.
const QUEUES: usize = 10_000;
/// Groups that are listed of a queue.
const GROUPS: usize = 1_000;

/// What an operator changes.
#[derive(Clone, Debug)]
enum Change {
    Settings(queue_settings::Row),
    Pause(Option<String>),
    Resume,
}

impl App {
    /// The namespace's queues that a task or a setting has named, by name.
    ///
    /// # Errors
    /// The database's.
    pub async fn queue_list(&self, who: &Principal) -> Result<Page<Queue>, Error> {
        let mut connection = self.0.pool.acquire().await?;
        let mut items = told(&mut connection, &who.namespace, None, "").await?;
        items.truncate(QUEUES);
        Ok(Page { items, next: None })
    }

    /// One queue.
    ///
    /// # Errors
    /// `not-found` if neither a task nor a setting has ever named it; the database's.
    pub async fn queue_get(&self, who: &Principal, queue: &str) -> Result<Queue, Error> {
        let queue = searchable(queue)?;
        let mut connection = self.0.pool.acquire().await?;
        one(&mut connection, &who.namespace, queue, "").await
    }

    /// Sets how a queue is served. Whether it is paused stays.
    ///
    /// # Errors
    /// `validation`; `quota-exceeded` if the namespace may have no more queues; the database's.
    pub async fn queue_set(
        &self,
        who: &Principal,
        queue: &str,
        settings: QueueSettings,
    ) -> Result<Queue, Error> {
        let mut errors = Vec::new();
        settings.validate(&mut errors);
        refuse(errors)?;
        self.queue_change(who, named(queue, "queue")?, "", Change::Settings((&settings).into())).await
    }

    /// Pauses a queue: once this is answered, nothing of it is granted. One that is paused stays as it is.
    ///
    /// # Errors
    /// `validation`; `quota-exceeded` if the namespace may have no more queues; the database's.
    pub async fn queue_pause(&self, who: &Principal, queue: &str, pause: Pause) -> Result<Queue, Error> {
        let pause = paused(pause)?;
        self.queue_change(who, named(queue, "queue")?, "", pause).await
    }

    /// Ends a queue's pause.
    ///
    /// # Errors
    /// `not-found` if neither a task nor a setting has ever named it; the database's.
    pub async fn queue_resume(&self, who: &Principal, queue: &str) -> Result<Queue, Error> {
        self.queue_change(who, searchable(queue)?, "", Change::Resume).await
    }

    /// Removes what was set for a queue and its groups; it stays known for as long as lanes of it are.
    ///
    /// # Errors
    /// `conflict` while it has open tasks; `not-found` if neither a task nor a setting has ever named it; the database's.
    pub async fn queue_remove(&self, who: &Principal, queue: &str) -> Result<(), Error> {
        let (app, namespace, queue) = (self.clone(), who.namespace.clone(), searchable(queue)?.to_owned());
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                queue_settings::lock(tx, &namespace).await?;
                let open = queue_settings::open(tx, &namespace, &queue).await?;
                if open > 0 {
                    let detail = format!(
                        "the queue {queue} has {open} open tasks; cancel them, or wait until they have ended"
                    );
                    return Err(Error::refused(Kind::Conflict, detail));
                }
                let removed = queue_settings::remove(tx, &namespace, &queue).await?;
                if !removed && !queue_settings::is_known(tx, &namespace, &queue, "").await? {
                    return Err(Error::not_found());
                }
                effects.settings = true;
                Ok(())
            })
        })
        .await
    }

    /// Sets how a group inside a queue is served. Whether it is paused stays.
    ///
    /// # Errors
    /// `validation`; `quota-exceeded` if the namespace may have no more queues; the database's.
    pub async fn group_set(
        &self,
        who: &Principal,
        queue: &str,
        group: &str,
        settings: GroupSettings,
    ) -> Result<Group, Error> {
        let mut errors = Vec::new();
        settings.validate(&mut errors);
        refuse(errors)?;
        let (queue, group) = (named(queue, "queue")?, named(group, "group")?);
        the(group, self.queue_change(who, queue, group, Change::Settings((&settings).into())).await?)
    }

    /// Pauses a group inside a queue: once this is answered, nothing of it is granted. One that is paused stays as it is.
    ///
    /// # Errors
    /// `validation`; `quota-exceeded` if the namespace may have no more queues; the database's.
    pub async fn group_pause(
        &self,
        who: &Principal,
        queue: &str,
        group: &str,
        pause: Pause,
    ) -> Result<Group, Error> {
        let pause = paused(pause)?;
        let (queue, group) = (named(queue, "queue")?, named(group, "group")?);
        the(group, self.queue_change(who, queue, group, pause).await?)
    }

    /// Ends the pause of a group inside a queue.
    ///
    /// # Errors
    /// `not-found` if neither a task nor a setting has ever named it; the database's.
    pub async fn group_resume(&self, who: &Principal, queue: &str, group: &str) -> Result<Group, Error> {
        let (queue, group) = (searchable(queue)?, searchable(group)?);
        the(group, self.queue_change(who, queue, group, Change::Resume).await?)
    }

    async fn queue_change(
        &self,
        who: &Principal,
        queue: &str,
        group: &str,
        change: Change,
    ) -> Result<Queue, Error> {
        let (app, who) = (self.clone(), who.clone());
        let (queue, group) = (queue.to_owned(), group.to_owned());
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                let namespace = who.namespace.as_str();
                queue_settings::lock(tx, namespace).await?;
                let created = !queue_settings::is_known(tx, namespace, &queue, &group).await?;
                match &change {
                    Change::Settings(row) => {
                        quota::check(tx, namespace, 0, std::slice::from_ref(&queue)).await?;
                        queue_settings::set(tx, namespace, &queue, &group, *row).await?;
                    }
                    Change::Pause(reason) => {
                        quota::check(tx, namespace, 0, std::slice::from_ref(&queue)).await?;
                        let reason = reason.as_deref();
                        queue_settings::pause(tx, namespace, &queue, &group, &who.subject, reason).await?;
                    }
                    Change::Resume => queue_settings::resume(tx, namespace, &queue, &group).await?,
                }
                effects.settings = true;
                let mut told = one(tx, namespace, &queue, &group).await?;
                // Beside the one that was changed, an answer need not list them all.
                told.groups.retain(|known| group.is_empty() || known.name == group);
                told.created = created;
                told.groups.iter_mut().for_each(|known| known.created = created && known.name == group);
                Ok(told)
            })
        })
        .await
    }
}

fn refuse(errors: Vec<orca_proto::problem::FieldError>) -> Result<(), Error> {
    if errors.is_empty() { Ok(()) } else { Err(Error::validation(errors)) }
}

fn paused(pause: Pause) -> Result<Change, Error> {
    let mut errors = Vec::new();
    pause.validate(&mut errors);
    refuse(errors)?;
    Ok(Change::Pause(pause.reason))
}

/// A name that something may be made under.
fn named<'a>(name: &'a str, what: &'static str) -> Result<&'a str, Error> {
    if is_valid_name(name) {
        return Ok(name);
    }
    Err(Error::field(what, "must be 1 to 128 letters, digits or any of ._-"))
}

/// A name that may stand in a statement; what cannot be one names nothing.
fn searchable(name: &str) -> Result<&str, Error> {
    if is_valid_name(name) { Ok(name) } else { Err(Error::not_found()) }
}

fn the(group: &str, queue: Queue) -> Result<Group, Error> {
    queue.groups.into_iter().find(|known| known.name == group).ok_or_else(Error::not_found)
}

async fn one(
    connection: &mut PgConnection,
    namespace: &str,
    queue: &str,
    group: &str,
) -> Result<Queue, Error> {
    let found = told(connection, namespace, Some(queue), group).await?;
    found.into_iter().next().ok_or_else(Error::not_found)
}

/// Queues as operators see them, by name; with `only`, that one. The group `group` is there in any case.
async fn told(
    connection: &mut PgConnection,
    namespace: &str,
    only: Option<&str>,
    group: &str,
) -> Result<Vec<Queue>, Error> {
    let mut rules = rules::load(connection, namespace).await?.settings.queues;
    rules.retain(|queue, _| only.is_none_or(|only| queue == only));
    let mut queues: BTreeMap<String, (QueueRules, Vec<InLine>)> =
        rules.into_iter().map(|(queue, rules)| (queue, (rules, Vec::new()))).collect();
    for flow in queue_settings::in_line(connection, namespace, only).await? {
        queues.entry(flow.queue.clone()).or_default().1.push(flow);
    }
    Ok(queues.into_iter().map(|(name, (rules, flows))| queue(name, rules, flows, group)).collect())
}

fn queue(name: String, rules: QueueRules, flows: Vec<InLine>, keep: &str) -> Queue {
    let count = |value: i64| u64::try_from(value).unwrap_or_default();
    let ready = flows.iter().map(|flow| count(flow.ready)).sum();
    let running = flows.iter().map(|flow| count(flow.running)).sum();
    let group = |name: String, settings: GroupSettings, paused: Option<Paused>| Group {
        name,
        settings,
        paused,
        ready: 0,
        running: 0,
        created: false,
    };
    let mut groups: BTreeMap<String, Group> = rules
        .groups
        .into_iter()
        .map(|(name, GroupRules { settings, paused })| (name.clone(), group(name, settings, paused)))
        .collect();
    for flow in flows.into_iter().filter(|flow| !flow.group.is_empty()) {
        let known = groups
            .entry(flow.group.clone())
            .or_insert_with(|| group(flow.group, GroupSettings::default(), None));
        (known.ready, known.running) = (count(flow.ready), count(flow.running));
    }
    // There may be one for each of somebody's customers: what is set, in line or running comes first.
    let mut groups: Vec<Group> = groups.into_values().collect();
    if groups.len() > GROUPS {
        let idle = |group: &Group| {
            group.name != keep
                && group.paused.is_none()
                && group.settings == GroupSettings::default()
                && group.ready + group.running == 0
        };
        groups.sort_by_key(idle);
        groups.truncate(GROUPS);
        groups.sort_by(|one, other| one.name.cmp(&other.name));
    }
    Queue { name, settings: rules.settings, paused: rules.paused, ready, running, groups, created: false }
}
