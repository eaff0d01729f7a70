//! The committed OpenAPI document is what the code says, and says enough.

#![expect(clippy::unwrap_used, reason = "a test stops where what it needs is not there")]

use serde_json::Value;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");

fn document() -> Value {
    serde_json::from_str(&orca_coordinator::openapi_json()).unwrap()
}

/// Each operation with its method and path.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, item)| {
        item.as_object()
            .unwrap()
            .iter()
            .map(move |(method, operation)| (format!("{method} {path}"), operation))
    });
    all.collect()
}

#[test]
fn the_committed_document_is_the_one_that_the_code_makes() {
    let made = orca_coordinator::openapi_json();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(FILE, &made).unwrap();
    }
    let committed = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        committed == made,
        "coordinator/openapi.json is out of date; look at what changed, then run: UPDATE_OPENAPI=1 cargo test -p \
         orca-coordinator --test openapi"
    );
}

#[test]
fn the_document_is_openapi_3_1_with_one_bearer_scheme() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}

#[test]
fn the_document_lists_the_kinds_of_problem_as_they_are_on_the_wire() {
    let known = orca_proto::problem::Kind::ALL.iter().map(|kind| kind.urn());
    let known: Vec<Value> = known.map(Value::from).collect();
    assert_eq!(document()["components"]["schemas"]["Kind"]["enum"], Value::from(known));
}

#[test]
fn every_operation_says_what_it_does_who_may_call_it_and_how_it_fails() {
    let document = document();
    let operations = operations(&document);
    assert!(operations.len() >= 27, "only {} operations", operations.len());
    let mut ids = std::collections::BTreeSet::new();
    for (name, operation) in operations {
        for field in ["summary", "description", "operationId"] {
            assert!(operation[field].as_str().is_some_and(|text| !text.is_empty()), "{name} has no {field}");
        }
        assert!(ids.insert(operation["operationId"].to_string()), "{name}: its operationId is another's too");
        assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{name}: tags");
        assert!(operation["security"].as_array().is_some_and(|list| !list.is_empty()), "{name}: security");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{name}: no success");
        assert!(responses.contains_key("500") && responses.contains_key("422"), "{name}: no refusals");
        let guarded = operation["security"] != serde_json::json!([{}]);
        assert_eq!(responses.contains_key("401"), guarded, "{name}: 401");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].is_string(), "{name}: {} is not described", parameter["name"]);
        }
    }
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, inner)| match inner {
                Value::String(target) if name == "$ref" => found.push(target),
                _ => references(inner, found),
            }),
            Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for target in found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
    }
}

#[test]
fn these_are_the_routes_and_who_may_call_them() {
    let document = document();
    let mut lines: Vec<String> = operations(&document)
        .into_iter()
        .map(|(name, operation)| {
            let security = operation["security"].as_array().unwrap().iter();
            let roles: Vec<&str> = security
                .flat_map(|one| one["bearer"].as_array().into_iter().flatten())
                .filter_map(Value::as_str)
                .collect();
            format!("{name}: {}", if roles.is_empty() { "anybody".to_owned() } else { roles.join(", ") })
        })
        .collect();
    lines.sort_by_key(|line| line.split_once(' ').map(|(_, path)| path.to_owned()));
    insta::assert_snapshot!(lines.join("\n"), @r"
    get /healthz: anybody
    get /metrics: admin
    get /openapi.json: anybody
    get /readyz: anybody
    get /v1/artifacts/{id}/content: operator, planner, worker
    get /v1/artifacts/{id}: operator, planner, worker
    post /v1/artifacts: operator
    post /v1/batches: operator
    post /v1/cancellations: operator
    post /v1/dead-letters/purges: operator
    post /v1/dead-letters/retries: operator
    get /v1/dead-letters: operator
    get /v1/events: operator
    get /v1/namespaces/{namespace}: admin
    put /v1/namespaces/{namespace}: admin
    post /v1/nodes/{id}/claims: planner, worker
    post /v1/nodes/{id}/cordon: operator
    post /v1/nodes/{id}/renewals: planner, worker
    post /v1/nodes/{id}/reports: planner, worker
    post /v1/nodes/{id}/uncordon: operator
    get /v1/nodes/{id}: operator
    get /v1/nodes: operator
    post /v1/nodes: planner, worker
    post /v1/queues/{queue}/groups/{group}/pause: operator
    post /v1/queues/{queue}/groups/{group}/resume: operator
    put /v1/queues/{queue}/groups/{group}: operator
    post /v1/queues/{queue}/pause: operator
    post /v1/queues/{queue}/resume: operator
    delete /v1/queues/{queue}: operator
    get /v1/queues/{queue}: operator
    put /v1/queues/{queue}: operator
    get /v1/queues: operator
    post /v1/schedules/{name}/backfills: operator
    post /v1/schedules/{name}/pause: operator
    post /v1/schedules/{name}/resume: operator
    post /v1/schedules/{name}/runs: operator
    delete /v1/schedules/{name}: operator
    get /v1/schedules/{name}: operator
    put /v1/schedules/{name}: operator
    get /v1/schedules: operator
    post /v1/secret-rotations: admin
    delete /v1/secrets/{name}: operator
    put /v1/secrets/{name}: operator
    get /v1/secrets: operator
    post /v1/tasks/{id}/approval: operator
    get /v1/tasks/{id}/artifacts: operator
    put /v1/tasks/{id}/attempts/{token}/artifacts/{name}: planner, worker
    post /v1/tasks/{id}/attempts/{token}/children: planner, worker
    get /v1/tasks/{id}/attempts/{token}/dependencies: planner, worker
    post /v1/tasks/{id}/attempts/{token}/logs: planner, worker
    post /v1/tasks/{id}/attempts/{token}/progress: planner, worker
    post /v1/tasks/{id}/attempts/{token}/report: planner, worker
    get /v1/tasks/{id}/attempts/{token}/secrets: planner, worker
    get /v1/tasks/{id}/attempts/{token}/signals/{name}: planner, worker
    post /v1/tasks/{id}/attempts/{token}/start: planner, worker
    post /v1/tasks/{id}/cancellation: operator
    get /v1/tasks/{id}/logs: operator
    post /v1/tasks/{id}/retries: operator
    post /v1/tasks/{id}/signals: operator
    get /v1/tasks/{id}/why: operator
    get /v1/tasks/{id}: operator
    get /v1/tasks: operator
    post /v1/tasks: operator
    ");
}
