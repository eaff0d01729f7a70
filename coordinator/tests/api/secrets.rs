//! Secrets: what goes in comes out on one path alone, and nothing else shows it.

use orca_proto::attempt::{Children, Report};
use orca_proto::client::Client;
use orca_proto::ids::{FencingToken, TaskId};
use orca_proto::node::LeaseRef;
use orca_proto::plan::Plan;
use orca_proto::problem::Kind;
use orca_proto::secret::{SecretFilter, SecretPut, SecretValue};
use orca_proto::spec::{NewTask, Role, SecretFile};
use orca_proto::task::Outcome;
use orca_proto::token::Access;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, refusal, task};

const A: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const B: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

fn put(value: &str) -> SecretPut {
    SecretPut { value: SecretValue::new(value) }
}

fn named(name: &str) -> SecretFile {
    SecretFile { name: name.to_owned(), r#as: None }
}

fn with_secrets(secrets: &[&str]) -> NewTask {
    NewTask { secrets: secrets.iter().map(|name| named(name)).collect(), ..task("needs-them") }
}

async fn operator_of(server: &Server, namespace: &str) -> Client {
    Client::new(&server.url, &server.token_for(Access::Operator, namespace, "eve")).unwrap()
}

/// Claims the one task that is there, and answers what its node is given.
async fn values(server: &Server) -> Result<Vec<String>, (Kind, String)> {
    let worker = server.worker().await;
    let (_, lease) = worker.take().await;
    let given = worker.client.attempt_secrets(lease).await;
    let report = Report { outcome: Outcome::Succeeded, result: None, plan: None };
    worker.client.report(lease, &report).await.unwrap();
    match given {
        Ok(given) => Ok(given.secrets.into_iter().map(|secret| secret.value.expose().to_owned()).collect()),
        Err(error) => Err((error.kind().unwrap(), error.to_string())),
    }
}

#[tokio::test]
async fn a_secret_is_set_changed_listed_and_removed_and_no_answer_holds_its_value() {
    let server = Server::start_with_keys(Some(A)).await;
    let mut told = String::new();
    for (value, status, version) in [("swordfish", 201, 1), ("sturgeon", 200, 2)] {
        let answer = server.operator(Method::PUT, "/v1/secrets/db").json(&json!({"value": value})).send();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), status);
        let text = answer.text().await.unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["version"], version);
        told.push_str(&text);
    }
    server.client(Access::Operator).set_secret("zoo", &put("gnu!")).await.unwrap();
    told.push_str(&server.operator(Method::GET, "/v1/secrets").send().await.unwrap().text().await.unwrap());
    for name in ["/v1/secrets/db", "/v1/secrets/db?value=true"] {
        let answer = server.operator(Method::GET, name).send().await.unwrap();
        assert_eq!(answer.status(), 405, "a secret was read");
        told.push_str(&answer.text().await.unwrap());
    }
    for value in ["swordfish", "sturgeon", "gnu!"] {
        assert!(!told.contains(value), "{told}");
    }
    let operator = server.client(Access::Operator);
    let first = operator.secrets(&SecretFilter { limit: Some(1), cursor: None }).await.unwrap();
    assert_eq!((first.items[0].name.as_str(), first.items[0].updated_by.as_str()), ("db", "the-operator"));
    let rest = operator.secrets(&SecretFilter { limit: Some(1), cursor: first.next }).await.unwrap();
    assert_eq!((rest.items[0].name.as_str(), rest.next), ("zoo", None));
    operator.remove_secret("db").await.unwrap();
    assert_eq!(operator.remove_secret("db").await.unwrap_err().kind(), Some(Kind::NotFound));
    assert_eq!(operator.set_secret("db", &put("again")).await.unwrap().version, 1);
    server.stop().await;
}

