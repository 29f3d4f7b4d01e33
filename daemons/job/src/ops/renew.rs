//! OP_CLUSTER_RENEW_CRYPTO: another CA for the whole cluster, or new certificates of the same one (docs/adr/0010). What is
//! next is said by `core::renew` from what the nodes answer; here they are asked and told.
//!
//! ```text
//! intent (the wanted CA) committed ─▶ look ─▶ one step on some nodes ─▶ look ─▶ … ─▶ done ─▶ intent taken back
//! ```

use crate::core::renew::{Rules, Said, Seen, Step, grown, hex, next, parse};
use crate::core::together::together;
use crate::error::OpFail;
use crate::io::nodes::{CALL, NodeFail};
use crate::ops::{Args, Cx, Locks, hmac};
use gantry_model::config::{Cluster, Node, Params, RENEWED_CA};
use gantry_model::error::Ecode;
use gantry_model::ids::NodeUuid;
use gantry_proto::envelope::Code;
use gantry_proto::noded::{Crypto, CryptoAsk, CryptoChange, CryptoReply, CryptoStore, CryptoStoreRequest};
use gantry_proto::wconfd::{CaNextReply, Command};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// How long silent nodes are waited for: a daemon that boot starts anew is back long before.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at nodes that are waited for.
const PAUSE: Duration = Duration::from_millis(500);
/// Looks of one job. A renewal needs six; more are needed when nodes come and go meanwhile.
const LOOKS_MAX: usize = 60;

/// What a look found: per node its answer, or why there is none.
type Found = BTreeMap<NodeUuid, Result<CryptoReply, String>>;

/// Result: null.
pub async fn run(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    if args.bool("renew_ssh_keys") {
        let text = "Gantry's nodes have no SSH keys of their own: there are none to renew";
        return Err(OpFail::prereq(text, Ecode::WrongInput));
    }
    let (ca, certificates) = (args.bool("cluster_certificate"), args.bool("node_certificates"));
    let key = args.bool("confd_hmac_key");
    if !ca && !certificates && !key {
        let text = "Please say what to renew: cluster_certificate, node_certificates or confd_hmac_key";
        return Err(OpFail::prereq(text, Ecode::WrongInput));
    }
    // Nodes neither join nor go, nor become candidates, while they are changed one by one.
    cx.begin(Locks::exclusive()).await?;
    let cluster = cx.master.cluster().await?;
    match (ca, certificates, under_way(&cluster)) {
        (true, _, _) => renew_ca(cx, &cluster, args.bool("verbose")).await?,
        (false, false, _) => {}
        (false, true, None) => renew_certificates(cx).await?,
        (false, true, Some(_)) => {
            let text = "a renewal of the cluster's CA is under way, which gives the nodes new certificates: go on with it \
                        (gnt-cluster renew-crypto --new-cluster-certificate)";
            return Err(OpFail::prereq(text, Ecode::WrongState));
        }
    }
    if key {
        hmac::renew(cx).await?;
    }
    Ok(Value::Null)
}

/// The text of the intent.
pub fn under_way(cluster: &Cluster) -> Option<&str> {
    cluster.extra.get(RENEWED_CA)?.as_str()
}

async fn intend(cx: &mut Cx<'_>, cluster: &Cluster, wanted: Value) -> Result<(), OpFail> {
    let set: Params = [(RENEWED_CA.to_owned(), wanted)].into_iter().collect();
    cx.apply(vec![Command::ClusterSet { rev: Some(cluster.stamp.serial_no), set }]).await.map(drop)
}

async fn renew_ca(cx: &mut Cx<'_>, cluster: &Cluster, verbose: bool) -> Result<(), OpFail> {
    let before = under_way(cluster).and_then(parse);
    let wanted = cx.master.ca_next(before).await?;
    if before == Some(wanted.print) {
        cx.say(format!("Going on with the change to the CA {}", hex(&wanted.print)));
    } else {
        cx.say(format!("Changing to the new CA {}", hex(&wanted.print)));
        intend(cx, cluster, json!(hex(&wanted.print))).await?;
    }
    let nodes = cx.master.nodes().await?;
    let (mut patience, mut told) = (None, BTreeMap::new());
    for _ in 0..LOOKS_MAX {
        let found = look(cx, &nodes).await?;
        if verbose {
            tell(cx, &nodes, &found, &mut told);
        }
        match next(Rules::ALL, &seen(cx, &nodes, &found), wanted.print) {
            Step::Done => return finish(cx, &wanted).await,
            Step::Wait(silent) => {
                let missing = named(&nodes, &found, &silent);
                match patience {
                    None => {
                        cx.say(format!("Waiting {} s for {missing}", PATIENCE.as_secs()));
                        patience = Some(Instant::now());
                    }
                    Some(since) if since.elapsed() >= PATIENCE => return Err(held_up(&missing)),
                    Some(_) => {}
                }
                tokio::time::sleep(PAUSE).await;
            }
            step => {
                patience = None;
                carry_out(cx, &nodes, &found, &step, &wanted).await?;
            }
        }
    }
    Err(OpFail::exec(format!(
        "after {LOOKS_MAX} looks the nodes are still not of one CA: they come and go; all work on, and trust each other. Run \
         the command again when they stay"
    )))
}

