//! Secrets: set, listed by name, forgotten, encrypted anew, and given to the node that holds the lease of a task that names
//! them. The last is the only way out for a value.

use std::collections::HashMap;

use orca_proto::limits;
use orca_proto::node::LeaseRef;
use orca_proto::page::Page;
use orca_proto::problem::Kind;
use orca_proto::secret::{
    AttemptSecrets, Delivered, Rotated, Secret, SecretFilter, SecretPut, is_valid_name,
};
use sqlx::PgConnection;

use super::transaction::transaction;
use super::{App, Error, Principal, namespace};
use crate::db::secret::{self, Stored, Told};
use crate::db::{lease, task};
use crate::keyring::{KeyError, Whose};

/// Secrets that one transaction encrypts anew.
const ROTATED: i64 = 100;

impl App {
    /// Sets a secret; answers it and whether it is new.
    ///
    /// # Errors
    /// `validation`; `conflict` if there is no key to encrypt it with, or the namespace has too many.
    pub async fn secret_put(
        &self,
        who: &Principal,
        name: &str,
        put: SecretPut,
    ) -> Result<(Secret, bool), Error> {
        if !is_valid_name(name) {
            return Err(Error::field(
                "name",
                "must be 1 to 128 letters, digits or any of ._-, and not begin with a dot",
            ));
        }
        let mut errors = Vec::new();
        put.validate(&mut errors);
        if !errors.is_empty() {
            return Err(Error::validation(errors));
        }
        self.has_key()?;
        let (app, who, name) = (self.clone(), who.clone(), name.to_owned());
        self.spawned(async move {
            let told = transaction!(app, |tx, _effects| {
                let before = secret::lock_version(tx, &who.namespace, &name).await?;
                if before == 0 && secret::count(tx, &who.namespace).await? >= limits::SECRETS_PER_NAMESPACE {
                    let detail = format!(
                        "the namespace has {} secrets already; remove some first",
                        limits::SECRETS_PER_NAMESPACE
                    );
                    return Err(Error::refused(Kind::Conflict, detail));
                }
                let whose = Whose { namespace: &who.namespace, name: &name, version: before + 1 };
                let sealed = app.0.keyring.seal(whose, &put.value).map_err(internal)?;
                // Another was quicker to set one of this name.
                secret::put(tx, whose, before, &sealed, &who.subject).await?.ok_or(Error::Overtaken)
            })?;
            tracing::info!(
                namespace = who.namespace,
                name,
                version = told.version,
                by = who.subject,
                "secret set"
            );
            let new = told.version == 1;
            Ok((Secret::from(told), new))
        })
        .await
    }

    /// A page of secrets, by name, without their values.
    ///
    /// # Errors
    /// `validation` for a filter that makes no sense, or the database's.
    pub async fn secret_list(&self, who: &Principal, filter: &SecretFilter) -> Result<Page<Secret>, Error> {
        let limit = filter.limit.unwrap_or(limits::PAGE);
        if !(1..=limits::PAGE).contains(&limit) {
            return Err(Error::field("?limit", "must lie between 1 and 500"));
        }
        let after = filter.cursor.as_deref().unwrap_or_default();
        if filter.cursor.is_some() && !is_valid_name(after) {
            return Err(Error::field("?cursor", "is no cursor of this list; leave it out to begin anew"));
        }
        let mut connection = self.0.pool.acquire().await?;
        let mut told = secret::list(&mut connection, &who.namespace, after, i64::from(limit) + 1).await?;
        let kept = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = told.len() > kept;
        told.truncate(kept);
        let next = told.last().filter(|_| more).map(|last| last.name.clone());
        Ok(Page { items: told.into_iter().map(Secret::from).collect(), next })
    }

    /// Forgets a secret. Attempts that run keep what they have; one that begins without it is rejected.
    ///
    /// # Errors
    /// `not-found`, or the database's.
    pub async fn secret_delete(&self, who: &Principal, name: &str) -> Result<(), Error> {
        if !is_valid_name(name) {
            return Err(Error::not_found());
        }
        let mut connection = self.0.pool.acquire().await?;
        if !secret::delete(&mut connection, &who.namespace, name).await? {
            return Err(Error::not_found());
        }
        tracing::info!(namespace = who.namespace, name, by = who.subject, "secret removed");
        Ok(())
    }

    /// Encrypts everything that is not under the newest key with that, in all namespaces.
    ///
    /// # Errors
    /// `forbidden` for all but admins; `conflict` if there is no key; the database's.
    pub async fn secrets_rotate(&self, who: &Principal) -> Result<Rotated, Error> {
        namespace::admin(who)?;
        self.has_key()?;
        let newest = self.0.keyring.newest().unwrap_or_default().to_owned();
        let app = self.clone();
        let all = self.spawned(async move {
            let (mut all, mut after) = (Rotated { rotated: 0, unreadable: 0 }, None);
            loop {
                let (turn, last) =
                    transaction!(app, |tx, _effects| app.rotate_some(tx, &newest, after.as_ref()).await)?;
                all.rotated += turn.rotated;
                all.unreadable += turn.unreadable;
                match last {
                    Some(last) => after = Some(last),
                    None => break Ok(all),
                }
            }
        });
        let all = all.await?;
        tracing::info!(
            rotated = all.rotated,
            unreadable = all.unreadable,
            by = who.subject,
            "secrets encrypted anew"
        );
        Ok(all)
    }

