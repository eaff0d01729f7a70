//! The program's output on its way to the node: read by lines, numbered without gaps over all streams, sent in batches,
//! sent again until acknowledged.
//!
//! Memory is bounded by [`ROOM`]: when so much waits, the pipes are left unread and the program's writes block.

mod lines;

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use jiff::Timestamp;
use orca_proto::agent::routes;
use orca_proto::limits::LOG_LINES;
use orca_proto::log::{LogAck, LogAppend, LogLine, Stream};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use self::lines::LineSplitter;
use crate::contact::{Contact, Undelivered};

/// Bytes of lines that may wait for the node.
const ROOM: usize = 4 << 20;
/// Text in one batch, in bytes.
const BATCH: usize = 512 << 10;
/// Shortest time between two batches that are not full.
const PACE: Duration = Duration::from_millis(20);
/// What a line takes beside its text.
const PER_LINE: usize = 96;
/// How long a pipe may stay silent after the program's end before it is given up: somebody else holds it open.
const DRAIN: Duration = Duration::from_secs(1);
/// How long to wait when the node took nothing of a batch.
const NOT_NOW: Duration = Duration::from_millis(100);

struct Waiting {
    stream: Stream,
    at: Timestamp,
    text: String,
}

/// The near end: takes lines, and makes their writers wait when there is no room.
#[derive(Clone)]
pub(crate) struct LogQueue {
    room: Arc<Semaphore>,
    lines: mpsc::UnboundedSender<Waiting>,
}

/// The far end: sends what was taken.
pub(crate) struct LogShipper {
    room: Arc<Semaphore>,
    lines: mpsc::UnboundedReceiver<Waiting>,
}

/// A queue of lines and its shipper.
pub(crate) fn queue() -> (LogQueue, LogShipper) {
    let room = Arc::new(Semaphore::new(ROOM));
    let (sender, receiver) = mpsc::unbounded_channel();
    (LogQueue { room: Arc::clone(&room), lines: sender }, LogShipper { room, lines: receiver })
}

/// The agent's own lines are few and short, and matter most when there is no room: they take none.
fn cost(stream: Stream, text: &str) -> usize {
    if stream == Stream::System { 0 } else { text.len() + PER_LINE }
}

impl LogQueue {
    /// A line by the agent itself.
    pub(crate) fn note(&self, text: String) {
        let _ = self.lines.send(Waiting { stream: Stream::System, at: Timestamp::now(), text });
    }

