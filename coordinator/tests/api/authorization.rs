//! Nobody does what their token does not allow; another namespace's things look like things that do not exist.

use orca_proto::client::Client;
use orca_proto::duration::Span;
use orca_proto::ids::TaskId;
use orca_proto::token::{Access, SigningKey};
use reqwest::{Method, Response};
use serde_json::Value;

use crate::harness::{Server, refusal, task};

const ROLES: [Access; 4] = [Access::Admin, Access::Operator, Access::Planner, Access::Worker];

/// One operation of the committed document: its method, a path to call, and the roles that may.
struct Operation {
    method: Method,
    path: String,
    roles: Vec<String>,
}

fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(&orca_coordinator::openapi_json()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, item)| {
        let path = path.replace("{token}", "1").replace("{name}", "file");
        let path = path.replace("{queue}", "q").replace("{group}", "g").replace("{namespace}", "n");
        let path = path.replace("{id}", &TaskId::new().to_string());
        item.as_object().unwrap().iter().map(move |(method, operation)| {
            let security = operation["security"].as_array().unwrap();
            let roles = security.iter().flat_map(|one| one["bearer"].as_array().into_iter().flatten());
            Operation {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                roles: roles.map(|role| role.as_str().unwrap().to_owned()).collect(),
            }
        })
    });
    all.collect()
}

