//! Whether a Docker engine answers, and which image to suggest. Two small questions, so plain HTTP on its socket will do.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// How long the engine may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The most that is read of an answer: its status line is all that counts.
const HEAD: u64 = 4 << 10;
/// The engine's address where nobody names one.
pub(super) const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// Images that have a shell and `echo`, best first.
const SUGGESTED: [&str; 6] = [
    "debian:bookworm-slim",
    "debian:stable-slim",
    "alpine:latest",
    "busybox:latest",
    "ubuntu:latest",
    "debian:latest",
];

/// Whether an engine answers at `host` (as in `DOCKER_HOST`), or at its usual place.
pub(super) async fn answers(host: Option<&str>) -> bool {
    ask(host, "/_ping").await == Some(200)
}

/// An image to try out: one that the engine holds, else one that it can fetch.
pub(super) async fn suggested_image(host: Option<&str>) -> &'static str {
    for image in SUGGESTED {
        if ask(host, &format!("/images/{image}/json")).await == Some(200) {
            return image;
        }
    }
    SUGGESTED[0]
}

/// The status of a `GET`.
async fn ask(host: Option<&str>, path: &str) -> Option<u16> {
    let host = host.unwrap_or(DEFAULT_HOST);
    let asked = async {
        if let Some(socket) = host.strip_prefix("unix://") {
            status(UnixStream::connect(socket).await.ok()?, path).await
        } else {
            let address = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://"))?;
            status(TcpStream::connect(address).await.ok()?, path).await
        }
    };
    timeout(ANSWER, asked).await.ok().flatten()
}

async fn status(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> Option<u16> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut head = Vec::new();
    stream.take(HEAD).read_to_end(&mut head).await.ok()?;
    let text = String::from_utf8_lossy(&head);
    text.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn an_engine_is_there_only_if_it_answers_well() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let host = format!("unix://{}", socket.display());
        assert!(!answers(Some(&host)).await);
        let listener = UnixListener::bind(&socket).unwrap();
        let engine = tokio::spawn(async move {
            for answer in ["HTTP/1.1 200 OK\r\n\r\nOK", "HTTP/1.1 500 Sorry\r\n\r\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 256];
                let _ = stream.read(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        assert!(answers(Some(&host)).await);
        assert!(!answers(Some(&host)).await);
        engine.await.unwrap();
    }
}