async fn finish(cx: &mut Cx<'_>, wanted: &CaNextReply) -> Result<(), OpFail> {
    let cluster = cx.master.cluster().await?;
    intend(cx, &cluster, Value::Null).await?;
    cx.say(format!("All nodes are of the CA {} and trust no other", hex(&wanted.print)));
    cx.say("Backups made before hold the old CA, which nobody believes any more: make a new one (gnt-cluster backup)");
    Ok(())
}

fn seen(cx: &Cx<'_>, nodes: &[Node], found: &Found) -> Vec<Seen> {
    let said = |reply: &CryptoReply| Said {
        trusts: reply.trust.iter().map(|ca| ca.print).collect(),
        issuer: reply.issuer,
        key: reply.key,
    };
    let of = |node: &Node| Seen {
        node: node.uuid,
        candidate: node.master_candidate,
        master: node.uuid == cx.go().master,
        said: found.get(&node.uuid).and_then(|found| found.as_ref().ok()).map(said),
    };
    nodes.iter().map(of).collect()
}

/// Asks all nodes at once.
async fn look(cx: &mut Cx<'_>, nodes: &[Node]) -> Result<Found, OpFail> {
    let claimed = cx.master.claimed_nodes().await?;
    let all = nodes.iter().map(|node| ask(cx.nodes, &claimed, node));
    let answers = together(all).await;
    Ok(nodes.iter().map(|node| node.uuid).zip(answers).collect())
}

async fn ask(
    to: &crate::io::nodes::Nodes,
    claimed: &HashSet<NodeUuid>,
    node: &Node,
) -> Result<CryptoReply, String> {
    if node.offline {
        return Err("it is marked offline".to_owned());
    }
    let reply = to.ask::<Crypto>(node, &(), CALL).await.map_err(plain)?;
    // Else it would refuse to be changed.
    if !claimed.contains(&node.uuid) {
        return Err("the master has not taken it over yet".to_owned());
    }
    Ok(reply)
}

fn plain(why: NodeFail) -> String {
    match why {
        NodeFail::Away(why) => why,
        NodeFail::Refused(fail) => fail.text,
        NodeFail::Broken(OpFail::Error(why)) => why.to_string(),
        NodeFail::Broken(OpFail::Canceled) => "canceled".to_owned(),
        NodeFail::Broken(OpFail::Fenced(why)) => why,
    }
}

/// Says what nodes answer that have answered otherwise before.
fn tell(cx: &Cx<'_>, nodes: &[Node], found: &Found, told: &mut BTreeMap<NodeUuid, String>) {
    for node in nodes {
        let text = match found.get(&node.uuid) {
            Some(Ok(reply)) => {
                let of = |print: Option<&[u8; 32]>| print.map_or_else(|| "none".to_owned(), hex);
                let trust: Vec<String> = reply.trust.iter().map(|ca| hex(&ca.print)).collect();
                let (issuer, key) = (of(reply.issuer.as_ref()), of(reply.key.as_ref()));
                format!("trusts {}, certificate of {issuer}, key of {key}", trust.join(" and "))
            }
            Some(Err(why)) => why.clone(),
            None => continue,
        };
        if told.get(&node.uuid) != Some(&text) {
            cx.say(format!("  {}: {text}", node.name));
            told.insert(node.uuid, text);
        }
    }
}

/// The nodes of `silent` by name, each with the reason.
fn named(nodes: &[Node], found: &Found, silent: &[NodeUuid]) -> String {
    let why = |node: &Node| match found.get(&node.uuid) {
        Some(Err(why)) => format!("{} ({why})", node.name),
        Some(Ok(_)) | None => node.name.clone(),
    };
    let of = nodes.iter().filter(|node| silent.contains(&node.uuid));
    of.map(why).collect::<Vec<_>>().join(", ")
}

