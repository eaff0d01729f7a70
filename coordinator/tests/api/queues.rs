//! Queues, groups and namespaces over HTTP: each verb's status, and the place of every fault.

use orca_proto::duration::Span;
use orca_proto::namespace::Quota;
use orca_proto::queue::{GroupSettings, Pause, QueueSettings, Rate};
use orca_proto::spec::NewTask;
use orca_proto::token::Access;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Server, refusal, task};

#[tokio::test]
async fn a_queue_and_its_groups_are_set_paused_resumed_and_shown() {
    let server = Server::start().await;
    let client = server.client(Access::Operator);
    let (status, kind, _) =
        refusal(server.operator(Method::GET, "/v1/queues/mail").send().await.unwrap()).await;
    assert_eq!((status, kind.as_str()), (404, "not-found"));
    let rate = Some(Rate { tasks: 10, per: Span::secs(60) });
    let settings = QueueSettings { max_running: Some(3), rate, ageing: Some(Span::default()) };
    let queue = client.set_queue("mail", &settings).await.unwrap();
    assert_eq!((queue.name.as_str(), &queue.settings, queue.ready, queue.running), ("mail", &settings, 0, 0));
    assert!(queue.created && !client.set_queue("mail", &settings).await.unwrap().created);
    let group = GroupSettings { weight: 5, max_running: Some(1), rate };
    assert_eq!(client.set_group("mail", "ann", &group).await.unwrap().settings, group);
    let spec = NewTask { queue: "mail".into(), group: Some("bob".into()), ..task("t") };
    client.enqueue(&spec, None).await.unwrap();
    let pause = Pause { reason: Some("the printer burns".into()) };
    let paused = client.pause_group("mail", "bob", &pause).await.unwrap();
    assert_eq!((paused.ready, paused.paused.unwrap().reason), (1, pause.reason.clone()));
    let worker = server.worker().await;
    assert!(worker.claim(Span::default()).await.grants.is_empty());
    assert_eq!(client.pause_queue("mail", &pause).await.unwrap().paused.unwrap().by, "the-operator");
    assert!(client.resume_group("mail", "bob").await.unwrap().paused.is_none());
    assert!(worker.claim(Span::default()).await.grants.is_empty());
    assert!(client.resume_queue("mail").await.unwrap().paused.is_none());
    assert_eq!(worker.claim(Span::secs(10)).await.grants.len(), 1);
    let queue = client.queue("mail").await.unwrap();
    let names: Vec<&str> = queue.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!((names, queue.running, queue.ready), (vec!["ann", "bob"], 1, 0));
    assert_eq!(client.queues().await.unwrap().items, [queue]);
    // What is left out has its default again.
    assert_eq!(
        client.set_queue("mail", &QueueSettings::default()).await.unwrap().settings,
        QueueSettings::default()
    );
    server.stop().await;
}

#[tokio::test]
async fn a_queue_that_was_mistyped_is_said_to_be_new_and_can_be_removed_while_nothing_is_open_in_it() {
    let server = Server::start().await;
    let client = server.client(Access::Operator);
    assert!(client.pause_queue("mials", &Pause::default()).await.unwrap().created);
    assert!(!client.resume_queue("mials").await.unwrap().created);
    assert!(client.set_group("mials", "ann", &GroupSettings::default()).await.unwrap().created);
    client.remove_queue("mials").await.unwrap();
    assert!(client.queues().await.unwrap().items.is_empty());
    let gone = server.operator(Method::DELETE, "/v1/queues/mials").send().await.unwrap();
    assert_eq!(refusal(gone).await.0, 404);
    client.pause_queue("mails", &Pause::default()).await.unwrap();
    let later = NewTask { queue: "mails".into(), delay: Some(Span::secs(3_600)), ..task("t") };
    let id = client.enqueue(&later, None).await.unwrap().summary.id;
    let busy = server.operator(Method::DELETE, "/v1/queues/mails").send().await.unwrap();
    let (status, kind, _) = refusal(busy).await;
    assert_eq!((status, kind.as_str()), (409, "conflict"));
    client.cancel(id, &Default::default()).await.unwrap();
    client.remove_queue("mails").await.unwrap();
    assert!(client.queue("mails").await.unwrap().paused.is_none());
    server.stop().await;
}