#[tokio::test]
async fn a_value_or_a_name_that_makes_no_sense_is_refused_and_never_repeated() {
    let server = Server::start_with_keys(Some(A)).await;
    for (name, body, at) in [
        ("db", json!({"value": 8675309}), "/value"),
        ("db", json!({"value": [8675309]}), "/value"),
        ("db", json!({"value": ""}), "/value"),
        ("db", json!({"value": "8675309".repeat(10_000)}), "/value"),
        ("db", json!({}), "/value"),
        ("db", json!({"value": "8675309", "colour": "8675309"}), "/colour"),
        (".db", json!({"value": "8675309"}), "name"),
        ("a%20b", json!({"value": "8675309"}), "name"),
        ("a%2Fb", json!({"value": "8675309"}), "name"),
        ("%00", json!({"value": "8675309"}), "name"),
    ] {
        let path = format!("/v1/secrets/{name}");
        let (status, _, body) =
            refusal(server.operator(Method::PUT, &path).json(&body).send().await.unwrap()).await;
        assert_eq!((status, &body["errors"][0]["pointer"]), (422, &json!(at)), "{name}: {body}");
        assert!(!body.to_string().contains("8675309"), "{body}");
    }
    server.stop().await;
}

#[tokio::test]
async fn another_namespaces_secrets_look_like_ones_that_do_not_exist() {
    let server = Server::start_with_keys(Some(A)).await;
    let ours = server.client(Access::Operator);
    ours.set_secret("db", &put("swordfish")).await.unwrap();
    let eve = operator_of(&server, "elsewhere").await;
    assert!(eve.secrets(&SecretFilter::default()).await.unwrap().items.is_empty());
    assert_eq!(eve.remove_secret("db").await.unwrap_err().kind(), Some(Kind::NotFound));
    let mut refusals = Vec::new();
    for name in ["db", "no-such"] {
        let refused = eve.enqueue(&with_secrets(&[name]), None).await.unwrap_err();
        refusals.push(refused.to_string().replace(name, "X"));
    }
    assert_eq!(refusals[0], refusals[1]);
    // One of the same name is another secret.
    assert_eq!(eve.set_secret("db", &put("gudgeon")).await.unwrap().version, 1);
    ours.enqueue(&with_secrets(&["db"]), None).await.unwrap();
    assert_eq!(values(&server).await.unwrap(), ["swordfish"]);
    server.stop().await;
}

#[tokio::test]
async fn a_node_gets_what_the_task_names_while_it_holds_the_lease_and_nobody_else_does() {
    let server = Server::start_with_keys(Some(A)).await;
    let operator = server.client(Access::Operator);
    for (name, value) in [("one", "1st value"), ("two", "2nd value"), ("three", "3rd value")] {
        operator.set_secret(name, &put(value)).await.unwrap();
    }
    let mut spec = with_secrets(&["two", "one"]);
    spec.secrets[0].r#as = Some("password.txt".into());
    operator.enqueue(&spec, None).await.unwrap();
    let worker = server.worker().await;
    let (grant, lease) = worker.take().await;
    let given = worker.client.attempt_secrets(lease).await.unwrap();
    let given: Vec<_> =
        given.secrets.iter().map(|one| (one.name.as_str(), one.file.as_str(), one.value.expose())).collect();
    assert_eq!(given, [("two", "password.txt", "2nd value"), ("one", "one", "1st value")]);
    let none = |kind: Option<Kind>| assert_eq!(kind, Some(Kind::LeaseLost));
    let other = LeaseRef { task: grant.task, token: FencingToken(grant.token.0 - 1) };
    none(worker.client.attempt_secrets(other).await.unwrap_err().kind());
    let other = LeaseRef { task: TaskId::new(), token: grant.token };
    none(worker.client.attempt_secrets(other).await.unwrap_err().kind());
    for token in [
        server.token_for(Access::Worker, "default", "another-worker"),
        server.token_for(Access::Worker, "elsewhere", "the-worker"),
        server.token_for(Access::Planner, "default", "another-planner"),
    ] {
        none(Client::new(&server.url, &token).unwrap().attempt_secrets(lease).await.unwrap_err().kind());
    }
    // An operator's word is not a lease.
    assert_eq!(operator.attempt_secrets(lease).await.unwrap_err().kind(), Some(Kind::Forbidden));
    let report = Report { outcome: Outcome::Succeeded, result: None, plan: None };
    worker.client.report(lease, &report).await.unwrap();
    none(worker.client.attempt_secrets(lease).await.unwrap_err().kind());
    server.stop().await;
}

