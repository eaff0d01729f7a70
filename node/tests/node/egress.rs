//! What tasks that name hosts may reach: over `node.sock`, and by the agent's proxy.

use std::net::SocketAddr;
use std::time::Duration;

use orca_node::RuntimeKind;
use orca_proto::node::LeaseRef;
use orca_proto::problem::Kind;
use orca_proto::spec::{Network, NewTask};
use orca_proto::task::Outcome;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;

use crate::rig::{Rig, shell};
use crate::socket::{Inside, finish, kind};

const LIMIT: Duration = Duration::from_secs(30);

/// A host that says everything back.
pub(crate) async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

/// A rig whose operator opened the loopback.
async fn opened() -> Rig {
    Rig::with(RuntimeKind::Process, Duration::from_secs(30), |settings| {
        settings.egress.allow = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await
}

pub(crate) fn naming(mut task: NewTask, hosts: &[String]) -> NewTask {
    task.network = Network::Egress(hosts.to_vec());
    task
}

/// An attempt that may reach `hosts`, once it runs.
async fn attempt(rig: &Rig, hosts: &[String]) -> (LeaseRef, Inside) {
    let lease = rig.grant(naming(shell("echo \"ready $https_proxy\"; sleep 60"), hosts));
    rig.said(lease, "ready").await;
    (lease, Inside::of(rig, lease))
}

fn upgrade(inside: &Inside) -> String {
    format!("authorization: Bearer {}\r\nconnection: upgrade\r\nupgrade: orca-tunnel\r\n", inside.token)
}

/// Asks for a tunnel that is refused.
async fn refused(inside: &Inside, to: &str) -> Kind {
    kind(&inside.send("GET", &format!("/v1/egress/{to}"), &upgrade(inside), b"").await)
}

async fn tunnel(inside: &Inside, to: &str) -> UnixStream {
    let mut stream = UnixStream::connect(&inside.socket).await.unwrap();
    let head = format!("GET /v1/egress/{to} HTTP/1.1\r\nhost: x\r\n{}\r\n", upgrade(inside));
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream
}

/// Reads a head, and nothing behind it.
async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(LIMIT, stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn echoes(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    stream.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    timeout(LIMIT, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"hello");
}

#[tokio::test]
async fn a_tunnel_leads_to_a_host_that_the_task_names_and_to_no_other() {
    let rig = opened().await;
    let (host, other) = (echo().await, echo().await);
    let coordinator = rig.fake.url.strip_prefix("http://").unwrap().to_owned();
    let coordinator_port = coordinator.rsplit(':').next().unwrap().to_owned();
    let named = [
        host.to_string(),
        "169.254.169.254:80".to_owned(),
        "0.0.0.0:80".to_owned(),
        "10.0.0.1:80".to_owned(),
        coordinator.clone(),
        format!("127.0.0.2:{coordinator_port}"),
        "no-such-name.invalid:80".to_owned(),
        "127.0.0.1:1".to_owned(),
    ];
    let (lease, inside) = attempt(&rig, &named).await;

    let mut stream = tunnel(&inside, &host.to_string()).await;
    let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = stream.split();
    let say = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (_, heard) = timeout(LIMIT, async { tokio::join!(say, read.read_to_end(&mut back)) }).await.unwrap();
    heard.unwrap();
    assert!(back == sent);

    for to in [
        other.to_string().as_str(),
        &format!("localhost:{}", host.port()),
        &format!("127.0.0.2:{}", host.port()),
        "169.254.169.254:80",
        "[::ffff:169.254.169.254]:80",
        "0.0.0.0:80",
        "10.0.0.1:80",
        coordinator.as_str(),
        &format!("127.0.0.2:{coordinator_port}"),
    ] {
        assert_eq!(refused(&inside, to).await, Kind::EgressRefused, "{to}");
    }
    assert_eq!(refused(&inside, "no-such-name.invalid:80").await, Kind::Unreachable);
    assert_eq!(refused(&inside, "127.0.0.1:1").await, Kind::Unreachable);
    finish(rig, lease).await;
}

#[tokio::test]
async fn a_tunnel_needs_the_token_an_upgrade_and_a_host_in_its_one_reading() {
    let rig = opened().await;
    let host = echo().await;
    let (lease, inside) = attempt(&rig, &[host.to_string()]).await;
    let path = format!("/v1/egress/{host}");
    for token in ["", "authorization: Bearer 00\r\n"] {
        let headers = format!("{token}connection: upgrade\r\nupgrade: orca-tunnel\r\n");
        assert_eq!(kind(&inside.send("GET", &path, &headers, b"").await), Kind::Unauthenticated);
    }
    let token = format!("authorization: Bearer {}\r\n", inside.token);
    for headers in
        ["", "upgrade: orca-tunnel\r\n", "upgrade: websocket\r\n", "connection: upgrade\r\nupgrade: h2c\r\n"]
    {
        let answer = inside.send("GET", &path, &format!("{token}{headers}"), b"").await;
        assert_eq!(kind(&answer), Kind::Malformed, "{headers}");
    }
    let posted = inside.send("POST", &path, &upgrade(&inside), b"").await;
    assert_eq!(kind(&posted), Kind::MethodNotAllowed);
    for to in [
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "user@127.0.0.1:80",
        "2130706433:80",
        "0x7f.1:80",
        "0177.0.0.1:80",
        "127.1:80",
        "[fe80::1%25eth0]:80",
        "127.0.0.1:80%0d%0ahost:x",
        "127.0.0.1%00:80",
        "127.0.0.1%2f:80",
        "%ff:80",
    ] {
        assert_eq!(refused(&inside, to).await, Kind::Malformed, "{to}");
    }
    finish(rig, lease).await;
}

#[tokio::test]
async fn no_private_address_is_reached_without_the_operators_word() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let host = echo().await;
    let names = [host.to_string(), format!("localhost:{}", host.port())];
    let (lease, inside) = attempt(&rig, &names).await;
    for name in &names {
        assert_eq!(refused(&inside, name).await, Kind::EgressRefused, "{name}");
    }
    let closed = rig.grant(shell("echo ready; sleep 60"));
    rig.said(closed, "ready").await;
    let other = Inside::of(&rig, closed);
    assert_eq!(refused(&other, &names[0]).await, Kind::EgressRefused);
    rig.fake.change(|book| book.cancel.push(closed));
    rig.fake.report_of(closed).await;
    finish(rig, lease).await;
}

#[tokio::test]
async fn open_tunnels_are_bounded_and_leave_room_for_the_agent() {
    let rig = opened().await;
    let host = echo().await.to_string();
    let (lease, inside) = attempt(&rig, std::slice::from_ref(&host)).await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(tunnel(&inside, &host).await);
    }
    assert_eq!(refused(&inside, &host).await, Kind::TooManyRequests);
    assert_eq!(inside.json("GET", "/v1/attempt", b"").await.0, 200);
    for stream in &mut open {
        echoes(stream).await;
    }
    open.pop();
    // The node hears of the end by and by.
    let again = async {
        loop {
            let head = format!("GET /v1/egress/{host} HTTP/1.1\r\nhost: x\r\n{}\r\n", upgrade(&inside));
            let mut stream = UnixStream::connect(&inside.socket).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            if answer(&mut stream).await.starts_with("HTTP/1.1 101 ") {
                return;
            }
        }
    };
    timeout(LIMIT, again).await.unwrap();
    finish(rig, lease).await;
}

#[tokio::test]
async fn a_tunnel_ends_with_the_lease_and_with_the_attempt() {
    for is_lost in [true, false] {
        let rig = opened().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (lease, inside) = attempt(&rig, std::slice::from_ref(&host)).await;
        let mut program = tunnel(&inside, &host).await;
        let (mut outside, _) = listener.accept().await.unwrap();
        rig.fake.change(|book| if is_lost { book.lost.push(lease) } else { book.cancel.push(lease) });
        for stream in [&mut program as &mut (dyn AsyncRead + Unpin), &mut outside] {
            let mut byte = [0];
            let read = timeout(LIMIT, stream.read(&mut byte)).await.unwrap();
            assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        }
        rig.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_program_gets_out_by_the_agents_proxy_and_the_log_tells_what_it_did_not_get() {
    let rig = opened().await;
    let (host, other) = (echo().await, echo().await);
    let (lease, _inside) = attempt(&rig, &[host.to_string()]).await;
    let said = rig.fake.book().logs[&lease][0].text.clone();
    let proxy = said.strip_prefix("ready http://").unwrap().to_owned();
    let connect = async |to: SocketAddr| {
        let mut stream = TcpStream::connect(&proxy).await.unwrap();
        stream.write_all(format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n").as_bytes()).await.unwrap();
        (answer(&mut stream).await, stream)
    };
    let (head, mut stream) = connect(host).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    echoes(&mut stream).await;
    for _ in 0..2 {
        let (head, mut stream) = connect(other).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        let mut why = String::new();
        stream.read_to_string(&mut why).await.unwrap();
        assert!(why.contains("not among the hosts that the task names"), "{why}");
    }
    rig.said(lease, &format!("egress: {other} is not among the hosts")).await;
    let told = rig.fake.book().logs[&lease].iter().filter(|line| line.text.starts_with("egress:")).count();
    assert_eq!(told, 1);
    finish(rig, lease).await;
}

#[tokio::test]
async fn a_node_whose_operator_forbids_it_rejects_tasks_that_name_hosts() {
    let rig = Rig::with(RuntimeKind::Process, Duration::from_secs(30), |settings| {
        settings.egress.forbidden = true;
    })
    .await;
    let lease = rig.grant(naming(shell("true"), &["example.com".to_owned()]));
    let outcome = rig.fake.report_of(lease).await.outcome;
    let Outcome::Rejected { reason } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("--no-egress"), "{reason}");
    let plain = rig.grant(shell("true"));
    assert_eq!(rig.fake.report_of(plain).await.outcome, Outcome::Succeeded);
    rig.stop().await.unwrap();
}
