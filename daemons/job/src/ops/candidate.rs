//! How a node becomes a master candidate, or stops being one, and how the pool is filled (`spec/failover.md` §4). The
//! caller holds the nodes' locks exclusively.
//!
//! Order of a promotion: what a master needs (the CA) and the role first, the copies last: a node that counts can be made
//! master. Of a demotion: the copies first. What a job leaves that dies in between, a role and a key without copies that
//! count, the next audit of the node takes away ([`put_right`]).

use crate::core::{candidates, crypto};
use crate::error::OpFail;
use crate::io::nodes::CALL;
use crate::ops::{Cx, Locks, hmac};
use gantry_model::config::{Node, Params};
use gantry_model::ids::NodeUuid;
use gantry_model::role::Role;
use gantry_proto::noded::{CopyLook, Crypto, Secrets, SecretsRequest, SetRole, SetRoleRequest};
use gantry_proto::wconfd::Want;
use gantry_rpc::tls;
use serde_json::json;
use uuid::Uuid;

/// What of the master's `secrets/` a candidate gets: with it a new master can sign joining nodes' certificates.
const SECRETS: [&str; 2] = [tls::CA_PEM, tls::CA_KEY];

/// Flags as fields of a node.
pub fn fields(flags: &[(&str, bool)]) -> Params {
    flags.iter().map(|(name, on)| ((*name).to_owned(), json!(on))).collect()
}

/// Makes a node a candidate.
pub async fn promote(cx: &mut Cx<'_>, node: &Node) -> Result<(), OpFail> {
    let (fence, files) = (cx.nodes.fence(), secrets(cx)?);
    cx.nodes.call::<Secrets>(node, &SecretsRequest { fence, files }, CALL).await?;
    hmac::give_or_warn(cx, node).await?;
    set_role(cx, node, Role::Candidate).await?;
    let joined = member(cx, node, true, &fields(&[("master_candidate", true)])).await;
    if let Err(OpFail::Error(why)) = &joined
        && why.class == "OpPrereqError"
    {
        // Refused: it does not count. A node that can't be told is told by its next audit.
        let _ = set_role(cx, node, Role::Regular).await;
    }
    joined
}

/// Takes a candidate's copies out of the lists; `set` changes with it. A node that goes offline is not told: it forgets its
/// role when it is re-added.
pub async fn demote(cx: &mut Cx<'_>, node: &Node, set: Params) -> Result<(), OpFail> {
    let goes_offline = set.get("offline") == Some(&json!(true));
    member(cx, node, false, &set).await?;
    if goes_offline || node.offline {
        return Ok(());
    }
    match set_role(cx, node, Role::Regular).await {
        Err(OpFail::Error(why)) => {
            cx.warn(format!(
                "Node {} could not be told that it is no master candidate any more: {why}; the overseer's next audit does it",
                node.name
            ));
            Ok(())
        }
        other => other,
    }
}

async fn member(cx: &mut Cx<'_>, node: &Node, join: bool, set: &Params) -> Result<(), OpFail> {
    let say = cx.sayer();
    let index = cx.master.member_change(node.uuid, join, set, say).await?;
    cx.saw(index);
    Ok(())
}

/// Takes role and CA key from a node that has them and is no candidate: what a promotion or demotion leaves whose job died, or
/// that could not tell the node. Whether there was anything to take.
pub async fn put_right(cx: &mut Cx<'_>, node: &Node) -> Result<bool, OpFail> {
    if !has_leftover(cx, node).await? {
        return Ok(false);
    }
    // Who makes it a candidate just now holds its lock, or the BGL.
    cx.begin(Locks::shared().node(node.uuid, Want::Exclusive)).await?;
    let node = cx.master.node(&node.uuid.to_string()).await?;
    if node.offline || !has_leftover(cx, &node).await? {
        return Ok(false);
    }
    set_role(cx, &node, Role::Regular).await?;
    Ok(true)
}

