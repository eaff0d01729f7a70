//! Artifacts: stored files, their records and bytes.

use std::io;

use bytes::Bytes;
use futures_util::Stream;
use orca_proto::artifact::Artifact;
use orca_proto::ids::{ArtifactId, TaskId};
use orca_proto::node::LeaseRef;
use orca_proto::page::Page;
use tokio::fs::File;

use super::{App, Error, Principal};

impl App {
    /// Stores a file: with a lease as the attempt's, without as an upload.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn artifact_store(
        &self,
        who: &Principal,
        name: &str,
        lease: Option<LeaseRef>,
        content: impl Stream<Item = io::Result<Bytes>> + Send,
    ) -> Result<Artifact, Error> {
        let _ = (who, name, lease, content);
        Err(Error::Unavailable("not built yet"))
    }

    /// What is known of an artifact.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn artifact_get(&self, who: &Principal, id: ArtifactId) -> Result<Artifact, Error> {
        let _ = (who, id);
        Err(Error::Unavailable("not built yet"))
    }

    /// An artifact and its bytes.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn artifact_open(&self, who: &Principal, id: ArtifactId) -> Result<(Artifact, File), Error> {
        let _ = (who, id);
        Err(Error::Unavailable("not built yet"))
    }

    /// The artifacts that a task's attempts kept, by name.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn artifact_list(&self, who: &Principal, task: TaskId) -> Result<Page<Artifact>, Error> {
        let _ = (who, task);
        Err(Error::Unavailable("not built yet"))
    }
}
