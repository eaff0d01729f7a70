//! A node that remembers what it was told: `node.sock` in a directory of its own, and switches for its moods.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use orca_proto::agent::{AgentReport, Brief, Health, Started, TUNNEL, files, routes};
use orca_proto::artifact::Artifact;
use orca_proto::attempt::{Children, Received};
use orca_proto::duration::Span;
use orca_proto::ids::{ArtifactId, FencingToken, TaskId};
use orca_proto::log::{LogAck, LogAppend, LogLine, Stream};
use orca_proto::plan::Enqueued;
use orca_proto::problem::{Kind, Problem};
use orca_proto::secret::{AttemptSecrets, Delivered};
use orca_proto::spec::Role;
use orca_proto::task::{Outcome, Progress};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) const TOKEN: &str = "the-attempts-token";
/// Longer than anything here may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// What the node was told, and how it answers.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) lines: Vec<LogLine>,
    pub(crate) batches: Vec<usize>,
    pub(crate) started: Vec<u32>,
    pub(crate) reports: Vec<AgentReport>,
    /// Lines that were there when the first report came.
    pub(crate) lines_at_report: usize,
    pub(crate) progress: Vec<Progress>,
    pub(crate) result: Option<Value>,
    pub(crate) plan: Option<Value>,
    pub(crate) children: Vec<Children>,
    pub(crate) artifacts: BTreeMap<String, Bytes>,
    /// Signals that have come, by name.
    pub(crate) signals: BTreeMap<String, Value>,
    /// The secrets of the task.
    pub(crate) secrets: Vec<Delivered>,
    /// The paths and queries of the waits for signals.
    pub(crate) awaited: Vec<String>,
    /// What hosts (with their ports) there are outside. All others are refused.
    pub(crate) outside: BTreeMap<String, Result<SocketAddr, Problem>>,
    /// The hosts that were asked for.
    pub(crate) asked: Vec<String>,
    /// Takes no lines, as a node whose coordinator is away.
    pub(crate) hold_logs: bool,
    /// Takes at most this many lines of a batch.
    pub(crate) lines_per_batch: Option<usize>,
    /// Answers every post with this.
    pub(crate) refuse: Option<Problem>,
    pub(crate) unauthorised: usize,
}

pub(crate) struct FakeNode {
    pub(crate) root: tempfile::TempDir,
    brief: Brief,
    told: Arc<Mutex<Told>>,
    changes: watch::Sender<()>,
    server: Option<JoinHandle<()>>,
}

/// A running agent.
pub(crate) struct Agent {
    child: Child,
    pub(crate) pid: Pid,
}

impl Agent {
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(LIMIT, self.child.wait()).await.expect("the agent must end").unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid, signal).unwrap();
    }
}

impl FakeNode {
    /// A node whose brief is to run `script` with `/bin/sh`.
    pub(crate) fn new(script: &str) -> Self {
        Self::with_command(&["/bin/sh", "-c", script])
    }

