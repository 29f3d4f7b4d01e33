//! The answer of `QueryCrypto`: the certificates of all nodes, as they say themselves, and the renewal under way.

use super::nodes::Nodes;
use crate::core::mirror::Snapshot;
use gantry_model::config::RENEWED_CA;
use gantry_model::error::GanetiError;
use gantry_proto::noded::{CryptoReply, Print};
use serde_json::{Value, json};

/// `{wanted, nodes: [{name, master, candidate, why, trust: [{print, ends}], issuer, ends, key}]}`; a node that does not
/// answer has only a `why`.
///
/// # Errors
/// There is no configuration yet.
pub async fn query(nodes: &Nodes, config: &Snapshot) -> Result<Value, GanetiError> {
    let cluster = config.cluster()?;
    let all = nodes.crypto(config).await.into_iter().map(|(node, answer)| {
        let mut shown = match answer {
            Ok(reply) => certificates(&reply),
            Err(why) => json!({ "why": why }),
        };
        shown["name"] = json!(node.name);
        shown["master"] = json!(node.uuid == cluster.master_node);
        shown["candidate"] = json!(node.master_candidate);
        shown
    });
    let all: Vec<Value> = all.collect();
    Ok(json!({ "wanted": cluster.extra.get(RENEWED_CA), "nodes": all }))
}

fn certificates(reply: &CryptoReply) -> Value {
    let trust: Vec<Value> =
        reply.trust.iter().map(|ca| json!({ "print": hex(&ca.print), "ends": ca.ends })).collect();
    json!({
        "why": "",
        "trust": trust,
        "issuer": reply.issuer.as_ref().map(hex),
        "ends": reply.ends,
        "key": reply.key.as_ref().map(hex),
    })
}

fn hex(print: &Print) -> String {
    print.iter().map(|byte| format!("{byte:02x}")).collect()
}
