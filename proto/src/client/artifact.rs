//! Uploads and downloads, streamed both ways.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use reqwest::{Body, Method};

use super::{Client, ClientError, decode, send, transport};
use crate::artifact::{Artifact, UploadQuery};
use crate::ids::{ArtifactId, TaskId};
use crate::node::LeaseRef;
use crate::page::Page;

/// The longest that one whole transfer may take.
const TRANSFER: Duration = Duration::from_secs(4 * 3_600);

/// The bytes of an artifact, as they arrive.
pub struct ArtifactStream(Pin<Box<dyn Stream<Item = Result<Bytes, ClientError>> + Send>>);

impl Stream for ArtifactStream {
    type Item = Result<Bytes, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl Client {
    /// Stores a file for tasks to use as an input.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn upload(&self, name: &str, content: Body) -> Result<Artifact, ClientError> {
        let query = UploadQuery { name: name.to_owned() };
        let call = self.request(Method::POST, "/v1/artifacts").query(&query);
        decode(
            send(call.header("content-type", "application/octet-stream").timeout(TRANSFER).body(content))
                .await?,
        )
        .await
    }

    /// Keeps a file of a running attempt. The same name again replaces it.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn keep(&self, lease: LeaseRef, name: &str, content: Body) -> Result<Artifact, ClientError> {
        let path = format!("/v1/tasks/{}/attempts/{}/artifacts/{name}", lease.task, lease.token);
        let call = self.request(Method::PUT, &path).header("content-type", "application/octet-stream");
        decode(send(call.timeout(TRANSFER).body(content)).await?).await
    }

    /// The artifacts that a task's attempts kept, by name.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn artifacts(&self, task: TaskId) -> Result<Page<Artifact>, ClientError> {
        self.get(&format!("/v1/tasks/{task}/artifacts"), &()).await
    }

    /// What is known of an artifact.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn artifact(&self, id: ArtifactId) -> Result<Artifact, ClientError> {
        self.get(&format!("/v1/artifacts/{id}"), &()).await
    }

    /// The bytes of an artifact.
    ///
    /// # Errors
    /// Any [`ClientError`], also in mid-stream.
    pub async fn download(&self, id: ArtifactId) -> Result<ArtifactStream, ClientError> {
        let call = self.request(Method::GET, &format!("/v1/artifacts/{id}/content")).timeout(TRANSFER);
        let bytes = send(call).await?.bytes_stream().map(|chunk| chunk.map_err(transport));
        Ok(ArtifactStream(Box::pin(bytes)))
    }
}
