//! `orca-agent put FILE`: streams a file to the coordinator, in pieces, so its size does not matter here.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Limited};
use hyper::Method;
use hyper::body::{Body, Frame, SizeHint};
use orca_proto::agent::routes;
use orca_proto::artifact::is_valid_name;

use super::{VerbError, node, print};
use crate::attempt_dir::AttemptDir;
use crate::node_client::CallError;

/// Bytes read at a time.
const PIECE: usize = 64 << 10;
/// Longest description of a stored artifact.
const LONGEST_ANSWER: usize = 64 << 10;

#[derive(Args)]
pub(crate) struct Put {
    /// The file
    file: PathBuf,
    /// The name to keep it under, when not the file's own
    #[arg(long)]
    name: Option<String>,
}

impl Put {
    pub(super) async fn run(self, dir: &AttemptDir) -> Result<(), VerbError> {
        let own = self.file.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = self.name.or(own).unwrap_or_default();
        if !is_valid_name(&name) {
            return Err(VerbError::Usage(format!(
                "{name:?} cannot name an artifact: use up to 128 letters, digits, `.`, `_`, `-`, not with a dot first; \
                 --name gives another"
            )));
        }
        let unreadable =
            |error: io::Error| VerbError::Usage(format!("cannot read {}: {error}", self.file.display()));
        let file = File::open(&self.file).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(unreadable(io::Error::other("it is not a regular file")));
        }
        let body = FileBody { file, left: metadata.len() };
        let path = format!("{}/{name}", routes::ARTIFACTS);
        // Not tried again: half of the bytes may be there already, and the program knows best.
        let answer = node(dir)?.open(Method::PUT, &path, Some("application/octet-stream"), body).await?;
        let answer = Limited::new(answer.into_body(), LONGEST_ANSWER)
            .collect()
            .await
            .map_err(|error| CallError::Unreadable(error.to_string()))?;
        print(&answer.to_bytes())
    }
}

/// A file as a request's body. Reads block: there is nothing else to do meanwhile.
struct FileBody {
    file: File,
    left: u64,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let want = self.left.min(PIECE as u64);
        if want == 0 {
            return Poll::Ready(None);
        }
        let mut piece = Vec::new();
        let read = (&mut self.file).take(want).read_to_end(&mut piece);
        Poll::Ready(Some(match read {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter meanwhile")),
            Ok(count) => {
                self.left -= count as u64;
                Ok(Frame::data(piece.into()))
            }
            Err(error) => Err(error),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
