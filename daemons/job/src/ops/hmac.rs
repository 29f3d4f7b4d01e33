//! `hmac.key`, by which confd's clients and servers know each other: the master's is the cluster's. Nodes get it when they join
//! and with OP_CLUSTER_REDIST_CONF; another is made by OP_CLUSTER_RENEW_CRYPTO.

use crate::error::OpFail;
use crate::io::nodes::CALL;
use crate::ops::Cx;
use gantry_model::config::Node;
use gantry_proto::noded::{Crypto, CryptoChange, CryptoStore, CryptoStoreRequest};
use uuid::Uuid;

/// The master's; None when it has none.
fn ours(cx: &Cx<'_>) -> Result<Option<String>, OpFail> {
    match std::fs::read_to_string(cx.root().hmac_key()) {
        Ok(text) => Ok(Some(text)),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(OpFail::exec(format!("can't read this master's hmac.key: {why}"))),
    }
}

/// Gives a node the master's.
pub async fn give(cx: &Cx<'_>, node: &Node) -> Result<(), OpFail> {
    match ours(cx)? {
        Some(text) if node.uuid != cx.go().master => store(cx, node, text).await,
        Some(_) | None => Ok(()),
    }
}

/// As [`give`], to a node that is in service already: that it lacks the key is no failure of that.
pub async fn give_or_warn(cx: &Cx<'_>, node: &Node) -> Result<(), OpFail> {
    match give(cx, node).await {
        Err(OpFail::Error(why)) => {
            cx.warn(format!("Node {} has no hmac.key: {why}; try gnt-cluster redist-conf", node.name));
            Ok(())
        }
        given => given,
    }
}

async fn store(cx: &Cx<'_>, node: &Node, text: String) -> Result<(), OpFail> {
    let seen = cx.nodes.call::<Crypto>(node, &(), CALL).await?.state;
    let request = CryptoStoreRequest { fence: cx.nodes.fence(), seen, change: CryptoChange::Hmac(text) };
    cx.nodes.call::<CryptoStore>(node, &request, CALL).await
}

/// Makes another: the master's first, since it is the cluster's from then on. Who misses it is told, and gets it later.
pub async fn renew(cx: &mut Cx<'_>) -> Result<(), OpFail> {
    let mut nodes = cx.master.nodes().await?;
    nodes.sort_by_key(|node| node.uuid != cx.go().master);
    let text = format!("{}{}\n", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let mut missing = Vec::new();
    for node in &nodes {
        let stored = if node.offline {
            Err(OpFail::exec("it is marked offline"))
        } else {
            store(cx, node, text.clone()).await
        };
        match stored {
            Ok(()) => cx.say(format!("{}: has the new hmac.key", node.name)),
            Err(OpFail::Error(why)) if node.uuid != cx.go().master => {
                cx.say(format!("{}: has not the new hmac.key: {why}", node.name));
                missing.push(node.name.as_str());
            }
            Err(why) => return Err(why),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(OpFail::exec(format!(
        "no new hmac.key for {}: when they answer, gnt-cluster redist-conf gives it to them",
        missing.join(", ")
    )))
}
