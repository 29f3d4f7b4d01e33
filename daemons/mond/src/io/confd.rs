//! Asks the master candidates' ConfD: the one place that says how this node's cluster wants its collectors, and what lives here,
//! with or without a master. The files of the node say whom to ask, in which form, with which key; they are read anew for
//! every question, since a renewal or a change of candidates replaces them.

use crate::io::cluster::{Ask, Asked, Cluster};
use gantry_confd::client::ClientError;
use gantry_confd::{Kind, Query, files};
use gantry_model::root::Root;
use gantry_rt::node_toml;
use serde_json::Value;

/// Of one node.
#[derive(Debug, Clone)]
pub struct Confd {
    root: Root,
}

impl Confd {
    /// Of the node with this root.
    #[must_use]
    pub fn new(root: Root) -> Self {
        Self { root }
    }

    /// The newest answer of at most ten seconds; None: all were silent, or none has one.
    async fn answer(&self, what: Ask) -> Result<Option<Value>, ClientError> {
        let Ok(node) = node_toml::load(&self.root) else { return Ok(None) };
        let (kind, query) = match what {
            Ask::Collectors => (Kind::Collectors, Query::Null),
            Ask::Instances => (Kind::Instances, Query::Text(node.name)),
            Ask::Minors => (Kind::Minors, Query::Text(node.name)),
            Ask::Disks(instance) => (Kind::Disks, Query::Text(instance)),
            Ask::Lease(lease) => (Kind::Leases, Query::Text(lease)),
        };
        let answer = files::client(&self.root)?.ask(kind, query).await?;
        Ok(answer.reply.ok.then_some(answer.reply.answer))
    }
}

impl Cluster for Confd {
    fn ask(&self, what: Ask) -> Asked<'_> {
        Box::pin(async move {
            match self.answer(what.clone()).await {
                Ok(answer) => answer,
                // A node that has just joined has no key or candidates yet; silence ends when a candidate comes back.
                Err(error) => {
                    tracing::debug!(?what, %error, "ConfD has no answer");
                    None
                }
            }
        })
    }
}