#[tokio::test]
async fn every_fault_of_a_setting_names_its_field_and_leaves_nothing_behind() {
    let server = Server::start().await;
    let (queue, group) = ("/v1/queues/q", "/v1/queues/q/groups/g");
    for (method, path, body, at) in [
        (Method::PUT, queue, json!({"max_running": 0}), "/max_running"),
        (Method::PUT, queue, json!({"max_running": -1}), "/max_running"),
        (Method::PUT, queue, json!({"max_running": 4_000_000_000_u64}), "/max_running"),
        (Method::PUT, queue, json!({"rate": {"tasks": 0, "per": "1s"}}), "/rate/tasks"),
        (Method::PUT, queue, json!({"rate": {"tasks": 1, "per": "0s"}}), "/rate/per"),
        (Method::PUT, queue, json!({"rate": {"tasks": 1}}), "/rate/per"),
        (Method::PUT, queue, json!({"ageing": "400d"}), "/ageing"),
        (Method::PUT, queue, json!({"weight": 1}), "/weight"),
        (Method::PUT, group, json!({"weight": 0}), "/weight"),
        (Method::PUT, group, json!({"weight": 1_001}), "/weight"),
        (Method::PUT, group, json!({"ageing": "1s"}), "/ageing"),
        (Method::POST, "/v1/queues/q/pause", json!({"reason": "\u{0}"}), "/reason"),
        (Method::POST, "/v1/queues/q/pause", json!({"why": "a"}), "/why"),
        (Method::POST, "/v1/queues/q/groups/g/pause", json!({"reason": "a".repeat(1_025)}), "/reason"),
        (Method::PUT, "/v1/queues/a%20b", json!({}), "queue"),
        (Method::PUT, "/v1/queues/q/groups/a%00b", json!({}), "group"),
        (Method::POST, "/v1/queues/a%20b/pause", json!({}), "queue"),
    ] {
        let answer = server.operator(method, path).json(&body).send().await.unwrap();
        let (status, kind, told) = refusal(answer).await;
        assert_eq!((status, kind.as_str()), (422, "validation"), "{path} {body}: {told}");
        assert_eq!(told["errors"][0]["pointer"], at, "{path} {body}: {told}");
    }
    for path in ["/v1/queues/q/resume", "/v1/queues/q/groups/g/resume", "/v1/queues/%00/resume"] {
        let answer = server.operator(Method::POST, path).json(&json!({})).send().await.unwrap();
        assert_eq!(refusal(answer).await.0, 404, "{path}");
    }
    let answer = server.operator(Method::GET, "/v1/queues?colour=red").send().await.unwrap();
    assert_eq!(refusal(answer).await.2["errors"][0]["pointer"], "?colour");
    assert!(server.client(Access::Operator).queues().await.unwrap().items.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn an_admin_sets_quotas_and_who_is_over_one_is_told_when_to_come_back() {
    let server = Server::start().await;
    let (admin, operator) = (server.client(Access::Admin), server.client(Access::Operator));
    let quota = Quota { max_open: Some(1), max_running: Some(1), max_queues: Some(1) };
    let namespace = admin.set_quota("default", &quota).await.unwrap();
    assert_eq!((namespace.quota, namespace.open, namespace.running), (quota, 0, 0));
    operator.enqueue(&task("a"), None).await.unwrap();
    let over = server.operator(Method::POST, "/v1/tasks").json(&task("b")).send().await.unwrap();
    assert!(over.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() > 0);
    let (status, kind, _) = refusal(over).await;
    assert_eq!((status, kind.as_str()), (429, "quota-exceeded"));
    assert_eq!(admin.namespace("default").await.unwrap().open, 1);
    // An admin may see other namespaces; one that nobody uses is empty. They may do what operators may.
    assert_eq!(admin.namespace("bob@example.org").await.unwrap().open, 0);
    assert_eq!(admin.tasks(&Default::default()).await.unwrap().items.len(), 1);
    let put = |path: &'static str, body: serde_json::Value| {
        let request = server.request(Method::PUT, path).bearer_auth(server.token(Access::Admin));
        async move { refusal(request.json(&body).send().await.unwrap()).await }
    };
    for (body, at) in [
        (json!({"max_open": 2_000_000_000}), "/max_open"),
        (json!({"max_running": -1}), "/max_running"),
        (json!({"max_queues": "many"}), "/max_queues"),
        (json!({"max_memory": 1}), "/max_memory"),
    ] {
        let (status, _, told) = put("/v1/namespaces/default", body).await;
        assert_eq!((status, &told["errors"][0]["pointer"]), (422, &json!(at)), "{told}");
    }
    assert_eq!(put("/v1/namespaces/a%20b", json!({})).await.0, 404);
    assert_eq!(admin.set_quota("default", &Quota::default()).await.unwrap().quota, Quota::default());
    operator.enqueue(&task("b"), None).await.unwrap();
    server.stop().await;
}