    /// Reads `from` to its end; once `program_ended` turns true, no longer than it still has something to say.
    pub(crate) async fn read(
        self,
        mut from: pipe::Receiver,
        stream: Stream,
        mut program_ended: watch::Receiver<bool>,
    ) {
        let mut splitter = LineSplitter::default();
        let mut chunk = [0; 8 << 10];
        loop {
            let ended = *program_ended.borrow();
            let read = if ended {
                match timeout(DRAIN, from.read(&mut chunk)).await {
                    Ok(read) => read,
                    Err(_) => break,
                }
            } else {
                tokio::select! {
                    read = from.read(&mut chunk) => read,
                    changed = program_ended.changed() => if changed.is_ok() { continue } else { break },
                }
            };
            let count = match read {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            let lines = splitter.push(chunk.get(..count).unwrap_or_default());
            if !self.take(stream, lines).await {
                return;
            }
        }
        self.take(stream, splitter.finish()).await;
    }

    /// Whether the shipper is still there.
    async fn take(&self, stream: Stream, lines: Vec<String>) -> bool {
        let at = Timestamp::now();
        for text in lines {
            let room = u32::try_from(cost(stream, &text)).unwrap_or(u32::MAX);
            match self.room.acquire_many(room).await {
                Ok(permits) => permits.forget(),
                Err(_) => return false,
            }
            if self.lines.send(Waiting { stream, at, text }).is_err() {
                return false;
            }
        }
        true
    }
}

impl LogShipper {
    /// Sends lines until every queue is dropped and all lines are acknowledged, or the lease is lost.
    pub(crate) async fn ship(mut self, contact: Arc<Contact>) {
        let mut batch = Batch::new();
        let mut sent = Instant::now() - PACE;
        loop {
            if batch.append.lines.is_empty() {
                match self.lines.recv().await {
                    Some(line) => batch.push(line),
                    None => return,
                }
            }
            self.gather(&mut batch, sent + PACE).await;
            sent = Instant::now();
            let body = match serde_json::to_vec(&batch.append) {
                Ok(body) => body.into(),
                Err(error) => {
                    eprintln!(
                        "orca-agent: {} log lines cannot be written: {error}",
                        batch.append.lines.len()
                    );
                    self.room.add_permits(batch.settle(i64::MAX));
                    continue;
                }
            };
            match contact.deliver(Method::POST, routes::LOGS, body).await {
                Ok(answer) => {
                    // A node that wants less than was sent before has lost lines that are no longer here.
                    let wanted =
                        serde_json::from_slice::<LogAck>(&answer).map_or(i64::MAX, |ack| ack.next_seq);
                    let first = batch.append.lines.first().map_or(0, |line| line.seq);
                    self.room.add_permits(batch.settle(if wanted < first { i64::MAX } else { wanted }));
                    if wanted == first {
                        sleep(NOT_NOW).await;
                    }
                }
                Err(Undelivered::LeaseLost) => {
                    self.room.close();
                    return;
                }
                Err(Undelivered::Refused(problem)) => {
                    eprintln!("orca-agent: {} log lines were refused: {problem}", batch.append.lines.len());
                    self.room.add_permits(batch.settle(i64::MAX));
                }
            }
        }
    }

    /// Adds what is there, and what comes before `due`, as far as it fits.
    async fn gather(&mut self, batch: &mut Batch, due: Instant) {
        while !batch.is_full() {
            tokio::select! {
                biased;
                line = self.lines.recv() => match line {
                    Some(line) => batch.push(line),
                    None => return,
                },
                () = tokio::time::sleep_until(due) => return,
            }
        }
    }
}

/// The lines that were sent, or will be next, and are not acknowledged.
struct Batch {
    append: LogAppend,
    text: usize,
    next_seq: i64,
}

impl Batch {
    const fn new() -> Self {
        Self { append: LogAppend { lines: Vec::new() }, text: 0, next_seq: 0 }
    }

    fn push(&mut self, line: Waiting) {
        self.text += line.text.len();
        self.append.lines.push(LogLine {
            seq: self.next_seq,
            stream: line.stream,
            at: line.at,
            text: line.text,
        });
        self.next_seq += 1;
    }

    fn is_full(&self) -> bool {
        self.append.lines.len() >= LOG_LINES || self.text >= BATCH
    }

    /// Forgets the lines before `seq`; the room that they took.
    fn settle(&mut self, seq: i64) -> usize {
        let done = self.append.lines.partition_point(|line| line.seq < seq);
        let mut room = 0;
        for line in self.append.lines.drain(..done) {
            self.text -= line.text.len();
            room += cost(line.stream, &line.text);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_is_half_acknowledged_keeps_the_other_half() {
        let mut batch = Batch::new();
        for text in ["one", "two", "three"] {
            batch.push(Waiting { stream: Stream::Stdout, at: Timestamp::UNIX_EPOCH, text: text.to_owned() });
        }
        assert_eq!(batch.settle(2), 6 + 2 * PER_LINE);
        let left: Vec<_> = batch.append.lines.iter().map(|line| (line.seq, line.text.as_str())).collect();
        assert_eq!((left.as_slice(), batch.text), ([(2, "three")].as_slice(), 5));
        assert_eq!(batch.settle(i64::MAX), 5 + PER_LINE);
        batch.push(Waiting { stream: Stream::Stderr, at: Timestamp::UNIX_EPOCH, text: String::new() });
        assert_eq!(batch.append.lines[0].seq, 3);
    }
}
