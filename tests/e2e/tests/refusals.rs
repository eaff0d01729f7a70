//! Bad input over plain HTTP: each is a problem document, and nothing is stored.
#![expect(clippy::panic, clippy::unwrap_used, reason = "tests report by panicking")]

use orca_e2e::{Shape, System, scenario};
use orca_proto::limits;
use orca_proto::problem::{Kind, MEDIA_TYPE, Problem};
use orca_proto::task::TaskFilter;
use orca_proto::token::Access;
use serde_json::json;

struct Case<'a> {
    name: &'a str,
    path: &'a str,
    token: Option<&'a str>,
    content_type: &'a str,
    body: Vec<u8>,
    kind: Kind,
    /// Must be in the problem's detail or among its fields.
    told: &'a str,
}

async fn refused(system: &System, case: Case<'_>) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = http.post(format!("{}{}", system.url(), case.path)).body(case.body);
    request = request.header("content-type", case.content_type);
    if let Some(token) = case.token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.unwrap_or_else(|error| panic!("{}: no answer: {error:?}", case.name));
    let status = response.status().as_u16();
    let media_type = response.headers().get("content-type").cloned();
    let text = response.text().await.unwrap();
    let problem: Problem =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}: {text}", case.name));
    assert_eq!(problem.kind, case.kind, "{}: {text}", case.name);
    assert_eq!(status, case.kind.status(), "{}: {text}", case.name);
    assert!(media_type.is_some_and(|media_type| media_type == MEDIA_TYPE), "{}", case.name);
    assert!(text.contains(case.told), "{}: {text}", case.name);
    assert!(problem.request_id.is_some(), "{}: {text}", case.name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_answered_with_problems_and_store_nothing() {
    scenario(Shape { workers: 0, ..Shape::default() }, async |system| {
        let good = json!({ "container": { "image": "debian" } });
        let operator = system.token("operator", Access::Operator);
        let operator = operator.as_str();
        let worker = system.token("w", Access::Worker);
        let (claims, signature) = operator.rsplit_once('.').unwrap();
        let other = system.token("operator", Access::Operator);
        assert_ne!(Some(signature), other.rsplit_once('.').map(|(_, signature)| signature));
        let altered = format!("{claims}.{}", other.rsplit_once('.').unwrap().1);
        let circular = json!({ "tasks": [
            { "key": "a", "depends_on": ["b"], "container": { "image": "debian" } },
            { "key": "b", "depends_on": ["a"], "container": { "image": "debian" } },
        ]});
        let cases = [
            Case {
                name: "an unknown field",
                path: "/v1/tasks",
                token: Some(operator),
                content_type: "application/json",
                body: json!({ "container": { "image": "debian" }, "prioritty": 3 }).to_string().into(),
                kind: Kind::Validation,
                told: "prioritty",
            },
            Case {
                name: "a value out of range",
                path: "/v1/tasks",
                token: Some(operator),
                content_type: "application/json",
                body: json!({ "container": { "image": "debian" }, "priority": 101 }).to_string().into(),
                kind: Kind::Validation,
                told: "/priority",
            },
            Case {
                name: "half a document",
                path: "/v1/tasks",
                token: Some(operator),
                content_type: "application/json",
                body: b"{\"container\": {\"image\": ".to_vec(),
                kind: Kind::Malformed,
                told: "",
            },
            Case {
                name: "bytes that are not UTF-8",
                path: "/v1/tasks",
                token: Some(operator),
                content_type: "application/json",
                body: b"{\"container\": {\"image\": \"\xff\xfe\"}}".to_vec(),
                kind: Kind::Malformed,
                told: "",
            },
            Case {
                name: "another media type",
                path: "/v1/tasks",
                token: Some(operator),
                content_type: "text/plain",
                body: good.to_string().into(),
                kind: Kind::UnsupportedMediaType,
                told: "",
            },
            Case {
                name: "a body over the limit",
                path: "/v1/tasks",
                token: Some(operator),
                content_type: "application/json",
                body: vec![b' '; limits::BODY + 1],
                kind: Kind::BodyTooLarge,
                told: "",
            },
            Case {
                name: "a circular batch",
                path: "/v1/batches",
                token: Some(operator),
                content_type: "application/json",
                body: circular.to_string().into(),
                kind: Kind::PlanInvalid,
                told: "cycle",
            },
            Case {
                name: "no token",
                path: "/v1/tasks",
                token: None,
                content_type: "application/json",
                body: good.to_string().into(),
                kind: Kind::Unauthenticated,
                told: "",
            },
            Case {
                name: "an altered token",
                path: "/v1/tasks",
                token: Some(&altered),
                content_type: "application/json",
                body: good.to_string().into(),
                kind: Kind::Unauthenticated,
                told: "",
            },
            Case {
                name: "a worker's token",
                path: "/v1/tasks",
                token: Some(&worker),
                content_type: "application/json",
                body: good.to_string().into(),
                kind: Kind::Forbidden,
                told: "",
            },
            Case {
                name: "no such path",
                path: "/v1/nothing",
                token: Some(operator),
                content_type: "application/json",
                body: good.to_string().into(),
                kind: Kind::NotFound,
                told: "",
            },
            Case {
                name: "no such method",
                path: "/v1/events",
                token: Some(operator),
                content_type: "application/json",
                body: good.to_string().into(),
                kind: Kind::MethodNotAllowed,
                told: "",
            },
        ];
        for case in cases {
            refused(system, case).await;
        }
        assert_eq!(system.client().tasks(&TaskFilter::default()).await.unwrap().items, []);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_namespace_sees_nothing_at_all() {
    scenario(Shape { workers: 0, ..Shape::default() }, async |system| {
        let task = orca_e2e::tasks::shell("secret", "true");
        let id = system.enqueue(&task).await;
        let foreign = system.foreign_token("operator", Access::Operator);
        let foreign = orca_proto::client::Client::new(&system.url(), &foreign).unwrap();
        let kind = |error: orca_proto::client::ClientError| error.kind();
        assert_eq!(foreign.task(id).await.unwrap_err().kind(), Some(Kind::NotFound));
        let cancelled = foreign.cancel(id, &orca_proto::task::Cancellation::default()).await;
        assert_eq!(cancelled.map_err(kind).unwrap_err(), Some(Kind::NotFound));
        assert_eq!(foreign.tasks(&TaskFilter::default()).await.unwrap().items, []);
        system.client().cancel(id, &orca_proto::task::Cancellation::default()).await.unwrap();
    })
    .await;
}
