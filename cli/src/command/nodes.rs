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
            if output.is_json() {
                output.json(&node)?;
            } else {
                print(&[node], output)?;
            }
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

fn print(nodes: &[Node], output: Output) -> Result<(), Failure> {
    let now = Timestamp::now();
    let mut rows = Rows::new(
        output,
        &["NAME", "ROLE", "STATE", "RUNNING", "RUNTIME", "VERSION", "SEEN", "LABELS", "ID"],
    );
    for node in nodes {
        let role = match node.role {
            Role::Work => "worker",
            Role::Plan => "planner",
        };
        let state = match node.state {
            NodeState::Ready => "ready",
            NodeState::Draining => "draining",
            NodeState::Gone => "gone",
        };
        let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        rows.add(vec![
            text(&node.name),
            text(role),
            text(state),
            text(format!("{}/{}", node.running, node.slots)),
            text(&node.runtime),
            text(&node.version),
            text(time::relative(node.last_seen_at, now)),
            text(if labels.is_empty() { "-".to_owned() } else { labels.join(", ") }),
            text(node.id.to_string()),
        ]);
    }
    rows.print("no nodes: nothing will run until an orca-planner or orca-worker registers")
}
