//! OP_NODE_ADD, _REMOVE (`spec/failover.md` §3). A node joins by proving a secret both ways
//! (DESIGN §4): the master side of that is here.

use crate::core::hooks::Hooks;
use crate::core::join;
use crate::error::OpFail;
use crate::io::nodes::{CALL, address};
use crate::ops::{Args, Cx, Locks};
use crate::ops::{candidate, hmac};
use gantry_model::config::{NODED_PORT, Node, Params, Stamp, kind};
use gantry_model::error::Ecode;
use gantry_model::ids::{GroupUuid, NodeUuid};
use gantry_model::names::is_host_name;
use gantry_model::role::Role;
use gantry_model::time;
use gantry_proto::noded::{JoinFinish, JoinFinishRequest, JoinProve, JoinProveRequest, Leave, NodeInfo};
use gantry_proto::wconfd::Command;
use gantry_rpc::{Client, ConnectError};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use uuid::Uuid;

/// Adds a node: it proves the join secret, gets its certificate, then stands in the configuration. Result: null.
pub async fn add(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let name = args.need("node_name")?;
    if !is_host_name(name) {
        return Err(OpFail::prereq(format!("'{name}' is no host name"), Ecode::WrongInput));
    }
    cx.begin(Locks::exclusive()).await?;
    let known: Option<Node> = cx.master.find(kind::NODE, name).await?;
    let node = match (known, args.bool("readd")) {
        (Some(known), true) => {
            unmoved(args, &known)?;
            known
        }
        (Some(known), false) => {
            let text = format!("Node {} is already in the configuration", known.name);
            return Err(OpFail::prereq(text, Ecode::AlreadyExists));
        }
        (None, true) => {
            let text = format!("Node {name} is not in the configuration: it can't be re-added");
            return Err(OpFail::prereq(text, Ecode::UnknownEntity));
        }
        (None, false) => fresh(cx, args, name).await?,
    };
    missing_secret(args)?;
    let hooks = add_hooks(cx, args, &node).await?;
    cx.pre_hooks(&hooks).await?;
    enter(cx, args, node).await?;
    cx.post_hooks(&hooks).await?;
    Ok(Value::Null)
}

/// On all nodes; after the effect on the new one too.
async fn add_hooks(cx: &mut Cx<'_>, args: &Args<'_>, node: &Node) -> Result<Hooks, OpFail> {
    let mut nodes = cx.master.nodes().await?;
    nodes.retain(|known| known.uuid != node.uuid);
    let there = Node { offline: false, ..node.clone() };
    let after: Vec<Node> = nodes.iter().cloned().chain([there]).collect();
    let flag = |flag: bool| if flag { "True" } else { "False" };
    let hooks = Hooks::node(args.id(), "node-add", node).with(&[
        ("NODE_PIP", &node.primary_ip),
        ("NODE_SIP", &node.secondary_ip),
        ("MASTER_CAPABLE", flag(node.master_capable)),
        ("VM_CAPABLE", flag(node.vm_capable)),
    ]);
    Ok(hooks.before_on(&nodes).after_on(&after))
}

fn missing_secret(args: &Args<'_>) -> Result<(), OpFail> {
    if args.str("join_secret").is_some() || args.bool("readd") {
        return Ok(());
    }
    let text = "the node's join secret is missing: give the content of var/lib/gantry/join-secret of the new node (--join-secret-file)";
    Err(OpFail::prereq(text, Ecode::WrongInput))
}

/// First the intent, then the effect: the node stands in the configuration as offline while it joins. A job that dies
/// in between leaves an offline node, which `--readd` finishes or `gnt-node remove` takes away.
async fn enter(cx: &mut Cx<'_>, args: &Args<'_>, node: Node) -> Result<(), OpFail> {
    let (secret, readd) = (args.str("join_secret"), args.bool("readd"));
    let added = Node { offline: true, ..node.clone() };
    // Undone when the join fails: a node that was in service before a mistyped --readd stays so.
    let (before, undo) = if readd {
        let drained = node.drained && !node.offline; // At most one of the two is set.
        (flags(node.uuid, true, false), flags(node.uuid, node.offline, drained))
    } else {
        (Command::NodeAdd { node: Box::new(added) }, Command::NodeRemove { node: node.uuid })
    };
    if node.master_candidate {
        // Whatever lies there now, its copies are not those that were counted: they come anew when it has joined.
        let offline = [("master_candidate", false), ("offline", true)];
        candidate::demote(cx, &node, candidate::fields(&offline)).await?;
    } else {
        cx.apply(vec![before]).await?;
    }
    let node = Node { offline: false, drained: false, master_candidate: false, ..node };
    let there = match secret {
        Some(secret) => join(cx, &node, secret).await,
        None => answers(cx, &node).await,
    };
    if let Err(why) = there {
        if matches!(why, OpFail::Error(_)) {
            cx.apply(vec![undo]).await?;
        }
        return Err(why);
    }
    answers(cx, &node).await?;
    cx.apply(vec![flags(node.uuid, false, false)]).await?;
    cx.claimed(&node).await?;
    hmac::give_or_warn(cx, &node).await?;
    candidate::promote_itself(cx, node.uuid).await
}