async fn call(server: &Server, operation: &Operation, token: Option<&str>) -> Response {
    let mut request = server.request(operation.method.clone(), &operation.path);
    if operation.method != Method::GET {
        request = request.header("content-type", "application/json").body("{}");
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn every_operation_refuses_a_caller_without_a_token_and_every_role_it_does_not_name() {
    let server = Server::start().await;
    let mut guarded = 0;
    for operation in operations() {
        let name = format!("{} {}", operation.method, operation.path);
        let anonymous = call(&server, &operation, None).await;
        if operation.roles.is_empty() {
            assert!(
                ["/healthz", "/readyz", "/openapi.json"].contains(&operation.path.as_str()),
                "{name} is open to all"
            );
            assert_eq!(anonymous.status(), 200, "{name}");
            continue;
        }
        guarded += 1;
        assert_eq!(anonymous.headers()["www-authenticate"], "Bearer", "{name}");
        let (status, kind, _) = refusal(anonymous).await;
        assert_eq!((status, kind.as_str()), (401, "unauthenticated"), "{name}");
        for role in ROLES {
            let answer = call(&server, &operation, Some(&server.token(role))).await;
            // An admin may do all that an operator may.
            let operator = role == Access::Admin && operation.roles.contains(&Access::Operator.to_string());
            let allowed = operator || operation.roles.contains(&role.to_string());
            let status = answer.status().as_u16();
            assert_eq!(status == 403, !allowed, "{name} as {role}: {status}");
            assert!(status != 401 && status < 500, "{name} as {role}: {status}");
        }
    }
    assert!(guarded >= 24, "only {guarded} operations need a token");
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_is_altered_foreign_expired_or_doubled_is_refused_and_never_repeated() {
    let server = Server::start().await;
    let good = server.token(Access::Operator);
    let foreign = SigningKey::generate().unwrap();
    let now = jiff::Timestamp::now();
    let issue =
        |key: &SigningKey, at| key.issue("x", Access::Operator, "default", at, Span::secs(60)).unwrap();
    let expired = server.expired_token();
    let (head, signature) = good.rsplit_once('.').unwrap();
    let altered = format!("{head}.{}", signature.chars().rev().collect::<String>());
    for header in [
        format!("Bearer {altered}"),
        format!("Bearer {}", issue(&foreign, now)),
        format!("Bearer {expired}"),
        format!("Basic {good}"),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        good.clone(),
        format!("Bearer {}", "x".repeat(10_000)),
    ] {
        let answer = server.get("/v1/tasks").header("authorization", &header).send().await.unwrap();
        let (status, kind, body) = refusal(answer).await;
        assert_eq!((status, kind.as_str()), (401, "unauthenticated"), "{header}");
        let token = header.split(' ').next_back().unwrap();
        assert!(token.len() < 20 || !body.to_string().contains(token), "{body}");
    }
    let twice = server.get("/v1/tasks").bearer_auth(&good).bearer_auth(&good).send().await.unwrap();
    assert_eq!(refusal(twice).await.0, 401);
    let lower =
        server.get("/v1/tasks").header("authorization", format!("bearer {good}")).send().await.unwrap();
    assert_eq!(lower.status(), 200);
    server.stop().await;
}

#[tokio::test]
async fn another_namespaces_things_look_exactly_like_things_that_do_not_exist() {
    let server = Server::start().await;
    let ours = server.client(Access::Operator);
    let task = ours.enqueue(&task("secret"), None).await.unwrap().summary.id;
    let file = ours.upload("file", "bytes".into()).await.unwrap().id;
    let node = server.worker().await.id;
    let absent = TaskId::new();
    let stranger = server.token_for(Access::Operator, "elsewhere", "eve");
    let node_stranger = server.token_for(Access::Worker, "elsewhere", "eve");
    for (method, template, id, body, token) in [
        (Method::GET, "/v1/tasks/{}", task.to_string(), None, &stranger),
        (Method::GET, "/v1/tasks/{}/logs", task.to_string(), None, &stranger),
        (Method::GET, "/v1/tasks/{}/logs?follow=true", task.to_string(), None, &stranger),
        (Method::GET, "/v1/tasks/{}/artifacts", task.to_string(), None, &stranger),
        (Method::GET, "/v1/events?task={}", task.to_string(), None, &stranger),
        (Method::POST, "/v1/tasks/{}/cancellation", task.to_string(), Some("{}"), &stranger),
        (Method::POST, "/v1/tasks/{}/retries", task.to_string(), Some("{}"), &stranger),
        (Method::POST, "/v1/tasks/{}/approval", task.to_string(), Some(r#"{"approve":true}"#), &stranger),
        (Method::POST, "/v1/tasks/{}/signals", task.to_string(), Some(r#"{"name":"go"}"#), &stranger),
        (Method::GET, "/v1/tasks/{}/attempts/1/signals/go", task.to_string(), None, &node_stranger),
        (Method::GET, "/v1/artifacts/{}", file.to_string(), None, &stranger),
        (Method::GET, "/v1/artifacts/{}/content", file.to_string(), None, &stranger),
        (Method::GET, "/v1/nodes/{}", node.to_string(), None, &stranger),
        (Method::POST, "/v1/tasks/{}/attempts/1/start", task.to_string(), Some("{}"), &node_stranger),
        (Method::GET, "/v1/tasks/{}/attempts/1/dependencies", task.to_string(), None, &node_stranger),
        (Method::GET, "/v1/tasks/{}/attempts/1/secrets", task.to_string(), None, &node_stranger),
    ] {
        let mut bodies = Vec::new();
        for id in [id, absent.to_string(), "not-even-an-id".to_owned()] {
            let mut request = server.request(method.clone(), &template.replace("{}", &id)).bearer_auth(token);
            if let Some(body) = body {
                request = request.header("content-type", "application/json").body(body);
            }
            let (status, _, mut body) = refusal(request.send().await.unwrap()).await;
            // A query that does not parse is told; it does not say what exists.
            if template.contains("?task=") && status == 422 {
                continue;
            }
            body["request_id"] = Value::Null;
            bodies.push((status, body));
        }
        assert!([404, 409].contains(&bodies[0].0), "{template}: {bodies:?}");
        assert_eq!(bodies[0], bodies[1], "{template}");
        if bodies[0].0 == 404 && bodies.len() > 2 {
            assert_eq!(bodies[0], bodies[2], "{template}");
        }
    }
    let theirs = Client::new(&server.url, &stranger).unwrap();
    assert!(theirs.tasks(&Default::default()).await.unwrap().items.is_empty());
    assert!(theirs.nodes().await.unwrap().items.is_empty());
    assert_eq!(ours.tasks(&Default::default()).await.unwrap().items.len(), 1);
    server.stop().await;
}
