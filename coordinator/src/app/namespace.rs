//! Namespaces: what they hold and may hold. For admins, of any namespace.

use orca_proto::namespace::{Namespace, Quota};
use orca_proto::problem::Kind;
use orca_proto::token::Access;
use orca_proto::{limits, spec};
use sqlx::PgConnection;

use super::transaction::transaction;
use super::{App, Error, Principal};
use crate::db::{queue_settings, quota};

/// Tasks of a lane up to which those that ended in line are looked for, and not counted.
const EXACT: i64 = 1_000;

impl App {
    /// A namespace. One that nobody has used yet is empty.
    ///
    /// # Errors
    /// `forbidden` for all but admins; `not-found` for what cannot be a name; the database's.
    pub async fn namespace_get(&self, who: &Principal, name: &str) -> Result<Namespace, Error> {
        admin(who)?;
        let name = searchable(name)?;
        let mut connection = self.0.pool.acquire().await?;
        told(&mut connection, name).await
    }

    /// Sets how much a namespace may hold. What it holds beyond that stays; nothing is added to it.
    ///
    /// # Errors
    /// `forbidden` for all but admins; `validation`; `not-found` for what cannot be a name; the database's.
    pub async fn namespace_set(&self, who: &Principal, name: &str, quota: Quota) -> Result<Namespace, Error> {
        admin(who)?;
        let name = searchable(name)?.to_owned();
        let mut errors = Vec::new();
        quota.validate(&mut errors);
        if !errors.is_empty() {
            return Err(Error::validation(errors));
        }
        let app = self.clone();
        self.spawned(async move {
            transaction!(app, |tx, effects| {
                let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
                let row = quota::Quota {
                    max_open: quota.max_open.map(|value| i64::try_from(value).unwrap_or(i64::MAX)),
                    max_running: quota.max_running.map(number),
                    max_queues: quota.max_queues.map(number),
                };
                queue_settings::lock(tx, &name).await?;
                quota::set(tx, &name, &row).await?;
                effects.settings = true;
                told(tx, &name).await
            })
        })
        .await
    }
}

pub(crate) fn admin(who: &Principal) -> Result<(), Error> {
    match who.access {
        Access::Admin => Ok(()),
        access => {
            Err(Error::refused(Kind::Forbidden, format!("this needs an admin's token, not a {access}'s")))
        }
    }
}

/// A name that may stand in a statement; what cannot be one names nothing. Namespaces may be named after people.
fn searchable(name: &str) -> Result<&str, Error> {
    let valid = name.len() <= limits::NAME && spec::is_valid_name(&name.replace('@', "-"));
    if valid { Ok(name) } else { Err(Error::not_found()) }
}

async fn told(connection: &mut PgConnection, name: &str) -> Result<Namespace, Error> {
    let row = quota::get(connection, name).await?;
    let number = |value: i32| u32::try_from(value).ok();
    let quota = row.map_or_else(Quota::default, |row| Quota {
        max_open: row.max_open.and_then(|value| u64::try_from(value).ok()),
        max_running: row.max_running.and_then(number),
        max_queues: row.max_queues.and_then(number),
    });
    let open = quota::open(connection, name, EXACT).await?;
    let running = quota::running(connection, name).await?;
    let count = |value: i64| u64::try_from(value).unwrap_or_default();
    Ok(Namespace { name: name.to_owned(), quota, open: count(open), running: count(running) })
}
