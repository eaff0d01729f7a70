//! A coordinator of canned answers, and a way to run the built `orca` against it with nothing of the machine's own.

#![expect(clippy::unwrap_used, reason = "a test ends where its support fails")]

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// No wait in these tests is longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

/// The beginnings of request lines, and what is left to answer to each.
type Routes = Mutex<Vec<(&'static str, VecDeque<Canned>)>>;

/// Answers each route with its canned answers in turn, the last one again and again.
pub(crate) struct Fake {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A canned answer: status, content type, body; `hold` keeps the connection open afterwards.
#[derive(Clone)]
pub(crate) struct Canned {
    status: u16,
    kind: &'static str,
    body: String,
    hold: bool,
}

pub(crate) fn ok(body: &Value) -> Canned {
    Canned { status: 200, kind: "application/json", body: body.to_string(), hold: false }
}

pub(crate) fn problem(status: u16, slug: &str, title: &str, rest: Value) -> Canned {
    let mut body = json!({"type": format!("urn:orca:problem:{slug}"), "title": title, "status": status});
    if let (Some(body), Value::Object(rest)) = (body.as_object_mut(), rest) {
        body.extend(rest);
    }
    Canned { status, kind: "application/problem+json", body: body.to_string(), hold: false }
}

/// What was made.
pub(crate) fn created(body: &Value) -> Canned {
    Canned { status: 201, ..ok(body) }
}

/// An answer of somebody who is no coordinator.
pub(crate) fn page_of_a_proxy(status: u16) -> Canned {
    Canned { status, kind: "text/html", body: "<h1>gone</h1>".to_owned(), hold: false }
}

/// No answer at all, for as long as the client stays.
pub(crate) fn silence() -> Canned {
    Canned { status: 200, kind: "application/json", body: String::new(), hold: true }
}

/// An event stream that sends these and then stays open.
pub(crate) fn stream_of(events: &[Value]) -> Canned {
    let mut body = "id: 1\nevent: ping\ndata: {}\n\n".to_owned();
    for event in events {
        body.push_str(&format!("id: 2\nevent: {}\ndata: {event}\n\n", event["type"].as_str().unwrap()));
    }
    Canned { status: 200, kind: "text/event-stream", body, hold: true }
}

impl Fake {
    /// `routes`: the beginning of the request line, such as `GET /v1/tasks`, and its answers; the first match counts.
    pub(crate) fn start(routes: Vec<(&'static str, Vec<Canned>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let routes: Arc<Routes> =
            Arc::new(Mutex::new(routes.into_iter().map(|(line, answers)| (line, answers.into())).collect()));
        let record = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (routes, record) = (Arc::clone(&routes), Arc::clone(&record));
                std::thread::spawn(move || serve(stream, &routes, &record));
            }
        });
        Self { url, seen }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until a request that begins so has come in.
    pub(crate) fn wait_for(&self, line: &str) {
        until(|| self.seen().iter().any(|seen| seen.line.starts_with(line)), line);
    }
}

/// Waits for a condition.
pub(crate) fn until(condition: impl Fn() -> bool, what: &str) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn serve(mut stream: TcpStream, routes: &Routes, record: &Mutex<Vec<Seen>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(seen) = read_request(&mut reader) {
        let line = seen.line.clone();
        record.lock().unwrap().push(seen);
        let canned = {
            let mut routes = routes.lock().unwrap();
            let answers =
                routes.iter_mut().find(|(start, _)| line.starts_with(start)).map(|(_, answers)| answers);
            match answers {
                Some(answers) if answers.len() > 1 => answers.pop_front().unwrap(),
                Some(answers) => answers.front().unwrap().clone(),
                None => problem(404, "not-found", "Not found", json!({"detail": line})),
            }
        };
        let length =
            if canned.hold { String::new() } else { format!("content-length: {}\r\n", canned.body.len()) };
        let head = format!("HTTP/1.1 {} X\r\ncontent-type: {}\r\n{length}\r\n", canned.status, canned.kind);
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(canned.body.as_bytes())).is_err()
        {
            return;
        }
        if canned.hold {
            // Until the client goes.
            let _ = reader.read(&mut [0]);
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut headers = String::new();
    while !headers.ends_with("\r\n\r\n") && headers != "\r\n" {
        reader.read_line(&mut headers).ok().filter(|count| *count > 0)?;
    }
    let headers = headers.to_lowercase();
    let header = |name: &str| headers.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let mut body = Vec::new();
    if header("transfer-encoding:") == Some("chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = header("content-length:") {
        body.resize(length.parse().ok()?, 0);
        reader.read_exact(&mut body).ok()?;
    }
    Some(Seen { line: line.trim().to_owned(), headers, body })
}

/// Runs `orca` with an environment of its own.
pub(crate) struct Orca {
    pub(crate) home: TempDir,
    url: Option<String>,
}

impl Orca {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), url: None }
    }

    pub(crate) fn with(fake: &Fake) -> Self {
        Self { url: Some(fake.url.clone()), ..Self::new() }
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orca"));
        command.args(arguments).env_clear().env("HOME", self.home.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(self.home.path());
        if let Some(url) = &self.url {
            command.env("ORCA_URL", url).env("ORCA_TOKEN", "t0ken");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().unwrap())
    }
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
