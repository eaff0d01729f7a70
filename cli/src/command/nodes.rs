//! `orca nodes`: the daemons that run containers.

use jiff::Timestamp;
use orca_proto::client::Client;
use orca_proto::ids::NodeId;
use orca_proto::node::{Node, NodeState};
use orca_proto::spec::Role;

use crate::error::{Exit, Failure};
use crate::output::table::{Rows, text};
use crate::output::{Output, time};

/// List planner and worker nodes
#[derive(Debug, clap::Args)]
pub(crate) struct NodesArgs {
    /// Only this one
    #[arg(value_parser = super::id::<NodeId>)]
    id: Option<NodeId>,
}

impl NodesArgs {
    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        if let Some(id) = self.id {
            let node = client.node(id).await.map_err(|error| Failure::about(error, "node", id))?;
            show(&node, output)?;
            return Ok(Exit::Done);
        }
        let page = client.nodes().await?;
        if output.is_json() {
            output.json(&page)?;
        } else {
            print(&page.items, output)?;
        }
        Ok(Exit::Done)
    }
}

/// Shows one.
pub(super) fn show(node: &Node, output: Output) -> Result<(), Failure> {
    if output.is_json() { output.json(node) } else { print(std::slice::from_ref(node), output) }
}

/// Cores and memory that its tasks may use, where they are counted.
fn capacity(node: &Node) -> String {
    match (node.cpus, node.memory) {
        (None, None) => "-".to_owned(),
        (cpus, memory) => {
            let cpus = cpus.map(|cpus| format!("{cpus} cpus"));
            let memory = memory.map(|memory| memory.to_string());
            cpus.into_iter().chain(memory).collect::<Vec<_>>().join(", ")
        }
    }
}

/// The state, and why, where somebody said so.
fn state(node: &Node) -> String {
    let reason = match node.state {
        NodeState::Ready => return "ready".to_owned(),
        NodeState::Draining => return "draining".to_owned(),
        NodeState::Gone => return "gone".to_owned(),
        NodeState::Cordoned => {
            let by = node.cordon.as_ref();
            by.map(|by| match &by.reason {
                Some(reason) => format!("cordoned by {}: {reason}", by.by),
                None => format!("cordoned by {}", by.by),
            })
        }
        NodeState::Unwell => node.unwell.as_ref().map(|why| format!("unwell: {why}")),
    };
    reason.unwrap_or_else(|| "takes no work".to_owned())
}

fn print(nodes: &[Node], output: Output) -> Result<(), Failure> {
    let now = Timestamp::now();
    let mut rows = Rows::new(
        output,
        &["NAME", "ROLE", "STATE", "RUNNING", "CAPACITY", "RUNTIME", "VERSION", "SEEN", "LABELS", "ID"],
    );
    for node in nodes {
        let role = match node.role {
            Role::Work => "worker",
            Role::Plan => "planner",
        };
        let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        rows.add(vec![
            text(&node.name),
            text(role),
            text(state(node)),
            text(format!("{}/{}", node.running, node.slots)),
            text(capacity(node)),
            text(&node.runtime),
            text(&node.version),
            text(time::relative(node.last_seen_at, now)),
            text(if labels.is_empty() { "-".to_owned() } else { labels.join(", ") }),
            text(node.id.to_string()),
        ]);
    }
    rows.print("no nodes: nothing will run until an orca-planner or orca-worker registers")
}