    /// One turn of it, over those after `after`; answers where it ended, if it found any.
    async fn rotate_some(
        &self,
        connection: &mut PgConnection,
        newest: &str,
        after: Option<&(String, String)>,
    ) -> Result<(Rotated, Option<(String, String)>), Error> {
        let after = after.map_or(("", ""), |(namespace, name)| (namespace.as_str(), name.as_str()));
        let mut turn = Rotated { rotated: 0, unreadable: 0 };
        let found = secret::take_others(connection, newest, after, ROTATED).await?;
        for stored in &found {
            match self.0.keyring.open(stored.whose(), &stored.sealed()) {
                Ok(value) => {
                    let sealed = self.0.keyring.seal(stored.whose(), &value).map_err(internal)?;
                    secret::seal_again(connection, stored.whose(), &sealed).await?;
                    turn.rotated += 1;
                }
                Err(_) => turn.unreadable += 1,
            }
        }
        Ok((turn, found.last().map(|last| (last.namespace.clone(), last.name.clone()))))
    }

    /// The secrets that the attempt's task names, for whoever holds its lease.
    ///
    /// # Errors
    /// `lease-lost`; `not-found` with the name of one that the namespace does not have; `validation` if they have become too
    /// large together; `conflict` if one cannot be decrypted.
    pub async fn attempt_secrets(&self, who: &Principal, lease: LeaseRef) -> Result<AttemptSecrets, Error> {
        let (app, namespace, subject) = (self.clone(), who.namespace.clone(), who.subject.clone());
        let (wanted, found) = self
            .spawned(async move {
                transaction!(app, |tx, _effects| {
                    if !lease::hold(tx, lease, &namespace, &subject).await? {
                        return Err(Error::lease_lost());
                    }
                    let wanted = task::spec(tx, lease.task).await?.secrets;
                    let names: Vec<String> = wanted.iter().map(|secret| secret.name.clone()).collect();
                    let found = if names.is_empty() {
                        Vec::new()
                    } else {
                        secret::read(tx, &namespace, &names).await?
                    };
                    Ok((wanted, found))
                })
            })
            .await?;
        let found: HashMap<&str, &Stored> =
            found.iter().map(|stored| (stored.name.as_str(), stored)).collect();
        let mut secrets = Vec::with_capacity(wanted.len());
        let mut bytes = 0;
        for wish in &wanted {
            let stored = found.get(wish.name.as_str()).ok_or_else(|| {
                let detail = format!(
                    "there is no secret {0} in this namespace any more; set it with `orca secret set {0}` and retry the task",
                    wish.name
                );
                Error::refused(Kind::NotFound, detail)
            })?;
            let value = self
                .0
                .keyring
                .open(stored.whose(), &stored.sealed())
                .map_err(|error| self.unreadable(stored, error))?;
            bytes += value.expose().len();
            secrets.push(Delivered { name: wish.name.clone(), file: wish.file().to_owned(), value });
        }
        if bytes > limits::SECRETS_BYTES {
            return Err(Error::field("/secrets", too_large(bytes)));
        }
        Ok(AttemptSecrets { secrets })
    }

    fn has_key(&self) -> Result<(), Error> {
        if self.0.keyring.is_empty() {
            return Err(Error::refused(Kind::Conflict, NO_KEY));
        }
        Ok(())
    }

    fn unreadable(&self, stored: &Stored, error: KeyError) -> Error {
        let name = &stored.name;
        let key = stored.sealed().key_id;
        let detail = match error {
            KeyError::Unknown if self.0.keyring.is_empty() => {
                format!("the secret {name} cannot be decrypted: {NO_KEY}")
            }
            KeyError::Unknown => format!(
                "the secret {name} is encrypted under the key {key}, which this coordinator does not have; give it that key \
                 beside the newest one, or set the secret again"
            ),
            _ => format!(
                "the secret {name} does not decrypt under its key {key}: its row was altered, or moved from elsewhere; set the \
                 secret again"
            ),
        };
        tracing::error!(namespace = stored.namespace, name, key, %error, "a secret cannot be decrypted");
        Error::refused(Kind::Conflict, detail)
    }

    /// Tells the log of secrets that this coordinator cannot read.
    pub(crate) async fn look_over_keys(&self) -> Result<(), Error> {
        let mut connection = self.0.pool.acquire().await?;
        for (key, count) in secret::keys(&mut connection).await? {
            if !self.0.keyring.has(&key) {
                tracing::warn!(
                    key,
                    count,
                    "secrets are encrypted under a key that this coordinator does not have; tasks that name them will not start \
                     (ORCA_SECRETS_KEY_FILE may hold several keys, the newest first)"
                );
            }
        }
        Ok(())
    }
}

/// What is wrong with secrets that are too large together.
pub(crate) fn too_large(bytes: usize) -> String {
    format!("take {bytes} bytes together, more than 256 KiB; a task may be given no more")
}

const NO_KEY: &str = "this coordinator has no key to encrypt secrets with; give it one by --secrets-key-file or \
                      --secrets-key-command (ORCA_SECRETS_KEY_FILE, ORCA_SECRETS_KEY_COMMAND) and start it again";

fn internal(error: KeyError) -> Error {
    Error::Internal(format!("a secret: {error}"))
}

impl From<Told> for Secret {
    fn from(told: Told) -> Self {
        Self {
            name: told.name,
            version: told.version,
            created_at: told.created_at.0,
            created_by: told.created_by,
            updated_at: told.updated_at.0,
            updated_by: told.updated_by,
        }
    }
}