fn flags(node: NodeUuid, offline: bool, drained: bool) -> Command {
    let set = [("offline", offline), ("drained", drained)];
    let set = set.into_iter().map(|(name, on)| (name.to_owned(), json!(on))).collect();
    Command::NodeSet { node, rev: None, set }
}

/// A re-added node keeps its record: what is given must be what stands there.
fn unmoved(args: &Args<'_>, known: &Node) -> Result<(), OpFail> {
    let wrong = |text: String| Err(OpFail::prereq(text, Ecode::WrongInput));
    if let Some(given) = args.str("primary_ip")
        && given.parse::<IpAddr>().is_ok_and(|ip| ip.to_string() != known.primary_ip)
    {
        return wrong(format!(
            "Node {} is at {} in the configuration, not at {given}: a re-added node keeps its address; remove it and add it anew",
            known.name, known.primary_ip
        ));
    }
    if let Some(given) = args.uint("noded_port").filter(|given| *given != u64::from(known.noded_port)) {
        return wrong(format!(
            "Node {} listens on port {} in the configuration, not {given}: a re-added node keeps its port",
            known.name, known.noded_port
        ));
    }
    if args.str("group").is_some() {
        return wrong("Cannot pass a node group when a node is being readded".to_owned());
    }
    Ok(())
}

/// The node as it will stand in the configuration.
async fn fresh(cx: &mut Cx<'_>, args: &Args<'_>, name: &str) -> Result<Node, OpFail> {
    let primary = args.str("primary_ip").unwrap_or(name);
    let Ok(ip) = primary.parse::<IpAddr>() else {
        let text = format!("'{primary}' is no IP address: give the node's address (primary_ip)");
        return Err(OpFail::prereq(text, Ecode::ResolverError));
    };
    let secondary = args.str("secondary_ip").unwrap_or(primary);
    if let Some(other) = cx.master.nodes().await?.iter().find(|node| node.primary_ip == ip.to_string()) {
        let text = format!("address {ip} is in use by node {}", other.name);
        return Err(OpFail::prereq(text, Ecode::ResourceNotUnique));
    }
    Ok(Node {
        uuid: NodeUuid(Uuid::new_v4()),
        name: name.to_owned(),
        primary_ip: ip.to_string(),
        secondary_ip: secondary.to_owned(),
        master_candidate: false, // Until it has joined.
        offline: false,
        drained: false,
        group: group_of(cx, args).await?,
        master_capable: args.flag("master_capable").unwrap_or(true),
        vm_capable: args.flag("vm_capable").unwrap_or(true),
        ndparams: args.object("ndparams").cloned().unwrap_or_default(),
        powered: true,
        noded_port: port(args)?,
        stamp: Stamp::new(time::now().epoch()),
        extra: Params::new(),
    })
}

/// Where its noded listens.
fn port(args: &Args<'_>) -> Result<u16, OpFail> {
    let Some(port) = args.uint("noded_port") else { return Ok(NODED_PORT) };
    u16::try_from(port).map_err(|_| OpFail::prereq(format!("{port} is no TCP port"), Ecode::WrongInput))
}

