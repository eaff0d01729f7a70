//! Figures for Prometheus, in OpenMetrics text. Names begin with `orca_` and end in their base unit.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use orca_proto::node::NodeState;
use orca_proto::spec::Role;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::app::QueueStats;

/// The media type of [`Metrics::text`].
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds, from a cached read to a held request.
const DURATIONS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: String,
    method: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NodeLabels {
    role: &'static str,
    state: &'static str,
}

/// All figures. Clones count into the same ones.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Figures>);

struct Figures {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram>,
    in_flight: Gauge,
    held: Family<KindLabel, Gauge>,
    database_up: Gauge,
    tasks: Family<StateLabel, Gauge>,
    nodes: Family<NodeLabels, Gauge>,
    leases: Gauge,
    inbox: Gauge,
    connections: Family<StateLabel, Gauge>,
    events_held: Gauge<f64, AtomicU64>,
}

/// Counts as in flight, or as held, until it is dropped.
pub(crate) struct Held(Gauge);

impl Held {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// All figures at zero.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("orca");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The coordinator's version", build);
        let durations = Family::<RouteLabels, Histogram>::new_with_constructor(|| {
            Histogram::new(DURATIONS.iter().copied())
        });
        let figures = Figures {
            requests: Family::default(),
            durations,
            in_flight: Gauge::default(),
            held: Family::default(),
            database_up: Gauge::default(),
            tasks: Family::default(),
            nodes: Family::default(),
            leases: Gauge::default(),
            inbox: Gauge::default(),
            connections: Family::default(),
            events_held: Gauge::default(),
            registry,
        };
        Self(Arc::new(figures.registered()))
    }

    /// A request began; it is in flight until the guard is dropped.
    pub(crate) fn request_begun(&self) -> Held {
        Held::new(self.0.in_flight.clone())
    }

    /// A request was answered; a stream's counts when it begins.
    pub(crate) fn request_ended(&self, route: &str, method: &'static str, status: u16, took: Duration) {
        let labels = RequestLabels { route: route.to_owned(), method, status };
        self.0.requests.get_or_create(&labels).inc();
        let labels = RouteLabels { route: route.to_owned(), method };
        self.0.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A long poll or stream of `kind` is held until the guard is dropped.
    pub(crate) fn held(&self, kind: &'static str) -> Held {
        Held::new(self.0.held.get_or_create_owned(&KindLabel { kind }))
    }

    /// All figures as text, with `stats` of this moment; without them, the database is told as down.
    pub(crate) fn text(&self, stats: Option<&QueueStats>) -> String {
        self.0.take(stats);
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.0.registry).is_err() {
            // Only a failing writer can fail it, and a String does not fail.
            tracing::error!("the figures could not be written");
        }
        text
    }
}

impl Figures {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("http_requests", "Requests answered", self.requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "From a request's head to its answer's head",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register("http_requests_in_flight", "Requests not yet answered", self.in_flight.clone());
        registry.register("http_held_requests", "Long polls and streams held", self.held.clone());
        registry.register(
            "database_up",
            "Whether the database answered this scrape",
            self.database_up.clone(),
        );
        registry.register(
            "tasks",
            "Tasks that have not ended, by state; of those that are ready, about",
            self.tasks.clone(),
        );
        registry.register("nodes", "Nodes by role and state", self.nodes.clone());
        registry.register("leases", "Leases held by nodes", self.leases.clone());
        let inbox = self.inbox.clone();
        registry.register("inbox", "Tasks enqueued by SQL and not taken in yet, up to 100,000", inbox);
        registry.register("database_connections", "Connections in the pool", self.connections.clone());
        registry.register_with_unit(
            "event_stream_lag",
            "How long event streams have waited for a transaction, of whatever database of the server, that has not ended",
            Unit::Seconds,
            self.events_held.clone(),
        );
        self
    }

    fn take(&self, stats: Option<&QueueStats>) {
        self.database_up.set(i64::from(stats.is_some()));
        self.tasks.clear();
        self.nodes.clear();
        self.connections.clear();
        self.leases.set(0);
        self.events_held.set(0.0);
        self.inbox.set(0);
        let Some(stats) = stats else { return };
        for (state, count) in &stats.tasks {
            self.tasks.get_or_create(&StateLabel { state: state.as_str() }).set(*count);
        }
        for (role, state, count) in &stats.nodes {
            let labels = NodeLabels { role: role_name(*role), state: state_name(*state) };
            self.nodes.get_or_create(&labels).set(*count);
        }
        self.leases.set(stats.leases);
        self.events_held.set(stats.events_held.as_secs_f64());
        self.inbox.set(stats.inbox);
        let busy = stats.connections.saturating_sub(stats.idle_connections);
        for (state, count) in [("busy", busy), ("idle", stats.idle_connections)] {
            self.connections.get_or_create(&StateLabel { state }).set(i64::from(count));
        }
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Work => "work",
        Role::Plan => "plan",
    }
}

fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Ready => "ready",
        NodeState::Draining => "draining",
        NodeState::Cordoned => "cordoned",
        NodeState::Unwell => "unwell",
        NodeState::Gone => "gone",
    }
}

#[cfg(test)]
mod tests {
    use orca_proto::task::State;

    use super::*;

    #[test]
    fn the_figures_of_a_scrape_are_those_of_its_moment() {
        let metrics = Metrics::new();
        metrics.request_ended("/v1/tasks/{id}", "GET", 404, Duration::from_millis(3));
        let held = metrics.held("claims");
        let stats = QueueStats {
            tasks: vec![(State::Ready, 7)],
            nodes: vec![(Role::Work, NodeState::Ready, 2)],
            leases: 3,
            inbox: 2,
            connections: 5,
            idle_connections: 4,
            events_held: Duration::from_millis(1_500),
        };
        let text = metrics.text(Some(&stats));
        for line in [
            "orca_build_info{version=\"0.1.0\"} 1",
            "orca_http_requests_total{route=\"/v1/tasks/{id}\",method=\"GET\",status=\"404\"} 1",
            "orca_http_request_duration_seconds_bucket{le=\"0.005\",route=\"/v1/tasks/{id}\",method=\"GET\"} 1",
            "orca_http_held_requests{kind=\"claims\"} 1",
            "orca_tasks{state=\"ready\"} 7",
            "orca_nodes{role=\"work\",state=\"ready\"} 2",
            "orca_leases 3",
            "orca_inbox 2",
            "orca_database_connections{state=\"busy\"} 1",
            "orca_database_up 1",
            "orca_event_stream_lag_seconds 1.5",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in:\n{text}");
        }
        drop(held);
        let text = metrics.text(None);
        assert!(text.contains("orca_database_up 0") && !text.contains("orca_tasks{"));
        assert!(text.contains("orca_http_held_requests{kind=\"claims\"} 0"));
    }
}
