//! Artifacts: stored files, their records and bytes.

use std::io;

use bytes::Bytes;
use futures_util::Stream;
use orca_proto::artifact::{Artifact, is_valid_name};
use orca_proto::ids::{ArtifactId, TaskId};
use orca_proto::limits;
use orca_proto::node::LeaseRef;
use orca_proto::page::Page;
use orca_proto::problem::Kind;
use tokio::fs::File;

use super::transaction::transaction;
use super::{App, Error, Principal};
use crate::blobs::{BlobError, Stored};
use crate::db::{artifact, lease, task};

impl App {
    /// Stores a file: with a lease as the attempt's, in place of one of the same name; without, as an upload.
    ///
    /// # Errors
    /// `validation`, `lease-lost`, `body-too-large`; `malformed` if the content breaks off; the disk's and database's.
    pub async fn artifact_store(
        &self,
        who: &Principal,
        name: &str,
        lease: Option<LeaseRef>,
        content: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Artifact, Error> {
        if !is_valid_name(name) {
            let pointer = if lease.is_some() { "name" } else { "?name" };
            let detail = "must be 1 to 128 letters, digits or any of ._- and not begin with a dot";
            return Err(Error::field(pointer, detail));
        }
        if let Some(lease) = lease {
            // Refused before its bytes are taken in, not after.
            let mut connection = self.0.pool.acquire().await?;
            if !lease::hold(&mut connection, lease, &who.namespace, &who.subject).await? {
                return Err(Error::lease_lost());
            }
        }
        let stored = self.0.blobs.write(content).await.map_err(blob_error)?;
        self.0.blobs.link(&stored).await.map_err(|error| Error::Storage("cannot keep a file", error))?;
        let (app, who, name) = (self.clone(), who.clone(), name.to_owned());
        self.spawned(async move {
            let recorded = app.record(&who, lease, &name, &stored).await;
            if recorded.is_ok() {
                // Whoever was removing the same bytes at this moment may have taken them away again.
                app.0
                    .blobs
                    .link(&stored)
                    .await
                    .map_err(|error| Error::Storage("cannot keep a file", error))?;
            } else {
                let mut connection = app.0.pool.acquire().await?;
                artifact::discard(&mut connection, &stored.sha256).await?;
            }
            recorded
        })
        .await
    }

    async fn record(
        &self,
        who: &Principal,
        lease: Option<LeaseRef>,
        name: &str,
        stored: &Stored,
    ) -> Result<Artifact, Error> {
        let app = self;
        transaction!(app, |tx, _effects| {
            if let Some(lease) = lease {
                if !lease::hold(tx, lease, &who.namespace, &who.subject).await? {
                    return Err(Error::lease_lost());
                }
                if artifact::count(tx, lease).await? >= limits::ARTIFACTS_PER_ATTEMPT {
                    let detail = "the attempt has kept 1,000 artifacts already, which is the most; pack several into one";
                    return Err(Error::refused(Kind::Conflict, detail));
                }
            }
            let new = artifact::NewArtifact {
                namespace: &who.namespace,
                lease,
                name,
                size: i64::try_from(stored.size).unwrap_or(i64::MAX),
                sha256: &stored.sha256,
            };
            Ok(artifact::insert(tx, &new).await?)
        })
    }

    /// What is known of an artifact.
    ///
    /// # Errors
    /// `not-found`, or the database's.
    pub async fn artifact_get(&self, who: &Principal, id: ArtifactId) -> Result<Artifact, Error> {
        let mut connection = self.0.pool.acquire().await?;
        artifact::get(&mut connection, &who.namespace, id).await?.ok_or_else(Error::not_found)
    }

    /// An artifact and its bytes.
    ///
    /// # Errors
    /// `not-found`, the disk's or the database's.
    pub async fn artifact_open(&self, who: &Principal, id: ArtifactId) -> Result<(Artifact, File), Error> {
        let artifact = self.artifact_get(who, id).await?;
        let file = self
            .0
            .blobs
            .read(&artifact.sha256)
            .await
            .map_err(|error| Error::Storage("cannot read a kept file", error))?;
        Ok((artifact, file))
    }

    /// The artifacts that a task's attempts kept, by name.
    ///
    /// # Errors
    /// `not-found`, or the database's.
    pub async fn artifact_list(&self, who: &Principal, task: TaskId) -> Result<Page<Artifact>, Error> {
        let mut connection = self.0.pool.acquire().await?;
        task::state(&mut connection, &who.namespace, task).await?.ok_or_else(Error::not_found)?;
        Ok(Page { items: artifact::of_task(&mut connection, task).await?, next: None })
    }
}

fn blob_error(error: BlobError) -> Error {
    match error {
        BlobError::TooLarge => Error::refused(Kind::BodyTooLarge, "an artifact may hold at most 16 GiB"),
        BlobError::Incomplete(error) => {
            Error::refused(Kind::Malformed, format!("the content broke off ({error}); send it again"))
        }
        BlobError::Disk(error) => Error::Storage("cannot write a file", error),
    }
}
