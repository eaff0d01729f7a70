//! A registry of images that holds none: what an engine meets when an image does not exist anywhere.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the distribution API answers where there is no such manifest.
const UNKNOWN: &str = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;

/// Answers every question with "there is no such thing", until it is dropped. Engines speak plain HTTP to the loopback.
pub struct EmptyRegistry {
    port: u16,
    serving: JoinHandle<()>,
}

impl EmptyRegistry {
    /// Starts one on a port of the loopback.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback can be listened on");
        let port = listener.local_addr().expect("it is bound").port();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                answer(stream).await;
            }
        });
        Self { port, serving }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for EmptyRegistry {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(mut stream: TcpStream) {
    let mut head = [0; 4_096];
    let read = stream.read(&mut head).await.unwrap_or(0);
    let is_ping = head.get(..read).is_some_and(|head| head.starts_with(b"GET /v2/ "));
    let (status, body) = if is_ping { ("200 OK", "{}") } else { ("404 Not Found", UNKNOWN) };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\
         docker-distribution-api-version: registry/2.0\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // An engine that has hung up needs no answer.
    let _ = stream.write_all(answer.as_bytes()).await;
}
