//! The proxy on the container's loopback: what programs find there, what it passes on, and what it does not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use orca_proto::log::Stream;
use orca_proto::problem::{Kind, Problem};
use orca_proto::task::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::fake_node::{Agent, FakeNode, LIMIT};

/// A node whose program tells where its proxy is and waits for the test to be done; that proxy.
async fn with_proxy() -> (FakeNode, Agent, SocketAddr) {
    let script = r#"echo "$https_proxy"; until [ -e "$ORCA_DIR/done" ]; do sleep 0.02; done"#;
    let node = FakeNode::new(script).briefed(|brief| brief.egress = true);
    let agent = node.start();
    node.until("the proxy", |told| !told.lines.is_empty()).await;
    let url = node.text(Stream::Stdout)[0].clone();
    let address = url.strip_prefix("http://").unwrap().parse().unwrap();
    (node, agent, address)
}

async fn finish(node: &FakeNode, mut agent: Agent) {
    std::fs::write(node.path("done"), "").unwrap();
    assert_eq!(agent.ended().await.code(), Some(0));
    assert_eq!(node.report().outcome, Outcome::Succeeded);
}

/// A host outside that answers each connection by `answer`, given everything that was said up to an empty line.
async fn host(answer: impl Fn(String) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") && stream.read_buf(&mut heard).await.unwrap() > 0 {}
            stream.write_all(&answer(String::from_utf8(heard).unwrap())).await.unwrap();
        }
    });
    address
}

/// Everything that the proxy answers to `said`.
async fn ask(proxy: SocketAddr, said: &[u8]) -> String {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let _refused_early = stream.write_all(said).await;
    let mut answer = Vec::new();
    let _reset = timeout(LIMIT, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {answer:?}")).parse().unwrap()
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_and_one_end_may_close_first() {
    let (node, agent, proxy) = with_proxy().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let outside = listener.local_addr().unwrap();
    node.told(|told| told.outside.insert("api.example.com:443".to_owned(), Ok(outside)));
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        stream.write_all(&heard).await.unwrap();
        heard.len()
    });
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(b"CONNECT API.Example.com.:443 HTTP/1.1\r\nhost: other.example\r\n\r\n").await.unwrap();
    let mut head = vec![0; 19];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head, b"HTTP/1.1 200 OK\r\nda");
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    stream.write_all(&bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut back)).await.unwrap().unwrap();
    assert!(back == bytes);
    assert_eq!(served.await.unwrap(), bytes.len());
    assert_eq!(node.told(|told| told.asked.clone()), ["api.example.com:443"]);
    finish(&node, agent).await;
}

#[tokio::test]
async fn a_request_in_absolute_form_goes_where_its_target_says() {
    let (node, agent, proxy) = with_proxy().await;
    let address = host(|heard| {
        let body = heard.replace("\r\n", "\n");
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nkeep-alive: timeout=5\r\nconnection: keep-alive\r\nx-kept: 1\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    })
    .await;
    node.told(|told| told.outside.insert("api.example.com:80".to_owned(), Ok(address)));
    let answer = ask(
        proxy,
        b"GET http://API.example.com/a/b?c=d HTTP/1.1\r\nHost: metadata.internal\r\nProxy-Authorization: Basic eDp4\r\n\
          Proxy-Connection: keep-alive\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nX-Mine: 2\r\n\r\n",
    )
    .await;
    assert_eq!(status(&answer), 200, "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("x-kept: 1") && !head.contains("keep-alive: timeout"), "{head}");
    assert!(body.starts_with("GET /a/b?c=d HTTP/1.1\n"), "{body}");
    let mut fields: Vec<_> = body.lines().skip(1).filter(|line| !line.is_empty()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["connection: close", "host: api.example.com", "x-mine: 2"]);
    assert_eq!(node.told(|told| told.asked.clone()), ["api.example.com:80"]);
    finish(&node, agent).await;
}

#[tokio::test]
async fn a_body_goes_through_in_either_framing() {
    let (node, agent, proxy) = with_proxy().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let outside = listener.local_addr().unwrap();
    node.told(|told| told.outside.insert("a.example:8080".to_owned(), Ok(outside)));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut heard = Vec::new();
            while !heard.ends_with(b"hello") && !heard.ends_with(b"0\r\n\r\n") {
                assert!(stream.read_buf(&mut heard).await.unwrap() > 0);
            }
            let chunked = "HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n";
            stream.write_all(chunked.as_bytes()).await.unwrap();
        }
    });
    for body in
        ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
    {
        let said = format!(
            "POST http://a.example:8080/ HTTP/1.1\r\nHost: a.example:8080\r\nConnection: close\r\n{body}"
        );
        let answer = ask(proxy, said.as_bytes()).await;
        assert_eq!(status(&answer), 201, "{answer}");
        assert!(answer.contains("yes"), "{answer}");
    }
    finish(&node, agent).await;
}

