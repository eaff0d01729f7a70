//! The OpenAPI 3.1 document: what no single handler can say, and the refusals that every route shares.

use orca_proto::problem::{Kind, MEDIA_TYPE, Problem};
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::schema::Type;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, ContentBuilder, ObjectBuilder, Ref, RefOr, ResponseBuilder};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Orca",
        description = "Runs containerised work from a durable queue. Every answer outside 2xx and 3xx is an RFC 9457 problem \
                       document; programs branch on its `type`. Lists come in pages joined by opaque cursors. Every answer \
                       carries `X-Request-Id`. Unknown fields and query parameters are refused.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "tasks", description = "Enqueue, watch, cancel, retry"),
        (name = "queues", description = "Limits, rates, weights and pauses, by queue and group"),
        (name = "namespaces", description = "Quotas; for admins"),
        (name = "schedules", description = "Enqueue again and again, by cron expressions in time zones"),
        (name = "secrets", description = "Values that programs are given and nobody is told again"),
        (name = "artifacts", description = "Files that outlive a container"),
        (name = "events", description = "What happens, as it happens"),
        (name = "nodes", description = "Planners and workers: register, claim, renew"),
        (name = "attempts", description = "What a node says of an attempt that it holds the lease of"),
        (name = "server", description = "Health, figures, this document"),
    ),
    components(schemas(Problem, orca_proto::event::Event, orca_proto::log::LogEntry)),
)]
struct Base;

/// The document before any route is in it.
pub(super) fn base() -> utoipa::openapi::OpenApi {
    Base::openapi()
}

/// Adds the security scheme and, to each operation, the refusals that it may answer.
pub(super) fn complete(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            for kind in refusals(operation) {
                let name = response_name(kind);
                let refusal = RefOr::Ref(Ref::from_response_name(name));
                operation.responses.responses.entry(kind.status().to_string()).or_insert(refusal);
            }
        }
    }
    let scheme = Http::builder()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some(
            "A token made by `orca token issue`. What an operation lists under it are the roles that may call it.",
        ))
        .build();
    let parts = document.components.take().unwrap_or_default();
    let mut parts = ComponentsBuilder::from(parts).security_scheme("bearer", SecurityScheme::Http(scheme));
    for kind in ANSWERED {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new().description(describe(*kind)).content(MEDIA_TYPE, content);
        parts = parts.response(response_name(*kind), response.build());
    }
    // The derived schema has the names that the kinds have in the code.
    let urns = Kind::ALL.iter().map(|kind| kind.urn());
    let kinds = ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(
            "The kinds of problem. Clients branch on these; a kind once published keeps its meaning.",
        ))
        .enum_values(Some(urns));
    document.components = Some(parts.schema("Kind", kinds).build());
    document
}

/// One kind per status; the others of the status share its response.
const ANSWERED: &[Kind] = &[
    Kind::Malformed,
    Kind::Unauthenticated,
    Kind::Forbidden,
    Kind::NotFound,
    Kind::Conflict,
    Kind::BodyTooLarge,
    Kind::UnsupportedMediaType,
    Kind::Validation,
    Kind::QuotaExceeded,
    Kind::Internal,
    Kind::Unavailable,
    Kind::Timeout,
];

/// Operations that may meet a quota, or a limit on how many one caller may hold.
const COUNTED: &[&str] = &[
    "enqueue_task",
    "enqueue_batch",
    "retry_task",
    "run_schedule",
    "backfill_schedule",
    "spawn_children",
    "report_attempt",
    "set_queue",
    "pause_queue",
    "set_group",
    "pause_group",
    "watch_events",
    "read_logs",
];

fn refusals(operation: &Operation) -> Vec<Kind> {
    let parameters = operation.parameters.iter().flatten();
    let is_in = |place: &ParameterIn| {
        parameters
            .clone()
            .any(|parameter| matches!(parameter, RefOr::T(known) if known.parameter_in == *place))
    };
    let mut kinds = vec![Kind::Internal, Kind::Unavailable, Kind::Timeout, Kind::Validation, Kind::Malformed];
    let open = operation.security.as_ref().is_some_and(|required| {
        required.iter().any(|one| *one == utoipa::openapi::SecurityRequirement::default())
    });
    if !open {
        kinds.extend([Kind::Unauthenticated, Kind::Forbidden]);
    }
    if is_in(&ParameterIn::Path) || is_in(&ParameterIn::Query) {
        kinds.push(Kind::NotFound);
    }
    if operation.request_body.is_some() {
        kinds.extend([Kind::BodyTooLarge, Kind::UnsupportedMediaType]);
    }
    // What changes something may meet a state that forbids it, and what is fenced a lease that was lost.
    let fenced = parameters.clone().any(|known| matches!(known, RefOr::T(known) if known.name == "token"));
    if operation.request_body.is_some() || fenced || operation.operation_id.as_deref() == Some("retry_task") {
        kinds.push(Kind::Conflict);
    }
    if operation.operation_id.as_deref().is_some_and(|id| COUNTED.contains(&id)) {
        kinds.push(Kind::QuotaExceeded);
    }
    kinds
}

fn response_name(kind: Kind) -> &'static str {
    kind.urn().rsplit_once(':').map_or("problem", |(_, name)| name)
}

/// Kinds of problem that only nodes answer, on the sockets of attempts.
const OF_NODES: [Kind; 2] = [Kind::EgressRefused, Kind::Unreachable];

/// What answers of this kind's status may be, by the URNs of all kinds that share it.
fn describe(kind: Kind) -> String {
    let ours = Kind::ALL.iter().filter(|other| !OF_NODES.contains(other));
    let alike = ours.filter(|other| other.status() == kind.status());
    let kinds: Vec<String> = alike.map(|other| format!("`{other}`: {}", other.title())).collect();
    kinds.join("; ")
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch].into_iter().flatten()
}