/// The named group, or the only one.
async fn group_of(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<GroupUuid, OpFail> {
    if let Some(name) = args.str("group") {
        return Ok(cx.master.group(name).await?.uuid);
    }
    let groups = cx.master.groups().await?;
    match groups.as_slice() {
        [only] => Ok(only.uuid),
        _ => Err(OpFail::prereq("there is more than one group: name the node's group", Ecode::WrongInput)),
    }
}

/// Proves the secret both ways and hands over the certificate.
async fn join(cx: &mut Cx<'_>, node: &Node, secret: &str) -> Result<(), OpFail> {
    let wrong = |why: String| OpFail::prereq(why, Ecode::WrongInput);
    let secret = join::Secret::parse(secret).map_err(|why| wrong(why.to_string()))?;
    let address = address(node)?;
    let hello = cx.nodes.hello(node.uuid);
    let client = Client::tls_join(address, &hello).await.map_err(|why| unreachable(address, &why))?;
    let exporter = client.exporter().ok_or_else(|| OpFail::exec("this connection has no TLS exporter"))?;
    let cluster = cx.go().cluster;
    let proof = |side| secret.proof(side, &exporter, cluster, node.uuid);
    let request = JoinProveRequest {
        cluster,
        node: node.uuid,
        name: node.name.clone(),
        proof: proof(join::Side::Master),
    };
    let reply = client.call::<JoinProve>(&request, CALL).await.map_err(crate::error::failed)?;
    if !secret.verify(join::Side::Node, &exporter, cluster, node.uuid, &reply.proof) {
        return Err(wrong(format!(
            "what answers on {address} does not know the join secret: not the node you mean"
        )));
    }
    let signed = cx.master.sign(node.uuid, reply.csr).await?;
    let finish = JoinFinishRequest {
        certificate: signed.certificate,
        ca: signed.ca,
        fence: cx.nodes.fence(),
        role: Role::Regular,
    };
    client.call::<JoinFinish>(&finish, CALL).await.map_err(crate::error::failed)?;
    Ok(())
}

/// Why a node can't be joined. A member asks for a certificate, which only its cluster's nodes have.
fn unreachable(address: SocketAddr, why: &ConnectError) -> OpFail {
    let text = match why {
        ConnectError::Hello(text) if text.contains("CertificateRequired") => format!(
            "the node on {address} belongs to a cluster already; if that is over, stop the daemons there, remove its \
             var/lib/gantry, and start them again"
        ),
        ConnectError::Io(error) => format!(
            "the new node does not answer on {address}: {error}; is gantry-noded running there, not yet joined?"
        ),
        ConnectError::Hello(_)
        | ConnectError::Refused(_)
        | ConnectError::Version { .. }
        | ConnectError::WrongPeer { .. }
        | ConnectError::Distrust(_)
        | ConnectError::TimedOut => format!(
            "the new node does not answer on {address}: {why}; is gantry-noded running there, not yet joined?"
        ),
    };
    OpFail::prereq(text, Ecode::EnvironmentError)
}

/// Asks the node for its facts until it answers, for as long as a restart takes.
async fn answers(cx: &mut Cx<'_>, node: &Node) -> Result<(), OpFail> {
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match cx.nodes.call::<NodeInfo>(node, &(), CALL).await {
            Ok(_) => return Ok(()),
            Err(why) if tokio::time::Instant::now() >= until => return Err(why),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    }
}

/// Removes a node without instances that is not the master; the node forgets the cluster first. Result: null.
pub async fn remove(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let node = cx.master.node(args.named("node_name", "node_uuid")?).await?;
    cx.begin(Locks::exclusive()).await?;
    if node.uuid == cx.go().master {
        let text = "The node is the master node; failover to another node first";
        return Err(OpFail::prereq(text, Ecode::WrongInput));
    }
    let (instances, _) = cx.master.instances_of(node.uuid).await?;
    if let Some(first) = instances.first() {
        let text = format!(
            "{} instance(s) have node {} as their home, {} first: remove them",
            instances.len(),
            node.name,
            first.name
        );
        return Err(OpFail::prereq(text, Ecode::WrongInput));
    }
    let mut others = cx.master.nodes().await?;
    others.retain(|other| other.uuid != node.uuid);
    let hooks = Hooks::node(args.id(), "node-remove", &node).before_on(&others).after_on(&others);
    cx.pre_hooks(&hooks).await?;
    out_of_the_pool(cx, &node).await?;
    let untold = leave(cx, &node).await?;
    cx.apply(vec![Command::NodeRemove { node: node.uuid }]).await?;
    if let Some(text) = untold {
        cx.warn(text);
    }
    cx.post_hooks(&hooks).await?;
    Ok(Value::Null)
}

/// Others take its place first; then its copies stop counting, while it still answers.
async fn out_of_the_pool(cx: &mut Cx<'_>, node: &Node) -> Result<(), OpFail> {
    candidate::fill(cx, &[node.uuid]).await?;
    if node.master_candidate {
        let regular = candidate::fields(&[("master_candidate", false)]);
        candidate::demote(cx, node, regular).await?;
    }
    Ok(())
}

/// Has the node forget the cluster, or says why it could not be told. It goes first: a job that dies behind it leaves a
/// known node that does not answer, which the next `gnt-node remove` takes away; the other order leaves a member
/// that nobody knows.
async fn leave(cx: &mut Cx<'_>, node: &Node) -> Result<Option<String>, OpFail> {
    if node.offline {
        return Ok(Some(format!(
            "node {} is offline and was not told: stop the daemons there and remove var/lib/gantry by hand",
            node.name
        )));
    }
    let fence = cx.nodes.fence();
    match cx.nodes.call::<Leave>(node, &fence, CALL).await {
        Ok(()) | Err(OpFail::Canceled) => Ok(None),
        Err(OpFail::Error(why)) => {
            Ok(Some(format!("node {} is out of the configuration but could not be told: {why}", node.name)))
        }
        Err(fenced @ OpFail::Fenced(_)) => Err(fenced),
    }
}