    pub(crate) fn with_command(command: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for dir in ["in", "out", "spool", "files", "secrets"] {
            std::fs::create_dir(root.path().join(dir)).unwrap();
        }
        std::fs::write(root.path().join(files::TOKEN), TOKEN).unwrap();
        std::fs::write(root.path().join(files::INPUT), "{\"n\":7}").unwrap();
        let brief = Brief {
            task: TaskId::new(),
            token: FencingToken(3),
            attempt: 2,
            max_attempts: 3,
            role: Role::Work,
            step: None,
            image: "scratch-image:1".to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            env: BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())]),
            workdir: None,
            input: serde_json::json!({"n": 7}),
            artifacts: Vec::new(),
            egress: false,
            has_dependencies: false,
            has_secrets: false,
            start_to_close: Span::secs(60),
            grace: Span::secs(20),
            orphan_after: Span::secs(60),
        };
        let mut node =
            Self { root, brief, told: Arc::default(), changes: watch::Sender::new(()), server: None };
        node.come_back();
        node
    }

    /// Changes the brief; call it before the agent starts.
    pub(crate) fn briefed(mut self, change: impl FnOnce(&mut Brief)) -> Self {
        change(&mut self.brief);
        self.come_back();
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn brief(&self) -> &Brief {
        &self.brief
    }

    /// Serves the socket, in place of whatever served it before.
    pub(crate) fn come_back(&mut self) {
        self.go_away();
        let listener = UnixListener::bind(self.path(files::NODE_SOCKET)).unwrap();
        let (told, changes, brief) = (Arc::clone(&self.told), self.changes.clone(), self.brief.clone());
        self.server = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (told, changes, brief) = (Arc::clone(&told), changes.clone(), brief.clone());
                let service = service_fn(move |request| {
                    let (told, changes, brief) = (Arc::clone(&told), changes.clone(), brief.clone());
                    async move {
                        let response = match request.uri().path().strip_prefix(routes::EGRESS) {
                            Some(_) => tunnel(request, &told).await,
                            None => answer(request, &brief, &told).await,
                        };
                        changes.send_replace(());
                        Ok::<_, Infallible>(response)
                    }
                });
                connections.spawn(async move {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        }));
    }

    /// Ends like a daemon that was killed: the socket's file stays, nobody answers.
    pub(crate) fn go_away(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
        let _ = std::fs::remove_file(self.path(files::NODE_SOCKET));
    }

    pub(crate) fn told<T>(&self, look: impl FnOnce(&mut Told) -> T) -> T {
        look(&mut self.told.lock().unwrap())
    }

    /// Waits until `holds` of what was told.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Told) -> bool) {
        let mut changes = self.changes.subscribe();
        let wait = async {
            while !self.told(|told| holds(told)) {
                changes.changed().await.unwrap();
            }
        };
        timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"));
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orca-agent"));
        command.args(arguments).env("ORCA_DIR", self.root.path()).kill_on_drop(true);
        command
    }

    pub(crate) fn start(&self) -> Agent {
        let child = self.command(&[]).stdin(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        Agent { child, pid }
    }

    /// Starts an agent and waits until its program runs and has said `ready`.
    pub(crate) async fn start_until_ready(&self) -> Agent {
        let agent = self.start();
        self.until("the program says that it is ready", |told| {
            told.lines.iter().any(|line| line.text == "ready")
        })
        .await;
        agent
    }

    /// Runs an agent to its end, which must be a good one; what it reported.
    pub(crate) async fn run(&self) -> AgentReport {
        let status = self.start().ended().await;
        assert_eq!((status.code(), status.signal()), (Some(0), None));
        self.report()
    }

    /// The one report.
    pub(crate) fn report(&self) -> AgentReport {
        self.told(|told| {
            assert_eq!(told.reports.len(), 1, "{:?}", told.reports);
            told.reports[0].clone()
        })
    }

    pub(crate) async fn outcome(&self) -> Outcome {
        self.run().await.outcome
    }

    pub(crate) fn text(&self, stream: Stream) -> Vec<String> {
        self.told(|told| {
            let lines = told.lines.iter().filter(|line| line.stream == stream);
            lines.map(|line| line.text.clone()).collect()
        })
    }

    /// Runs a verb as a program of the container would.
    pub(crate) async fn verb(&self, arguments: &[&str]) -> Output {
        timeout(LIMIT, self.command(arguments).stdin(Stdio::null()).output()).await.unwrap().unwrap()
    }

    /// Sends a request to the agent's own socket.
    pub(crate) async fn ask_agent(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: &str,
    ) -> (u16, String, Bytes) {
        let stream = UnixStream::connect(self.path(files::AGENT_SOCKET)).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "agent")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Full::<Bytes>::from(body.to_owned()))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let media =
            response.headers().get("content-type").map_or("", |media| media.to_str().unwrap()).to_owned();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        connection.abort();
        (status, media, body)
    }

    pub(crate) async fn health(&self) -> Health {
        let (status, _, body) = self.ask_agent(Method::GET, routes::HEALTH, TOKEN, "").await;
        assert_eq!(status, 200);
        serde_json::from_slice(&body).unwrap()
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.go_away();
    }
}

/// Whether the process is there and not only a zombie.
pub(crate) fn runs(pid: &str) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'),
        Err(_) => false,
    }
}