#[tokio::test]
async fn a_refusal_says_what_and_why_and_the_log_says_it_once_per_host() {
    let (node, agent, proxy) = with_proxy().await;
    let outside = [
        ("gone.example:443", Kind::Unreachable, "nobody listens"),
        ("slow.example:443", Kind::Timeout, "took too long"),
        ("full.example:443", Kind::TooManyRequests, "64 are open"),
        ("odd.example:443", Kind::Unauthenticated, "wrong token"),
    ];
    node.told(|told| {
        for (host, kind, why) in outside {
            told.outside.insert(host.to_owned(), Err(Problem::new(kind, why)));
        }
    });
    for (host, expected, why) in [
        ("gone.example", 502, "nobody listens"),
        ("slow.example", 504, "took too long"),
        ("full.example", 429, "64 are open"),
        ("odd.example", 502, "wrong token"),
        ("evil.example", 403, "evil.example:443 is not among the hosts"),
    ] {
        for _ in 0..3 {
            let answer =
                ask(proxy, format!("CONNECT {host}:443 HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
            assert_eq!(status(&answer), expected, "{answer}");
            assert!(answer.contains(why), "{answer}");
        }
    }
    let plain =
        ask(proxy, b"GET http://evil.example/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&plain), 403, "{plain}");
    finish(&node, agent).await;
    assert_eq!(
        node.text(Stream::System),
        [
            "egress: evil.example:443 is not among the hosts that the task names",
            "egress: evil.example:80 is not among the hosts that the task names"
        ]
    );
}

#[tokio::test]
async fn what_is_no_request_for_a_host_never_reaches_the_node() {
    let (node, agent, proxy) = with_proxy().await;
    let long = format!("CONNECT a.example:443 HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let many = format!("CONNECT a.example:443 HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1_000));
    for said in [
        "CONNECT a.example HTTP/1.1\r\n\r\n",
        "CONNECT a.example:0 HTTP/1.1\r\n\r\n",
        "CONNECT a.example:65536 HTTP/1.1\r\n\r\n",
        "CONNECT a.example:443\r\nx: y HTTP/1.1\r\n\r\n",
        "CONNECT a.example:443%0d%0ax:y HTTP/1.1\r\n\r\n",
        "CONNECT user@a.example:443 HTTP/1.1\r\n\r\n",
        "CONNECT user:pw@a.example:443 HTTP/1.1\r\n\r\n",
        "CONNECT [fe80::1%25eth0]:443 HTTP/1.1\r\n\r\n",
        "CONNECT 2130706433:80 HTTP/1.1\r\n\r\n",
        "CONNECT 0x7f.1:80 HTTP/1.1\r\n\r\n",
        "CONNECT ../attempt:80 HTTP/1.1\r\n\r\n",
        "CONNECT a.example/../attempt:80 HTTP/1.1\r\n\r\n",
        "CONNECT / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http://u:p@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http://a.example:0/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "POST http://a.example/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03",
        &long,
        &many,
    ] {
        let answer = ask(proxy, said.as_bytes()).await;
        let refused = answer.is_empty() || [400, 431].contains(&status(&answer));
        assert!(refused, "{:?}: {answer}", &said[..said.len().min(60)]);
    }
    assert_eq!(node.told(|told| told.asked.clone()), Vec::<String>::new());
    finish(&node, agent).await;
}

#[tokio::test]
async fn thousands_of_connections_keep_neither_the_log_nor_the_report_from_the_node() {
    let (node, agent, proxy) = with_proxy().await;
    let mut idle = Vec::new();
    for n in 0..1_000 {
        // The kernel's queue of those that nobody has accepted fills up, too.
        let Ok(Ok(mut stream)) = timeout(Duration::from_millis(50), TcpStream::connect(proxy)).await else {
            break;
        };
        let _ = stream.write_all(format!("CONNECT a{n}.example:443 HT").as_bytes()).await;
        idle.push(stream);
    }
    assert!(idle.len() >= 128, "{}", idle.len());
    finish(&node, agent).await;
}

#[tokio::test]
async fn a_program_finds_the_proxy_in_each_variable_that_its_task_does_not_set() {
    let script = "env | grep -i _proxy | sort";
    let names = |node: &FakeNode| -> BTreeMap<String, String> {
        let lines = node.text(Stream::Stdout);
        let pairs = lines.iter().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let clean = |node: &FakeNode| {
        let mut command = node.command(&[]);
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command.spawn().unwrap().wait_with_output()
    };
    let node = FakeNode::new(script).briefed(|brief| brief.egress = true);
    clean(&node).await.unwrap();
    let found = names(&node);
    let proxy = found["HTTP_PROXY"].clone();
    assert!(proxy.starts_with("http://127.0.0.1:"), "{proxy}");
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        assert_eq!((&found[name], &found[&name.to_lowercase()]), (&proxy, &proxy));
    }
    assert_eq!((found["NO_PROXY"].as_str(), found.len()), ("localhost,127.0.0.1,::1", 8));

    let own = FakeNode::new(script).briefed(|brief| {
        brief.egress = true;
        brief.env.insert("https_proxy".to_owned(), "http://own:1".to_owned());
        brief.env.insert("NO_PROXY".to_owned(), "*".to_owned());
    });
    clean(&own).await.unwrap();
    let found = names(&own);
    assert_eq!((found["https_proxy"].as_str(), found["NO_PROXY"].as_str()), ("http://own:1", "*"));
    assert!(
        !found.contains_key("HTTPS_PROXY") && !found.contains_key("no_proxy") && found.len() == 6,
        "{found:?}"
    );

    let closed = FakeNode::new(script);
    clean(&closed).await.unwrap();
    assert_eq!(names(&closed), BTreeMap::new());
}