/// What the command says when nodes are missing: the cluster works on.
fn held_up(missing: &str) -> OpFail {
    OpFail::exec(format!(
        "the renewal waits for {missing}: changed without it, a node could speak to nobody any more. All others work on as \
         before. Bring it back, or take it out (gnt-node remove), then run the command again"
    ))
}

async fn carry_out(
    cx: &mut Cx<'_>,
    nodes: &[Node],
    found: &Found,
    step: &Step,
    wanted: &CaNextReply,
) -> Result<(), OpFail> {
    let ours = found.get(&cx.go().master).and_then(|found| found.as_ref().ok());
    let ours = ours.map(|reply| reply.trust.clone()).unwrap_or_default();
    let (Step::Trust(to) | Step::Key(to) | Step::Certificate(to) | Step::Alone(to)) = step else {
        return Ok(());
    };
    for node in nodes.iter().filter(|node| to.contains(&node.uuid)) {
        let Some(Ok(reply)) = found.get(&node.uuid) else { continue };
        let (done, change) = match step {
            Step::Trust(_) => (
                "trusts the new CA too",
                CryptoChange::Trust(grown(&[&reply.trust, &ours], &wanted.certificate, &wanted.print)),
            ),
            Step::Key(_) => ("can sign by the new CA", CryptoChange::Key(wanted.key.clone())),
            Step::Certificate(_) => match certificate(cx, node).await? {
                Some(pem) => ("has a certificate of the new CA", CryptoChange::Certificate(pem)),
                None => continue,
            },
            Step::Alone(_) => (
                "trusts the new CA alone",
                CryptoChange::Trust(grown(&[], &wanted.certificate, &wanted.print)),
            ),
            Step::Wait(_) | Step::Done => continue,
        };
        if store(cx, node, reply, change).await? {
            cx.say(format!("{}: {done}", node.name));
        }
    }
    Ok(())
}

/// A certificate for a new key of the node; None when it does not answer now: the next look says so.
async fn certificate(cx: &mut Cx<'_>, node: &Node) -> Result<Option<String>, OpFail> {
    let csr = cx.nodes.ask::<CryptoAsk>(node, &cx.nodes.fence(), CALL).await;
    let Some(csr) = later(cx, node, csr)? else { return Ok(None) };
    Ok(Some(cx.master.sign(node.uuid, csr).await?.certificate))
}

/// Whether the node took it.
async fn store(
    cx: &mut Cx<'_>,
    node: &Node,
    reply: &CryptoReply,
    change: CryptoChange,
) -> Result<bool, OpFail> {
    let request = CryptoStoreRequest { fence: cx.nodes.fence(), seen: reply.state, change };
    let stored = cx.nodes.ask::<CryptoStore>(node, &request, CALL).await;
    Ok(later(cx, node, stored)?.is_some())
}

/// The answer; None when another look is needed first: the node is away, or not as it was seen.
fn later<T>(cx: &Cx<'_>, node: &Node, answer: Result<T, NodeFail>) -> Result<Option<T>, OpFail> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(why) if matches!(why, NodeFail::Away(_)) || why.code() == Some(Code::Stale) => {
            cx.say(format!("{} is looked at again: {}", node.name, plain(why)));
            Ok(None)
        }
        Err(why) => Err(why.into_op(node)),
    }
}

/// New certificates of the CA there is. A node that does not answer keeps its own, which goes on working.
async fn renew_certificates(cx: &mut Cx<'_>) -> Result<(), OpFail> {
    let nodes = cx.master.nodes().await?;
    let found = look(cx, &nodes).await?;
    let mut missing = Vec::new();
    for node in &nodes {
        let renewed = match found.get(&node.uuid) {
            Some(Ok(reply)) => match certificate(cx, node).await? {
                Some(pem) => store(cx, node, reply, CryptoChange::Certificate(pem)).await?,
                None => false,
            },
            Some(Err(why)) => {
                cx.say(format!("{}: {why}", node.name));
                false
            }
            None => false,
        };
        if renewed {
            cx.say(format!("{}: has a new certificate", node.name));
        } else {
            missing.push(node.name.as_str());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(OpFail::exec(format!(
        "no new certificate for {}: theirs go on working. Run the command again when they answer",
        missing.join(", ")
    )))
}
