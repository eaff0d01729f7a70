//! `orca node`: have a node take no more work, wait until it is empty, have it take work again.

use std::time::{Duration, Instant};

use orca_proto::client::Client;
use orca_proto::duration::Span;
use orca_proto::ids::NodeId;
use orca_proto::node::{Node, NodeState};
use orca_proto::queue::Pause;

use super::nodes;
use crate::error::{Exit, Failure};
use crate::output::{Output, escape};

/// Between two looks at a node that is being emptied.
const LOOK: Duration = Duration::from_secs(1);

/// Cordon, drain and uncordon nodes
#[derive(Debug, clap::Subcommand)]
pub(crate) enum NodeCommand {
    /// List nodes, or show one; the same as `orca nodes`
    Ls(nodes::NodesArgs),
    /// Give it no more work; what it runs goes on. Holds until `orca node uncordon`, also when the node is started again
    Cordon {
        #[command(flatten)]
        which: Which,
        /// Why, for whoever looks later
        #[arg(long)]
        reason: Option<String>,
    },
    /// Cordon it, and wait until nothing runs on it any more
    Drain {
        #[command(flatten)]
        which: Which,
        /// Why, for whoever looks later
        #[arg(long)]
        reason: Option<String>,
        /// How long to wait; it stays cordoned
        #[arg(long, value_name = "DURATION", default_value = "1h")]
        timeout: Span,
    },
    /// Give it work again
    Uncordon {
        #[command(flatten)]
        which: Which,
    },
}

/// A node.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Its name or id, as `orca nodes` shows them
    #[arg(value_name = "NODE")]
    node: String,
}

impl Which {
    async fn find(&self, client: &Client) -> Result<NodeId, Failure> {
        if let Ok(id) = self.node.parse() {
            return Ok(id);
        }
        let nodes = client.nodes().await?.items;
        let found = nodes.into_iter().find(|node| node.name == self.node).map(|node| node.id);
        found.ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("there is no node {}", escape::line(&self.node)))
                .hint("`orca nodes` lists them")
        })
    }
}

impl NodeCommand {
    /// Does it.
    pub(crate) async fn run(self, client: &Client, output: Output) -> Result<Exit, Failure> {
        let node = match self {
            Self::Ls(args) => return args.run(client, output).await,
            Self::Cordon { which, reason } => {
                let id = which.find(client).await?;
                client.cordon_node(id, &Pause { reason }).await
            }
            Self::Uncordon { which } => {
                let id = which.find(client).await?;
                client.uncordon_node(id).await
            }
            Self::Drain { which, reason, timeout } => {
                let id = which.find(client).await?;
                let node = client.cordon_node(id, &Pause { reason }).await;
                let node = node.map_err(|error| Failure::about(error, "node", &which.node))?;
                return drain(client, node, timeout.get(), output).await;
            }
        };
        nodes::show(&node?, output)?;
        Ok(Exit::Done)
    }
}

async fn drain(client: &Client, mut node: Node, limit: Duration, output: Output) -> Result<Exit, Failure> {
    let deadline = Instant::now() + limit;
    let mut told = None;
    while node.running > 0 {
        if node.state == NodeState::Gone {
            output.remark(&format!("{} is gone; what it ran is tried elsewhere", escape::line(&node.name)));
            break;
        }
        if told != Some(node.running) {
            output.remark(&format!("{} still runs {}", escape::line(&node.name), node.running));
            told = Some(node.running);
        }
        if Instant::now() >= deadline {
            let name = escape::line(&node.name);
            let what = format!("{name} still runs {} after {}", node.running, Span::from(limit));
            return Err(Failure::new(Exit::Other, what).hint(
                "it stays cordoned: `orca node drain` waits again, `orca ls --state running` shows what runs",
            ));
        }
        tokio::time::sleep(LOOK).await;
        node = client.node(node.id).await?;
    }
    nodes::show(&node, output)?;
    Ok(Exit::Done)
}
