//! Every refusal is a problem document that says what, why and where.

use orca_proto::limits;
use orca_proto::token::Access;
use reqwest::{Body, Method};
use serde_json::Value;

use crate::harness::{Server, refusal};

async fn post(server: &Server, path: &str, kind: &str, body: impl Into<Body>) -> (u16, String, Value) {
    let request = server.operator(Method::POST, path).header("content-type", kind).body(body);
    refusal(request.send().await.unwrap()).await
}

#[tokio::test]
async fn a_path_that_is_no_route_is_404_and_a_wrong_method_405_with_allow() {
    let server = Server::start().await;
    for path in ["/", "/v1", "/v1/task", "/v2/tasks", "/v1/tasks/", "/%ff"] {
        let (status, kind, _) = refusal(server.get(path).send().await.unwrap()).await;
        assert_eq!((status, kind.as_str()), (404, "not-found"), "{path}");
    }
    for (method, path, allow) in [
        (Method::DELETE, "/v1/tasks", ["GET", "POST"].as_slice()),
        (Method::PUT, "/healthz", &["GET"]),
        (Method::GET, "/v1/batches", &["POST"]),
        ("BREW".parse().unwrap(), "/v1/nodes", &["GET", "POST"]),
    ] {
        let answer = server.request(method.clone(), path).send().await.unwrap();
        let allowed = answer.headers()["allow"].to_str().unwrap().to_owned();
        assert!(allow.iter().all(|method| allowed.contains(method)), "{path}: {allowed}");
        let (status, kind, _) = refusal(answer).await;
        assert_eq!((status, kind.as_str()), (405, "method-not-allowed"), "{method} {path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_refused_by_what_is_wrong_with_it() {
    let server = Server::start().await;
    let json = "application/json";
    for (path, kind, body, expected) in [
        ("/v1/tasks", "text/plain", &b"{}"[..], (415, "unsupported-media-type")),
        ("/v1/tasks", "application/jsonp", b"{}", (415, "unsupported-media-type")),
        ("/v1/tasks", "application/x-www-form-urlencoded", b"image=x", (415, "unsupported-media-type")),
        ("/v1/artifacts?name=x", json, b"{}", (415, "unsupported-media-type")),
        ("/v1/tasks", json, b"{\"container\":", (400, "malformed")),
        ("/v1/tasks", json, b"", (400, "malformed")),
        ("/v1/tasks", json, b"{\"container\":{\"image\":\"\xff\xfe\"}}", (400, "malformed")),
        ("/v1/tasks", "application/json; charset=utf-8", b"[]", (422, "validation")),
        ("/v1/tasks", json, b"{\"container\":{\"image\":\"x\"},\"colour\":1}", (422, "validation")),
        ("/v1/batches", json, b"{\"tasks\":[{\"container\":{}}]}", (422, "validation")),
    ] {
        let (status, urn, _) = post(&server, path, kind, body).await;
        assert_eq!((status, urn.as_str()), expected, "{path} {}", String::from_utf8_lossy(body));
    }
    let (_, _, body) =
        post(&server, "/v1/tasks", json, "{\"container\":{\"image\":\"x\"},\"colour\":1}").await;
    assert_eq!(body["errors"][0]["pointer"], "/colour");
    let (_, _, body) = post(&server, "/v1/tasks", json, "{\n\"a\" 1}").await;
    assert!(body["detail"].as_str().unwrap().contains("line 2 column"), "{body}");
    let squeezed = server.operator(Method::POST, "/v1/tasks").header("content-type", json);
    let squeezed = squeezed.header("content-encoding", "gzip").body("{}").send().await.unwrap();
    assert_eq!(refusal(squeezed).await.0, 415);
    let tasks = server.client(Access::Operator).tasks(&Default::default()).await.unwrap();
    assert!(tasks.items.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn an_array_in_the_place_of_an_object_is_refused_where_it_stands_and_of_a_batch_each_fault_is_told() {
    let server = Server::start().await;
    let plain = r#"{"container":{"image":"x"}}"#;
    let mut tasks = vec![plain; 600];
    tasks[567] = r#"{"container":{"image":"x"},"priority":101}"#;
    tasks[568] = r#"{"container":{"image":"x"},"run_at":"tomorrow"}"#;
    let batch = format!(r#"{{"tasks":[{}]}}"#, tasks.join(","));
    for (path, body, expected) in [
        (
            "/v1/tasks",
            r#"{"container":["debian:bookworm-slim",["echo","pos"]],"queue":"bad"}"#,
            &["/container"][..],
        ),
        ("/v1/tasks", r#"{"container":{"image":"x"},"retry":[5]}"#, &["/retry"]),
        ("/v1/cancellations", r#"{"selector":[[],"run"]}"#, &["/selector"]),
        ("/v1/tasks", r#"{"container":{"image":"x"},"deadline":"3000-01-01T00:00:00Z"}"#, &["/deadline"]),
        ("/v1/batches", &batch, &["/tasks/567/priority", "/tasks/568/run_at"]),
    ] {
        let (status, _, told) = post(&server, path, "application/json", body.to_owned()).await;
        let errors = told["errors"].as_array().unwrap();
        let pointers: Vec<&str> = errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect();
        assert_eq!((status, pointers.as_slice()), (422, expected), "{told}");
    }
    let late = r#"{"container":{"image":"x"},"deadline":"2999-12-31T00:00:00Z"}"#;
    let late =
        server.operator(Method::POST, "/v1/tasks").header("content-type", "application/json").body(late);
    assert_eq!(late.send().await.unwrap().status(), 201);
    server.stop().await;
}

#[tokio::test]
async fn a_body_over_its_routes_limit_is_413_whether_its_length_was_told_or_not() {
    let server = Server::start().await;
    for (path, limit) in [("/v1/tasks", limits::BODY), ("/v1/batches", limits::PLAN_BODY)] {
        let told = vec![b' '; limit + 1];
        let (status, urn, _) = post(&server, path, "application/json", told).await;
        assert_eq!((status, urn.as_str()), (413, "body-too-large"), "{path}");
        let pieces = (0..=limit >> 20).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1 << 20]));
        let untold = Body::wrap_stream(futures_util::stream::iter(pieces));
        let (status, urn, _) = post(&server, path, "application/json", untold).await;
        assert_eq!((status, urn.as_str()), (413, "body-too-large"), "{path} in pieces");
    }
    let largest = vec![b' '; limits::BODY];
    assert_eq!(post(&server, "/v1/tasks", "application/json", largest).await.0, 400);
    server.stop().await;
}

#[tokio::test]
async fn a_caller_who_is_refused_before_the_body_was_read_still_gets_the_answer() {
    let server = Server::start().await;
    let large = vec![b'x'; 64 << 20];
    let upload = server.request(Method::POST, "/v1/artifacts?name=x").bearer_auth("nonsense").body(large);
    assert_eq!(refusal(upload.send().await.unwrap()).await.0, 401);
    server.stop().await;
}

#[tokio::test]
async fn a_query_parameter_that_is_unknown_or_wrong_is_named() {
    let server = Server::start().await;
    for (path, pointer) in [
        ("/v1/tasks?colour=red", "?colour"),
        ("/v1/tasks?limit=many", "?limit"),
        ("/v1/tasks?parent=x", "?parent"),
        ("/v1/events?since=1", "?since"),
        ("/v1/nodes?x=1", "?x"),
        ("/healthz?x", "?x"),
    ] {
        let (status, _, body) = refusal(server.operator(Method::GET, path).send().await.unwrap()).await;
        assert_eq!((status, body["errors"][0]["pointer"].as_str()), (422, Some(pointer)), "{path}");
    }
    let (status, _, _) =
        refusal(server.operator(Method::GET, "/v1/tasks?name=%ff").send().await.unwrap()).await;
    assert_eq!(status, 400);
    server.stop().await;
}

#[tokio::test]
async fn an_idempotency_key_must_be_one_to_128_visible_characters() {
    let server = Server::start().await;
    for key in ["", " ", "a b", "ü", &"x".repeat(129)] {
        let request = server.operator(Method::POST, "/v1/tasks").header("idempotency-key", key);
        let request =
            request.header("content-type", "application/json").body("{\"container\":{\"image\":\"x\"}}");
        let (status, urn, _) = refusal(request.send().await.unwrap()).await;
        assert_eq!((status, urn.as_str()), (400, "malformed"), "{key:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn every_answer_carries_a_request_id_and_a_sane_one_is_kept() {
    let server = Server::start().await;
    let own = server.get("/healthz").header("x-request-id", "my-id-7").send().await.unwrap();
    assert_eq!(own.headers()["x-request-id"], "my-id-7");
    let (_, _, body) =
        refusal(server.get("/nowhere").header("x-request-id", "my-id-8").send().await.unwrap()).await;
    assert_eq!(body["request_id"], "my-id-8");
    let odd = server.get("/healthz").header("x-request-id", "a b\"c").send().await.unwrap();
    assert!(uuid::Uuid::parse_str(odd.headers()["x-request-id"].to_str().unwrap()).is_ok());
    server.stop().await;
}

#[tokio::test]
async fn large_bodies_that_one_caller_sends_slowly_hold_up_no_other_caller() {
    let server = Server::start().await;
    let (begun, mut sent) = tokio::sync::mpsc::unbounded_channel();
    let slow: Vec<_> = (0..5)
        .map(|_| {
            let begun = begun.clone();
            let pieces =
                futures_util::stream::iter((0..6).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1 << 20])));
            let stalled = futures_util::stream::poll_fn(move |_| {
                let _ = begun.send(());
                std::task::Poll::<Option<Result<Vec<u8>, std::io::Error>>>::Pending
            });
            let body = Body::wrap_stream(futures_util::StreamExt::chain(pieces, stalled));
            let request =
                server.operator(Method::POST, "/v1/batches").header("content-type", "application/json");
            tokio::spawn(request.body(body).send())
        })
        .collect();
    // Those that got no place are no longer read, so that the others have come to their middle.
    sent.recv().await.unwrap();
    let other = server.token_for(Access::Operator, "other", "bob");
    for _ in 0..3 {
        let request = server.request(Method::POST, "/v1/batches").bearer_auth(&other);
        let body = vec![b' '; 8 << 20];
        let answer = request.header("content-type", "application/json").body(body).send();
        let answer = tokio::time::timeout(std::time::Duration::from_secs(10), answer).await;
        assert_eq!(refusal(answer.expect("it waits for the slow ones").unwrap()).await.0, 400);
    }
    slow.iter().for_each(tokio::task::JoinHandle::abort);
    server.stop().await;
}

#[tokio::test]
async fn the_figures_of_all_namespaces_are_the_admins() {
    let server = Server::start().await;
    let answer = server.operator(Method::GET, "/metrics").send().await.unwrap();
    assert_eq!(refusal(answer).await.0, 403);
    assert_eq!(server.admin(Method::GET, "/metrics").send().await.unwrap().status(), 200);
    server.stop().await;
}
