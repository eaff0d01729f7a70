//! Enqueueing from the caller's own SQL transaction.

use orca_proto::ids::TaskId;
use orca_proto::problem::Kind;
use orca_proto::selector::Selector;
use orca_proto::task::{State, Task, TaskFilter};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use super::support::{SOON, TestApp, kind};

async fn enqueue(connection: &mut PgConnection, spec: &Value, key: Option<&str>) -> sqlx::Result<TaskId> {
    sqlx::query_scalar("SELECT orca.enqueue($1::jsonb, idempotency_key => $2)")
        .bind(spec.to_string())
        .bind(key)
        .fetch_one(connection)
        .await
        .map(TaskId)
}

fn spec() -> Value {
    json!({"container": {"image": "busybox"}, "queue": "q", "input": {"n": 1}})
}

/// The task of this id, once it has been taken out of the inbox: the background may be at it while the test looks.
async fn taken(test: &TestApp, id: TaskId) -> Task {
    let looking = async {
        loop {
            if let Ok(task) = test.app.task_get(&test.operator(), id).await {
                return task;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, looking).await.expect("the inbox was not taken in time")
}

#[tokio::test]
async fn what_a_transaction_enqueued_runs_once_it_commits_and_never_was_if_it_rolls_back() {
    let test = TestApp::start().await;
    let mut connection = test.connection().await;
    let mut undone = connection.begin().await.unwrap();
    let never = enqueue(&mut undone, &spec(), None).await.unwrap();
    undone.rollback().await.unwrap();
    let mut kept = connection.begin().await.unwrap();
    let id = enqueue(&mut kept, &spec(), None).await.unwrap();
    test.reconcile().await;
    assert_eq!(kind(test.app.task_get(&test.operator(), id).await), Kind::NotFound);
    kept.commit().await.unwrap();
    let node = test.worker("w").await;
    let grant = node.claim_one().await;
    assert_eq!((grant.task, &grant.spec.input), (id, &json!({"n": 1})));
    assert_eq!(node.succeed(&grant, json!(null)).await, State::Succeeded);
    test.reconcile().await;
    assert_eq!(kind(test.app.task_get(&test.operator(), never).await), Kind::NotFound);
    test.stop().await;
}

#[tokio::test]
async fn an_open_transaction_that_enqueued_holds_nobody_up() {
    let test = TestApp::start().await;
    let (mut one, mut two) = (test.connection().await, test.connection().await);
    let mut long = one.begin().await.unwrap();
    let late = enqueue(&mut long, &spec(), Some("key")).await.unwrap();
    let soon = enqueue(&mut two, &spec(), None).await.unwrap();
    let also = enqueue(&mut two, &spec(), Some("other")).await.unwrap();
    test.reconcile().await;
    assert_eq!(
        (taken(&test, soon).await.summary.state, taken(&test, also).await.summary.state),
        (State::Ready, State::Ready)
    );
    long.commit().await.unwrap();
    test.reconcile().await;
    assert_eq!(taken(&test, late).await.summary.state, State::Ready);
    test.stop().await;
}

#[tokio::test]
async fn a_spec_that_does_not_hold_becomes_a_failed_task_that_keeps_it_and_is_in_nobodys_way() {
    let test = TestApp::start().await;
    let mut connection = test.connection().await;
    let missing = TaskId::new();
    let mut bad = Vec::new();
    for (spec, reason) in [
        (json!({"container": {"image": "x", "imagee": 1}}), "/container/imagee unknown field `imagee`"),
        (json!({"container": {"image": "x"}, "priority": 1.5}), "/priority must be a whole number"),
        (json!({"container": {"image": "x"}, "labels": {"a b": "c"}}), "/labels/a b must be"),
        (json!({"container": {"image": "x"}, "deadline": "2001-01-01T00:00:00Z"}), "/deadline"),
        (json!({"container": {"image": "x"}, "depends_on": [missing]}), "/depends_on/0"),
    ] {
        bad.push((enqueue(&mut connection, &spec, None).await.unwrap(), spec, reason));
    }
    let once = json!({"container": {"image": "x"}, "retry": {"max_attempts": 1}});
    let good = enqueue(&mut connection, &once, None).await.unwrap();
    test.reconcile().await;
    assert_eq!(taken(&test, good).await.summary.state, State::Ready);
    for (id, given, expected) in bad {
        let task = taken(&test, id).await;
        let reason = task.summary.reason.unwrap();
        assert_eq!(task.summary.state, State::Failed);
        assert!(reason.contains(expected) && !reason.contains(" at line "), "{reason}");
        assert_eq!(task.spec.input, given);
        assert_eq!(kind(test.app.task_retry(&test.operator(), id, None).await), Kind::Conflict);
        let this = Selector { ids: vec![id], ..Selector::default() };
        assert_eq!(kind(test.app.retry_dead_letters(&test.operator(), this, None).await), Kind::Conflict);
    }
    // Of all, those are tried again that can be.
    test.enqueue(super::support::task("failing")).await;
    let node = test.worker("w").await;
    for _ in 0..2 {
        let grant = node.claim_one().await;
        node.fail(&grant).await;
    }
    let all = Selector { all: true, ..Selector::default() };
    let again = test.app.retry_dead_letters(&test.operator(), all, None).await;
    assert_eq!(again.unwrap().ids.len(), 2);
    test.stop().await;
}

#[tokio::test]
async fn a_spec_that_does_not_hold_is_found_by_the_name_and_the_labels_that_it_was_given() {
    let test = TestApp::start().await;
    let mut connection = test.connection().await;
    let deadline = "2001-01-01T00:00:00Z";
    let spec = json!({
        "container": {"image": "x"}, "deadline": deadline, "name": "invoice-7", "key": "k", "queue": "bills",
        "labels": {"customer": "acme"},
    });
    let id = enqueue(&mut connection, &spec, None).await.unwrap();
    let spec = json!({"container": {"image": "x"}, "deadline": deadline, "name": "\n", "key": "a b", "labels": {"a b": "c"}});
    let nameless = enqueue(&mut connection, &spec, None).await.unwrap();
    test.reconcile().await;
    let task = taken(&test, id).await;
    assert_eq!((task.summary.name.as_str(), task.summary.queue.as_str()), ("invoice-7", "bills"));
    assert_eq!(task.summary.labels, [("customer".to_owned(), "acme".to_owned())].into());
    assert_eq!(task.spec.key.as_deref(), Some("k"));
    let filter = TaskFilter { name: Some("invoice-7".into()), ..TaskFilter::default() };
    let found = test.app.task_list(&test.operator(), filter).await.unwrap();
    assert_eq!(found.items.iter().map(|item| item.id).collect::<Vec<_>>(), [id]);
    let task = taken(&test, nameless).await;
    assert_eq!((task.summary.name.as_str(), task.spec.key, task.summary.labels.len()), ("invalid", None, 0));
    test.stop().await;
}

#[tokio::test]
async fn what_is_soon_found_to_be_wrong_is_raised_in_the_words_of_the_rest_api() {
    let test = TestApp::start().await;
    let mut connection = test.connection().await;
    let image = |rest: &str| format!(r#"SELECT orca.enqueue('{{"container": {{"image": "x"}}, {rest}}}')"#);
    for (statement, message) in [
        ("SELECT orca.enqueue('[]')".to_owned(), "spec must be a JSON object"),
        ("SELECT orca.enqueue('{}')".to_owned(), "/container missing field `container`"),
        (r#"SELECT orca.enqueue('{"container": {}}')"#.to_owned(), "/container/image missing field `image`"),
        (image(r#""nonsense": 1"#), "/nonsense unknown field `nonsense`"),
        (image(r#""priority": 1000"#), "/priority must lie between -100 and 100"),
        (image(r#""priority": "high""#), "/priority must be a number"),
        (image(r#""queue": "a b""#), "/queue must be 1 to 128 letters, digits or any of ._-"),
        (image(r#""group": "..""#), "/group must be 1 to 128"),
        (r#"SELECT orca.enqueue('{"container": {"image": "x"}}', 'a b')"#.to_owned(), "namespace must be"),
        (
            r#"SELECT orca.enqueue('{"container": {"image": "x"}}', 'defualt')"#.to_owned(),
            "there is no namespace defualt",
        ),
        (
            r#"SELECT orca.enqueue('{"container": {"image": "x"}}', idempotency_key => '')"#.to_owned(),
            "idempotency_key must be",
        ),
    ] {
        let run = sqlx::query(sqlx::AssertSqlSafe(statement.clone())).execute(&mut connection).await;
        let error = run.map(|_| statement).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    // No field that there is counts as unknown.
    let told = serde_json::from_str::<orca_proto::spec::NewTask>(r#"{"?": 1}"#).unwrap_err().to_string();
    let fields: Vec<&str> = told.split('`').skip(3).step_by(2).collect();
    assert!(fields.len() > 20 && fields.contains(&"annotations"), "{told}");
    for field in fields.into_iter().filter(|field| *field != "container") {
        let statement =
            format!(r#"SELECT orca.fault('{{"container": {{"image": "x"}}, "{field}": null}}', 'default')"#);
        let fault: Option<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_one(&mut connection).await.unwrap();
        assert!(!fault.is_some_and(|fault| fault.contains("unknown field")), "{field}");
    }
    // A namespace is there once it was set up.
    sqlx::query("INSERT INTO orca.namespaces (name) VALUES ('ann@example.org')")
        .execute(&mut connection)
        .await
        .unwrap();
    sqlx::query(r#"SELECT orca.enqueue('{"container": {"image": "x"}}', 'ann@example.org')"#)
        .execute(&mut connection)
        .await
        .unwrap();
    test.stop().await;
}

#[tokio::test]
async fn where_a_namespace_has_no_room_what_it_enqueues_waits_and_nobody_else_with_it() {
    let test = TestApp::start().await;
    let mut connection = test.connection().await;
    sqlx::query("INSERT INTO orca.namespaces (name, max_open) VALUES ('default', 1), ('other', NULL)")
        .execute(&mut connection)
        .await
        .unwrap();
    let first = enqueue(&mut connection, &spec(), None).await.unwrap();
    let second = enqueue(&mut connection, &spec(), None).await.unwrap();
    let third = json!({"container": {"image": "x"}, "depends_on": [second]});
    let third = enqueue(&mut connection, &third, None).await.unwrap();
    sqlx::query(
        r#"SELECT orca.enqueue('{"container": {"image": "x"}}', 'other') FROM generate_series(1, 3)"#,
    )
    .execute(&mut connection)
    .await
    .unwrap();
    test.reconcile().await;
    assert_eq!(taken(&test, first).await.summary.state, State::Ready);
    assert_eq!(kind(test.app.task_get(&test.operator(), second).await), Kind::NotFound);
    let why = test.app.task_why(&test.operator(), second).await.unwrap_err().problem().detail;
    assert!(why.contains("as many open tasks as it may"), "{why}");
    let left: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM orca.inbox ORDER BY seq")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(left, [second.0, third.0]);
    assert_eq!(test.app.queue_stats().await.unwrap().inbox, 2);
    let node = test.worker("w").await;
    for (id, name) in [(first, "first"), (second, "second"), (third, "third")] {
        let grant = node.claim_one().await;
        assert_eq!(grant.task, id, "{name}");
        node.succeed(&grant, json!(null)).await;
        test.reconcile().await;
    }
    test.stop().await;
}

#[tokio::test]
async fn tasks_that_are_enqueued_together_may_depend_on_one_another_by_key_in_any_order() {
    let test = TestApp::start().await;
    let mut connection = test.connection().await;
    let existing = test.enqueue(super::support::task("existing")).await;
    let many = async |connection: &mut PgConnection, specs: Value| -> sqlx::Result<Vec<TaskId>> {
        sqlx::query_scalar("SELECT orca.enqueue_many(ARRAY(SELECT jsonb_array_elements($1::jsonb)))")
            .bind(specs.to_string())
            .fetch_all(connection)
            .await
            .map(|ids: Vec<uuid::Uuid>| ids.into_iter().map(TaskId).collect())
    };
    let on = |key: &str, needs: Value| json!({"container": {"image": "x"}, "key": key, "depends_on": needs});
    let ids = many(
        &mut connection,
        json!([
            on("last", json!(["middle", existing])),
            on("middle", json!(["first"])),
            on("first", json!([]))
        ]),
    )
    .await
    .unwrap();
    test.reconcile().await;
    assert_eq!(taken(&test, ids[2]).await.summary.state, State::Ready);
    assert_eq!(taken(&test, ids[1]).await.depends_on, [ids[2]]);
    let last = taken(&test, ids[0]).await;
    assert_eq!((last.summary.state, last.summary.key.as_deref()), (State::Blocked, Some("last")));
    let mut needs = last.depends_on;
    needs.sort_unstable();
    assert_eq!(needs, [existing, ids[1]]);
    for (specs, message) in [
        (json!([on("a", json!(["b"])), on("b", json!(["a"]))]), "waits for itself"),
        (json!([on("a", json!([])), on("a", json!([]))]), "\"a\" is used twice"),
    ] {
        let error = many(&mut connection, specs).await.unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    test.stop().await;
}

#[tokio::test]
async fn one_idempotency_key_gives_one_task_and_another_spec_under_it_is_refused() {
    let test = TestApp::start().await;
    let (mut one, mut two) = (test.connection().await, test.connection().await);
    let id = enqueue(&mut one, &spec(), Some("k")).await.unwrap();
    assert_eq!(enqueue(&mut two, &spec(), Some("k")).await.unwrap(), id);
    test.reconcile().await;
    assert_eq!(enqueue(&mut two, &spec(), Some("k")).await.unwrap(), id);
    let other = json!({"container": {"image": "other"}});
    assert!(enqueue(&mut two, &other, Some("k")).await.is_err());
    // Two that do not see each other: one runs, the other says which.
    let (mut first, mut second) = (one.begin().await.unwrap(), two.begin().await.unwrap());
    let kept = enqueue(&mut first, &spec(), Some("race")).await.unwrap();
    let lost = enqueue(&mut second, &spec(), Some("race")).await.unwrap();
    first.commit().await.unwrap();
    second.commit().await.unwrap();
    test.reconcile().await;
    assert_eq!(
        (taken(&test, kept).await.summary.state, taken(&test, lost).await.summary.state),
        (State::Ready, State::Failed)
    );
    assert!(taken(&test, lost).await.summary.reason.unwrap().contains(&kept.to_string()));
    test.stop().await;
}

#[tokio::test]
async fn two_coordinators_take_each_of_many_once_and_dependencies_in_order() {
    let test = TestApp::start().await;
    let other = test.replica().await;
    let mut connection = test.connection().await;
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar(
        "SELECT orca.enqueue_many(array_agg(jsonb_build_object('container', jsonb_build_object('image', 'i' || n)))) \
         FROM generate_series(1, 700) AS n",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(ids.len(), 700);
    let after = json!({"container": {"image": "last"}, "depends_on": [ids[0], ids[699]]});
    let last = enqueue(&mut connection, &after, None).await.unwrap();
    let both = async {
        // One may find that the other is at it.
        let _ = tokio::join!(test.app.reconcile(), other.reconcile());
        loop {
            let left: i64 = sqlx::query_scalar("SELECT count(*) FROM orca.inbox")
                .fetch_one(&mut connection)
                .await
                .unwrap();
            if left == 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, Box::pin(both)).await.unwrap();
    assert_eq!(taken(&test, last).await.summary.state, State::Blocked);
    let node = test.worker("w").await;
    let mut granted = Vec::new();
    // One coordinator learns a moment later what the other put in line.
    while granted.len() < 700 {
        let grants = node.claim_for(1_000, SOON).await;
        assert!(!grants.is_empty(), "{} of 700 were granted", granted.len());
        granted.extend(grants.into_iter().map(|grant| grant.task.0));
    }
    granted.sort_unstable();
    let mut ids = ids;
    ids.sort_unstable();
    assert!(granted == ids, "each was granted once");
    test.stop().await;
}

#[tokio::test]
async fn a_role_with_nothing_but_the_two_grants_can_enqueue_and_read_nothing() {
    let test = TestApp::start().await;
    let mut connection = test.connection().await;
    let role = format!("orca_test_{}", uuid::Uuid::now_v7().simple());
    let run = async |connection: &mut PgConnection, statement: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(connection).await
    };
    run(&mut connection, format!("CREATE ROLE {role}; GRANT USAGE ON SCHEMA orca TO {role}")).await.unwrap();
    run(&mut connection, format!("SET ROLE {role}")).await.unwrap();
    let refused = enqueue(&mut connection, &spec(), None).await.unwrap_err().to_string();
    assert!(refused.contains("permission denied"), "{refused}");
    run(&mut connection, "RESET ROLE".into()).await.unwrap();
    run(&mut connection, format!("GRANT EXECUTE ON FUNCTION orca.enqueue(jsonb, text, text) TO {role}"))
        .await
        .unwrap();
    run(&mut connection, format!("SET ROLE {role}")).await.unwrap();
    let id = enqueue(&mut connection, &spec(), None).await;
    let read = run(&mut connection, "SELECT * FROM orca.inbox".into()).await;
    run(&mut connection, "RESET ROLE".into()).await.unwrap();
    run(&mut connection, format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
    assert!(read.is_err());
    test.reconcile().await;
    assert_eq!(test.state(id.unwrap()).await, State::Ready);
    test.stop().await;
}

#[tokio::test]
async fn what_one_namespace_has_much_of_in_the_inbox_is_late_for_it_alone() {
    let test = TestApp::start().await;
    let mut connection = test.connection().await;
    let mut together = connection.begin().await.unwrap();
    for statement in [
        "INSERT INTO orca.namespaces (name) VALUES ('other')",
        // Each takes a transaction of its own.
        r#"SELECT orca.enqueue(jsonb_build_object('container', '{"image": "x"}'::jsonb, 'deadline', now() + interval '1 day'))
           FROM generate_series(1, 200)"#,
        r#"SELECT orca.enqueue('{"container": {"image": "x"}}', 'other')"#,
    ] {
        sqlx::query(statement).execute(&mut *together).await.unwrap();
    }
    together.commit().await.unwrap();
    test.reconcile().await;
    let all = async {
        while test.app.queue_stats().await.unwrap().inbox > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, all).await.unwrap();
    let before: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM orca.tasks t JOIN orca.tasks o ON o.namespace = 'other'
         WHERE t.namespace = 'default' AND t.xmin::text::bigint < o.xmin::text::bigint",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert!(before <= 60, "{before} of another namespace's 200 came first");
    test.stop().await;
}

#[tokio::test]
async fn no_more_than_a_few_mebibytes_of_the_inbox_are_taken_at_a_time() {
    let test = TestApp::start().await;
    let mut connection = test.connection().await;
    let last: uuid::Uuid = sqlx::query_scalar(
        r#"SELECT (array_agg(orca.enqueue(jsonb_build_object('container', '{"image": "x"}'::jsonb, 'input',
                                                             repeat('x', 1000000))) ORDER BY n))[20]
           FROM generate_series(1, 20) AS n"#,
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    test.reconcile().await;
    taken(&test, TaskId(last)).await;
    let together: Vec<i64> = sqlx::query_scalar(
        "SELECT count(*) FROM orca.tasks GROUP BY xmin::text::bigint ORDER BY xmin::text::bigint",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(together.iter().sum::<i64>(), 20);
    assert!(together.iter().all(|count| *count <= 8), "megabytes that were stored together: {together:?}");
    test.stop().await;
}

#[tokio::test]
async fn what_a_namespace_without_room_enqueued_is_not_read_until_it_has_some() {
    let test = TestApp::start().await;
    let (mut connection, mut locking) = (test.connection().await, test.connection().await);
    sqlx::query("INSERT INTO orca.namespaces (name, max_open) VALUES ('default', 1), ('other', NULL)")
        .execute(&mut connection)
        .await
        .unwrap();
    test.enqueue(super::support::task("open")).await;
    let large: uuid::Uuid = sqlx::query_scalar(
        r#"SELECT orca.enqueue(jsonb_build_object('container', '{"image": "x"}'::jsonb, 'input',
                                                  string_agg(md5(random()::text), ''))) FROM generate_series(1, 1000)"#,
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    // What is large is kept apart; nobody can read it there while this is held.
    let mut held = locking.begin().await.unwrap();
    let index: String = sqlx::query_scalar(
        "SELECT indexrelid::regclass::text FROM pg_index
         WHERE indrelid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'orca.inbox'::regclass)",
    )
    .fetch_one(&mut *held)
    .await
    .unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("REINDEX INDEX {index}"))).execute(&mut *held).await.unwrap();
    sqlx::query(r#"SELECT orca.enqueue('{"container": {"image": "x"}}', 'other')"#)
        .execute(&mut connection)
        .await
        .unwrap();
    let other = async {
        test.reconcile().await;
        while test.app.queue_stats().await.unwrap().inbox > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON / 2, other).await.expect("it was read");
    held.rollback().await.unwrap();
    sqlx::query("UPDATE orca.namespaces SET max_open = 2 WHERE name = 'default'")
        .execute(&mut connection)
        .await
        .unwrap();
    assert_eq!(taken(&test, TaskId(large)).await.summary.state, State::Ready);
    test.stop().await;
}