async fn answer(request: Request<Incoming>, brief: &Brief, told: &Mutex<Told>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return refuse(Problem::new(Kind::Malformed, "the body broke off"));
    };
    let body = body.to_bytes();
    let mut told = told.lock().unwrap();
    if head.headers.get("authorization").is_none_or(|value| value != format!("Bearer {TOKEN}").as_str()) {
        told.unauthorised += 1;
        return refuse(Problem::new(Kind::Unauthenticated, "wrong token"));
    }
    if let Some(problem) = told.refuse.clone().filter(|_| head.method != Method::GET) {
        return refuse(problem);
    }
    let path = head.uri.path();
    match (head.method, path) {
        (Method::GET, routes::ATTEMPT) => json(brief),
        (Method::GET, routes::SECRETS) if !told.secrets.is_empty() => {
            json(&AttemptSecrets { secrets: told.secrets.clone() })
        }
        (Method::POST, routes::STARTED) => {
            told.started.push(serde_json::from_slice::<Started>(&body).unwrap().pid);
            nothing()
        }
        (Method::POST, routes::LOGS) => {
            if told.hold_logs {
                return refuse(Problem::new(Kind::Unavailable, "the coordinator is away"));
            }
            let append: LogAppend = serde_json::from_slice(&body).unwrap();
            assert!(
                append.lines.len() <= orca_proto::limits::LOG_LINES && body.len() < orca_proto::limits::BODY
            );
            told.batches.push(append.lines.len());
            let most = told.lines_per_batch.unwrap_or(usize::MAX);
            for line in append.lines.into_iter().take(most) {
                let next = told.lines.len() as i64;
                assert!(line.seq <= next, "a gap: {} after {next} lines", line.seq);
                if line.seq == next {
                    told.lines.push(line);
                }
            }
            json(&LogAck { next_seq: told.lines.len() as i64 })
        }
        (Method::POST, routes::REPORT) => {
            let report = serde_json::from_slice(&body).unwrap();
            if told.reports.is_empty() {
                told.lines_at_report = told.lines.len();
            }
            told.reports.push(report);
            nothing()
        }
        (Method::POST, routes::PROGRESS) => {
            told.progress.push(serde_json::from_slice(&body).unwrap());
            nothing()
        }
        (Method::PUT, routes::RESULT) => {
            told.result = Some(serde_json::from_slice(&body).unwrap());
            nothing()
        }
        (Method::PUT, routes::PLAN) => {
            told.plan = Some(serde_json::from_slice(&body).unwrap());
            nothing()
        }
        (Method::POST, routes::CHILDREN) => {
            let children: Children = serde_json::from_slice(&body).unwrap();
            let ids = children.tasks.iter().map(|_| TaskId::new()).collect();
            told.children.push(children);
            json(&Enqueued { ids, existing: Vec::new() })
        }
        (method, path) => {
            match (method, path.strip_prefix(routes::ARTIFACTS).and_then(|rest| rest.strip_prefix('/'))) {
                (Method::PUT, Some(name)) => {
                    let artifact = Artifact {
                        id: ArtifactId::new(),
                        name: name.to_owned(),
                        size: body.len() as u64,
                        sha256: "0".repeat(64),
                        task: Some(brief.task),
                        created_at: jiff::Timestamp::UNIX_EPOCH,
                    };
                    told.artifacts.insert(artifact.id.to_string(), body);
                    json(&artifact)
                }
                (Method::GET, None) if path.starts_with(routes::SIGNALS) => {
                    told.awaited.push(head.uri.to_string());
                    match told.signals.get(path.rsplit('/').next().unwrap()) {
                        Some(payload) => json(&Received { payload: payload.clone() }),
                        None => nothing(),
                    }
                }
                (Method::GET, Some(id)) if told.artifacts.contains_key(id) => {
                    Response::new(Full::new(told.artifacts[id].clone()))
                }
                _ => refuse(Problem::new(Kind::NotFound, format!("no {path} here"))),
            }
        }
    }
}

async fn tunnel(request: Request<Incoming>, told: &Mutex<Told>) -> Response<Full<Bytes>> {
    let host = request.uri().path().rsplit('/').next().unwrap().to_owned();
    assert_eq!(request.headers()["authorization"], format!("Bearer {TOKEN}").as_str());
    assert_eq!(request.headers()["upgrade"], TUNNEL);
    let known = {
        let mut told = told.lock().unwrap();
        told.asked.push(host.clone());
        told.outside.get(&host).cloned()
    };
    let known = known.unwrap_or_else(|| {
        Err(Problem::new(Kind::EgressRefused, format!("{host} is not among the hosts that the task names")))
    });
    let address = match known {
        Ok(address) => address,
        Err(problem) => return refuse(problem),
    };
    let mut outside = TcpStream::connect(address).await.unwrap();
    tokio::spawn(async move {
        let mut inside = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
    });
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", TUNNEL)
        .body(Full::default())
        .unwrap()
}

fn json(body: &impl serde::Serialize) -> Response<Full<Bytes>> {
    Response::new(Full::from(serde_json::to_vec(body).unwrap()))
}

fn nothing() -> Response<Full<Bytes>> {
    Response::builder().status(204).body(Full::default()).unwrap()
}

fn refuse(problem: Problem) -> Response<Full<Bytes>> {
    Response::builder()
        .status(problem.status)
        .body(Full::from(serde_json::to_vec(&problem).unwrap()))
        .unwrap()
}