async fn has_leftover(cx: &mut Cx<'_>, node: &Node) -> Result<bool, OpFail> {
    let reply = cx.nodes.call::<Crypto>(node, &(), CALL).await?;
    if crypto::leftover(&reply, node.master_candidate).is_none() {
        return Ok(false);
    }
    // A history that was given up (P1.12) may live on in its copies alone. With its role it can still be made the master of
    // that: whether anybody wants it, a person decides, by making the node a candidate of this one.
    let master = cx.master.node(&cx.go().master.to_string()).await?;
    let ours = cx.nodes.call::<CopyLook>(&master, &(), CALL).await?;
    let theirs = cx.nodes.call::<CopyLook>(node, &(), CALL).await?;
    Ok(!candidates::of_another_history(&ours, &theirs))
}

async fn set_role(cx: &Cx<'_>, node: &Node, role: Role) -> Result<(), OpFail> {
    let request = SetRoleRequest { fence: cx.nodes.fence(), role };
    cx.nodes.call::<SetRole>(node, &request, CALL).await
}

fn secrets(cx: &Cx<'_>) -> Result<Vec<(String, String)>, OpFail> {
    let dir = cx.root().secrets();
    let read = |name: &str| {
        let text = std::fs::read_to_string(dir.join(name));
        let text = text.map_err(|why| OpFail::exec(format!("can't read this master's {name}: {why}")))?;
        Ok((name.to_owned(), text))
    };
    SECRETS.into_iter().map(read).collect()
}

/// A node that has just come into service becomes a candidate when the pool is short. That it can't is no failure of what
/// brought it: a warning says so.
pub async fn promote_itself(cx: &mut Cx<'_>, node: NodeUuid) -> Result<(), OpFail> {
    let (nodes, size) = (cx.master.nodes().await?, cx.master.cluster().await?.candidate_pool_size);
    let Some(own) = nodes.iter().find(|other| other.uuid == node) else { return Ok(()) };
    if own.master_candidate || !candidates::may_be(own) || !candidates::promotes_itself(&nodes, size, node) {
        return Ok(());
    }
    let own = own.clone();
    promote_or_warn(cx, &own).await.map(|_| ())
}

/// Whether it was promoted.
async fn promote_or_warn(cx: &mut Cx<'_>, node: &Node) -> Result<bool, OpFail> {
    match promote(cx, node).await {
        Ok(()) => Ok(true),
        Err(OpFail::Error(why)) if !cx.master.is_away() => {
            cx.warn(format!(
                "Node {} could not be made a master candidate: {why}; try gnt-node modify -C yes {}",
                node.name, node.name
            ));
            Ok(false)
        }
        Err(other) => Err(other),
    }
}

/// Promotes nodes, drawn at random, until the pool is as large as it should be. `without`: nodes that neither count nor are
/// drawn. Nodes that can't be promoted now are told and passed over.
pub async fn fill(cx: &mut Cx<'_>, without: &[NodeUuid]) -> Result<(), OpFail> {
    let size = cx.master.cluster().await?.candidate_pool_size;
    let mut nodes = cx.master.nodes().await?;
    let (mut promoted, mut failed) = (Vec::new(), without.to_vec());
    while let Some(node) = candidates::next(&nodes, size, &failed, draw).cloned() {
        if promote_or_warn(cx, &node).await? {
            promoted.push(node.name);
            let own = nodes.iter_mut().filter(|other| other.uuid == node.uuid);
            own.for_each(|other| other.master_candidate = true);
        } else {
            failed.push(node.uuid);
        }
    }
    if !promoted.is_empty() {
        cx.info(format!("Promoted nodes to master candidate role: {}", promoted.join(", ")));
    }
    let pool = candidates::Pool::of(&nodes, size, without);
    if pool.actual > pool.target {
        let text =
            format!("Note: more nodes are candidates ({}) than desired ({})", pool.actual, pool.target);
        cx.info(text);
    }
    Ok(())
}

/// Any number below `n`.
fn draw(n: usize) -> usize {
    let (high, _) = Uuid::new_v4().as_u64_pair();
    usize::try_from(high % n.max(1) as u64).unwrap_or(0)
}
