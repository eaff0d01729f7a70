//! Whoever hangs up in the middle of a request: the coordinator may have carried it out, wholly or not at all.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::HUNG_UP;
use super::operator::Operator;
use crate::history::{Answer, Asked, Call, What};

impl Operator {
    /// Sends a request that enqueues, or a part of it, and closes the connection soon after. Half of these have an
    /// idempotency key and are asked for again in the ordinary way.
    pub(super) async fn hang_up(&mut self) {
        let task = self.task();
        let ask = task.labels.get("ask").cloned().unwrap_or_default();
        let key = self.rng.bool().then(|| format!("key-{ask}"));
        let call = Call::Enqueue {
            namespace: self.namespace.to_owned(),
            tasks: vec![Asked { ask }],
            key: key.clone(),
            unique: None,
            bad: false,
        };
        let at = self.rng.usize(0..self.addresses.len().max(1));
        let Some(address) = self.addresses.get(at).and_then(|url| url.strip_prefix("http://")) else {
            return;
        };
        let Ok(body) = serde_json::to_string(&task) else { return };
        let keyed = key.as_ref().map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
        let request = format!(
            "POST /v1/tasks HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             {keyed}Content-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        let whole = self.rng.u8(0..5) > 0;
        let length = if whole { request.len() } else { self.rng.usize(0..request.len()) };
        let wait = Duration::from_micros(self.rng.u64(0..8_000));
        let id = self.recorder.sent(&self.who, call);
        if let Ok(Ok(mut stream)) =
            tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address)).await
        {
            let _ = stream.write_all(request.as_bytes().get(..length).unwrap_or_default()).await;
            tokio::time::sleep(wait).await;
        }
        self.recorder.note(&self.who, What::Answer { id, answer: Answer::None { why: HUNG_UP.to_owned() } });
        if key.is_some() {
            let _ = self.enqueue(&task, key.as_deref()).await;
        }
    }
}