#[tokio::test]
async fn a_secret_that_is_not_there_is_refused_at_enqueue_and_named_when_it_has_gone_since() {
    let server = Server::start_with_keys(Some(A)).await;
    let operator = server.client(Access::Operator);
    operator.set_secret("db", &put("swordfish")).await.unwrap();
    let spec = with_secrets(&["db", "dbb"]);
    let answer = server.operator(Method::POST, "/v1/tasks").json(&spec).send().await.unwrap();
    let (status, _, body) = refusal(answer).await;
    assert_eq!((status, &body["errors"][0]["pointer"]), (422, &json!("/secrets/1/name")));
    assert!(body["errors"][0]["detail"].as_str().unwrap().contains("orca secret set dbb"), "{body}");
    let batch = json!({"tasks": [task("a"), spec]});
    let (_, _, body) =
        refusal(server.operator(Method::POST, "/v1/batches").json(&batch).send().await.unwrap()).await;
    assert_eq!(body["errors"][0]["pointer"], "/tasks/1/secrets/1/name");
    let schedule = json!({"cron": "@daily", "task": spec});
    let (_, _, body) =
        refusal(server.operator(Method::PUT, "/v1/schedules/s").json(&schedule).send().await.unwrap()).await;
    assert_eq!(body["errors"][0]["pointer"], "/task/secrets/1/name");
    let schedule = json!({"cron": "@daily", "task": with_secrets(&["db"])});
    let answer = server.operator(Method::PUT, "/v1/schedules/s").json(&schedule).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    operator.enqueue(&with_secrets(&["db"]), None).await.unwrap();
    operator.remove_secret("db").await.unwrap();
    let (kind, why) = values(&server).await.unwrap_err();
    assert_eq!(kind, Kind::NotFound);
    assert!(why.contains("secret db "), "{why}");
    // Nobody waits for what a schedule enqueues, so it is not refused, but seen to be rejected.
    operator.run_schedule("s").await.unwrap();
    assert_eq!(values(&server).await.unwrap_err().0, Kind::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn more_than_a_task_may_be_given_is_refused() {
    let server = Server::start_with_keys(Some(A)).await;
    let operator = server.client(Access::Operator);
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        operator.set_secret(name, &put(&"x".repeat(50 << 10))).await.unwrap();
    }
    operator.enqueue(&with_secrets(&names[..5]), None).await.unwrap();
    let refused = operator.enqueue(&with_secrets(&names), None).await.unwrap_err();
    assert!(refused.to_string().contains("256 KiB"), "{refused}");
    for name in names {
        operator.set_secret(name, &put(&"x".repeat(60 << 10))).await.unwrap();
    }
    let (kind, why) = values(&server).await.unwrap_err();
    assert_eq!(kind, Kind::Validation);
    assert!(why.contains("256 KiB"), "{why}");
    server.stop().await;
}

#[tokio::test]
async fn a_program_cannot_spawn_or_plan_its_way_to_a_secret_that_its_own_task_does_not_name() {
    let server = Server::start_with_keys(Some(A)).await;
    let operator = server.client(Access::Operator);
    for name in ["mine", "other"] {
        operator.set_secret(name, &put("swordfish")).await.unwrap();
    }
    operator.enqueue(&with_secrets(&["mine"]), None).await.unwrap();
    let worker = server.worker().await;
    let (_, lease) = worker.take().await;
    let spawn = |secrets: &[&str], key: &str| {
        let children = Children { idempotency_key: key.to_owned(), tasks: vec![with_secrets(secrets)] };
        let client = worker.client.clone();
        async move { client.spawn_children(lease, &children).await }
    };
    let mut refusals = Vec::new();
    for name in ["other", "no-such"] {
        let refused = spawn(&[name], name).await.unwrap_err();
        assert_eq!(refused.kind(), Some(Kind::Validation));
        refusals.push(refused.to_string().replace(name, "X"));
    }
    assert_eq!(refusals[0], refusals[1], "a program can find out which secrets there are");
    spawn(&["mine"], "mine").await.unwrap();

    let goal = NewTask { role: Role::Plan, ..with_secrets(&["mine"]) };
    operator.enqueue(&goal, None).await.unwrap();
    let planner = server.planner().await;
    let (_, lease) = planner.take().await;
    let plan = |secrets: &[&str]| Report {
        outcome: Outcome::Succeeded,
        result: None,
        plan: Some(Plan { tasks: vec![with_secrets(secrets)] }),
    };
    assert_eq!(
        planner.client.report(lease, &plan(&["other"])).await.unwrap_err().kind(),
        Some(Kind::PlanInvalid)
    );
    planner.client.report(lease, &plan(&["mine"])).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn without_a_key_a_secret_is_refused_with_how_to_give_one_and_all_else_works() {
    let server = Server::start().await;
    let answer = server.operator(Method::PUT, "/v1/secrets/db").json(&json!({"value": "swordfish"})).send();
    let (status, kind, body) = refusal(answer.await.unwrap()).await;
    assert_eq!((status, kind.as_str()), (409, "conflict"));
    let detail = body["detail"].as_str().unwrap();
    assert!(
        detail.contains("ORCA_SECRETS_KEY_FILE") && detail.contains("ORCA_SECRETS_KEY_COMMAND"),
        "{body}"
    );
    let rotation = server.admin(Method::POST, "/v1/secret-rotations").json(&json!({})).send().await.unwrap();
    assert_eq!(refusal(rotation).await.0, 409);
    let operator = server.client(Access::Operator);
    assert!(operator.secrets(&SecretFilter::default()).await.unwrap().items.is_empty());
    operator.enqueue(&task("plain"), None).await.unwrap();
    assert_eq!(values(&server).await.unwrap(), Vec::<String>::new());
    server.stop().await;
}

#[tokio::test]
async fn a_key_is_replaced_without_losing_a_secret_and_a_wrong_one_is_told() {
    let server = Server::start_with_keys(Some(A)).await;
    let operator = server.client(Access::Operator);
    operator.set_secret("db", &put("swordfish")).await.unwrap();
    operator_of(&server, "elsewhere").await.set_secret("db", &put("gudgeon")).await.unwrap();
    operator.enqueue(&with_secrets(&["db"]), None).await.unwrap();

    let server = server.again_with_keys(Some(B)).await;
    let (kind, why) = values(&server).await.unwrap_err();
    assert_eq!(kind, Kind::Conflict);
    assert!(
        why.contains("secret db ") && why.contains("does not have") && !why.contains("swordfish"),
        "{why}"
    );
    let admin = server.client(Access::Admin);
    let told = admin.rotate_secrets().await.unwrap();
    assert_eq!((told.rotated, told.unreadable), (0, 2));

    let server = server.again_with_keys(Some(&format!("{B}\n{A}\n"))).await;
    assert_eq!(
        server.client(Access::Operator).rotate_secrets().await.unwrap_err().kind(),
        Some(Kind::Forbidden)
    );
    let admin = server.client(Access::Admin);
    let told = admin.rotate_secrets().await.unwrap();
    assert_eq!((told.rotated, told.unreadable), (2, 0));
    assert_eq!(admin.rotate_secrets().await.unwrap().rotated, 0);

    let server = server.again_with_keys(Some(B)).await;
    server.client(Access::Operator).enqueue(&with_secrets(&["db"]), None).await.unwrap();
    assert_eq!(values(&server).await.unwrap(), ["swordfish"]);
    server.stop().await;
}

#[tokio::test]
async fn a_row_that_was_moved_or_altered_in_the_database_does_not_decrypt() {
    let server = Server::start_with_keys(Some(A)).await;
    let operator = server.client(Access::Operator);
    operator.set_secret("low", &put("gudgeon")).await.unwrap();
    operator.set_secret("high", &put("swordfish")).await.unwrap();
    for change in [
        // The other's value under this name; another version of it; one bit of it.
        "UPDATE orca.secrets l SET nonce = h.nonce, ciphertext = h.ciphertext FROM orca.secrets h \
         WHERE l.name = 'low' AND h.name = 'high' RETURNING 1",
        "UPDATE orca.secrets SET version = version + 1 WHERE name = 'low' RETURNING 1",
        "UPDATE orca.secrets SET ciphertext = set_bit(ciphertext, 3, 1 - get_bit(ciphertext, 3)) WHERE name = 'low' \
         RETURNING 1",
    ] {
        operator.enqueue(&with_secrets(&["low"]), None).await.unwrap();
        assert_eq!(server.sql::<i32>(change).await, 1);
        let (kind, why) = values(&server).await.unwrap_err();
        assert_eq!(kind, Kind::Conflict, "{change}");
        assert!(why.contains("altered") && !why.contains("fish"), "{why}");
        operator.set_secret("low", &put("gudgeon")).await.unwrap();
        operator.enqueue(&with_secrets(&["low"]), None).await.unwrap();
        assert_eq!(values(&server).await.unwrap(), ["gudgeon"]);
    }
    server.stop().await;
}

#[tokio::test]
async fn nothing_in_the_database_holds_a_value() {
    let server = Server::start_with_keys(Some(A)).await;
    let operator = server.client(Access::Operator);
    operator.set_secret("db", &put("swordfish")).await.unwrap();
    operator.enqueue(&with_secrets(&["db"]), Some("key")).await.unwrap();
    assert_eq!(values(&server).await.unwrap(), ["swordfish"]);
    operator.set_secret("db", &put("sturgeon")).await.unwrap();
    let tables = "SELECT string_agg(format('SELECT %L || t::text AS row FROM orca.%I t', relname || ':', relname), \
                  ' UNION ALL ') FROM pg_class WHERE relnamespace = 'orca'::regnamespace AND relkind IN ('r', 'p')";
    let everything = server.sql::<String>(tables).await;
    let dump = server
        .sql::<String>(&format!("SELECT string_agg(row, chr(10)) FROM ({everything}) AS all_rows"))
        .await;
    assert!(dump.contains("secrets:") && dump.contains("tasks:"), "{dump}");
    for value in ["swordfish", "sturgeon"] {
        let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!dump.contains(value) && !dump.contains(&hex), "{dump}");
    }
    server.stop().await;
}

#[tokio::test]
async fn secrets_that_are_set_at_the_same_moment_are_each_a_version() {
    let server = Server::start_with_keys(Some(A)).await;
    let operator = server.client(Access::Operator);
    let setting = (0..8).map(|number| {
        let operator = operator.clone();
        tokio::spawn(async move { operator.set_secret("db", &put(&format!("value {number}"))).await })
    });
    let mut versions = Vec::new();
    for set in setting.collect::<Vec<_>>() {
        versions.push(set.await.unwrap().unwrap().version);
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=8).collect::<Vec<_>>());
    server.client(Access::Operator).enqueue(&with_secrets(&["db"]), None).await.unwrap();
    assert!(values(&server).await.unwrap()[0].starts_with("value "));
    server.stop().await;
}
