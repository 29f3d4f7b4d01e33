//! What is known of the nodes as peers: whom to call, who is claimed, and why not.

use super::mailbox::Reply;
use super::owner::Owner;
use crate::core::config::Config;
use gantry_model::ids::NodeUuid;
use gantry_proto::wconfd::NodeState;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// A node to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which.
    pub node: NodeUuid,
    /// Its name, for the log.
    pub name: String,
    /// Where its noded listens.
    pub address: SocketAddr,
}

/// All nodes to call.
pub type Targets = Arc<BTreeMap<NodeUuid, Target>>;

/// The nodes as peers.
pub(super) struct Nodes {
    states: BTreeMap<NodeUuid, NodeState>,
    targets: watch::Sender<Targets>,
}

/// The nodes that are to be called: all that are not offline.
fn targets(config: &Config) -> Targets {
    let online = config.nodes().filter(|node| !node.offline);
    let targets = online.filter_map(|node| {
        let address = SocketAddr::new(node.primary_ip.parse().ok()?, node.noded_port);
        Some((node.uuid, Target { node: node.uuid, name: node.name.clone(), address }))
    });
    Arc::new(targets.collect())
}

impl Nodes {
    pub(super) fn new(config: &Config) -> Self {
        let (targets, _) = watch::channel(targets(config));
        let mut nodes = Self { states: BTreeMap::new(), targets };
        nodes.refresh(config);
        nodes
    }

    /// Follows a change of the configuration.
    pub(super) fn follow(&mut self, config: &Config) {
        let now = targets(config);
        self.targets.send_if_modified(|shown| {
            let changed = **shown != *now;
            *shown = now;
            changed
        });
        self.refresh(config);
    }

    /// One state for each node, none for others.
    fn refresh(&mut self, config: &Config) {
        self.states.retain(|uuid, _| config.node(*uuid).is_some());
        for node in config.nodes() {
            let why = if node.offline { "the node is offline" } else { "not reached yet" };
            let state = NodeState { node: node.uuid, claimed: false, why: why.to_owned() };
            if node.offline {
                self.states.insert(node.uuid, state);
            } else {
                let known = self.states.entry(node.uuid).or_insert_with(|| state.clone());
                if known.why == "the node is offline" {
                    *known = state;
                }
            }
        }
    }

    /// The node answered a claim of this master.
    pub(super) fn claimed(&mut self, config: &mut Config, node: NodeUuid) {
        let online = config.node(node).is_some_and(|row| !row.offline);
        let Some(state) = self.states.get_mut(&node).filter(|_| online) else { return };
        if !state.claimed {
            tracing::info!(%node, "claimed");
        }
        (state.claimed, state.why) = (true, String::new());
        config.set_claimed(node, true);
    }

    /// The node can't be reached.
    pub(super) fn lost(&mut self, config: &mut Config, node: NodeUuid, why: String) {
        config.set_claimed(node, false);
        let Some(state) = self.states.get_mut(&node) else { return };
        if state.claimed || state.why != why {
            tracing::warn!(%node, why, "node lost");
        }
        (state.claimed, state.why) = (false, why);
    }
}

impl Owner {
    /// How the last contact with each node ended.
    pub fn node_states(&mut self, reply: Reply<Vec<NodeState>>) {
        let states = self.nodes.states.values().cloned().collect();
        self.answer(reply, Ok(states));
    }

    /// The nodes to call, as they change.
    #[must_use]
    pub fn targets(&self) -> watch::Receiver<Targets> {
        self.nodes.targets.subscribe()
    }
}
