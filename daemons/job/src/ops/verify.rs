//! OP_CLUSTER_VERIFY, _VERIFY_CONFIG, _VERIFY_GROUP (`spec/failover.md` §7): what Gantry can check without SSH.

use crate::core::address;
use crate::core::candidates::Pool;
use crate::core::confd_legacy;
use crate::core::crypto::{self, Expected};
use crate::core::hooks::Hooks;
use crate::core::renew::hex;
use crate::error::OpFail;
use crate::io::nodes::CALL;
use crate::ops::{Args, Cx, Locks, renew};
use gantry_model::config::{AdminState, Cluster, Group, Instance, Node, Slot, SlotState, confd};
use gantry_model::master_ip::MasterAddress;
use gantry_model::pool::SLOT_STUCK_S;
use gantry_model::time;
use gantry_proto::copies::DamagedReply;
use gantry_proto::effects::AddressLookReply;
use gantry_proto::noded::{
    AddressLook, BodyDamaged, ConfdLegacy, Crypto, NodeInfo, NodeInfoReply, SsconfHave,
};
use gantry_proto::wconfd::{CopyStatus, Want};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// A copy that answered so lately is only being connected anew: a noded that restarts is no finding.
const AWAY_MS: u64 = 3_000;
/// A copy that lacks more changes than a learner may when it begins to count (P2.2).
const LAG_MAX: u64 = 1000;
/// How often a node is asked whose ssconf files are not what they should be: what has just changed is on its way to it.
const SSCONF_TRIES: u32 = 12;
/// And how long between.
const SSCONF_EVERY: Duration = Duration::from_millis(250);

/// Submits the config job and one job per group after it. Result: `{"jobs": …}`.
pub async fn submit(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::shared()).await?;
    let groups = match args.str("group_name") {
        Some(name) => vec![cx.master.group(name).await?],
        None => cx.master.groups().await?,
    };
    let passed = |op: &mut Value, names: &[&str]| {
        for name in names {
            if let Some(value) = args.get(name) {
                op[*name] = value.clone();
            }
        }
        op["comment"] = json!("Submitted by OP_CLUSTER_VERIFY");
        op["reason"] = args.get("reason").cloned().unwrap_or_else(|| json!([]));
        op["priority"] = args.get("priority").cloned().unwrap_or_else(|| json!(0));
    };
    let common = ["debug_simulate_errors", "error_codes", "ignore_errors", "verbose"];
    let mut jobs = Vec::new();
    if args.str("group_name").is_none() {
        let mut op = json!({"OP_ID": "OP_CLUSTER_VERIFY_CONFIG"});
        passed(&mut op, &common);
        jobs.push(json!([op]));
    }
    for group in groups {
        let mut op = json!({"OP_ID": "OP_CLUSTER_VERIFY_GROUP", "group_name": group.name});
        passed(&mut op, &common);
        passed(&mut op, &["skip_checks", "verify_clutter"]);
        if args.str("group_name").is_none() {
            // Negative: so many jobs before this one in the same submission.
            let before = i64::try_from(jobs.len()).unwrap_or(i64::MAX);
            op["depends"] = json!([[-before, []]]);
        }
        jobs.push(json!([op]));
    }
    Ok(json!({"jobs": cx.master.submit_many(&Value::Array(jobs)).await?}))
}

/// Tells one finding.
fn error(cx: &Cx<'_>, kind: &str, name: &str, text: &str) {
    cx.say(format!("  - ERROR: {kind} {name}: {text}"));
}

/// Checks the configuration by itself. Result: true = clean.
pub async fn config(cx: &mut Cx<'_>) -> Result<Value, OpFail> {
    let levels = ["instance", "nodegroup", "node"];
    let locks = levels.iter().fold(Locks::shared(), |locks, level| locks.all_of(level, Want::Shared));
    cx.begin(locks).await?;
    cx.say("* Verifying cluster config");
    let cluster = cx.master.cluster().await?;
    let (nodes, groups) = (cx.master.nodes().await?, cx.master.groups().await?);
    let instances: Vec<Instance> = cx.master.instances().await?;
    let mut findings = config_findings(&nodes, &groups, &instances, cluster.master_node);
    findings.extend(pool_findings(Pool::of(&nodes, cluster.candidate_pool_size, &[])));
    findings.extend(renewal_finding(renew::under_way(&cluster)));
    findings.extend(copy_findings(&cx.master.copies().await?)?);
    cx.say("* Verifying all nodes belong to an existing group");
    for (kind, name, text) in &findings {
        error(cx, kind, name, text);
    }
    Ok(json!(findings.is_empty()))
}

/// Too few candidates: what is acknowledged lies on fewer disks than wanted.
fn pool_findings(pool: Pool) -> Option<(&'static str, String, String)> {
    let text = format!("Not enough master candidates: actual {}, target {}", pool.actual, pool.target);
    pool.is_short().then(|| ("cluster", "config".to_owned(), text))
}

/// A renewal that has begun and not ended: nodes trust a CA more than they need.
fn renewal_finding(ca: Option<&str>) -> Option<(&'static str, String, String)> {
    let text = format!(
        "a renewal to the CA {} is under way: end it with \"gnt-cluster renew-crypto --new-cluster-certificate\"",
        ca?
    );
    Some(("cluster", "config".to_owned(), text))
}

/// What the nodes' certificates are held against: the CA by which the master signs.
async fn expected(cx: &mut Cx<'_>) -> Result<Expected, OpFail> {
    let (cluster, nodes) = (cx.master.cluster().await?, cx.master.nodes().await?);
    #[allow(clippy::cast_possible_truncation, reason = "seconds")]
    let now = time::now().epoch() as i64;
    let master = nodes.iter().find(|node| node.uuid == cx.go().master);
    let Some(master) = master else { return Ok(Expected { ca: None, hmac: None, now }) };
    let own = cx.nodes.call::<Crypto>(master, &(), CALL).await?;
    // A master that lost the key is found like any candidate.
    let ca = own.key.or(own.issuer).filter(|_| renew::under_way(&cluster).is_none());
    for known in own.trust.iter().filter(|known| Some(known.print) == ca) {
        let days = crypto::days_left(known.ends, now);
        cx.say(format!("* Verifying certificates (CA {}, ends in {days} days)", hex(&known.print)));
    }
    Ok(Expected { ca, hmac: own.hmac, now })
}

/// The cluster's address, if it has one, and what the master says of it.
struct Address(Option<(MasterAddress, Result<AddressLookReply, String>)>);

impl Address {
    async fn look(cx: &mut Cx<'_>, cluster: &Cluster) -> Result<Self, OpFail> {
        // One that is not valid is refused when it is set, and told by who should put it up.
        let Some(wanted) = MasterAddress::of(cluster).ok().flatten() else { return Ok(Self(None)) };
        let master = cx.master.node(&cx.go().master.to_string()).await?;
        let seen = seen(cx, &master, &wanted).await?;
        Ok(Self(Some((wanted, seen))))
    }

    /// What is wrong with it on a node.
    async fn finding(
        &self,
        cx: &Cx<'_>,
        node: &Node,
    ) -> Result<Option<(&'static str, String, String)>, OpFail> {
        let Some((wanted, on_master)) = &self.0 else { return Ok(None) };
        let wrong = if node.uuid == cx.go().master {
            match on_master {
                Ok(seen) => address::on_master(wanted, seen),
                Err(why) => Err(why.clone()),
            }
        } else {
            match seen(cx, node, wanted).await? {
                Ok(seen) => match address::elsewhere(wanted, &seen, on_master.as_ref().ok()) {
                    Some(text) => Err(text),
                    None => Ok(None),
                },
                Err(why) => Err(why),
            }
        };
        match wrong {
            Ok(None) => Ok(None),
            Ok(Some(note)) => {
                cx.say(format!("  - NOTICE: node {}: {note}", node.name));
                Ok(None)
            }
            Err(text) => Ok(Some(("node", node.name.clone(), text))),
        }
    }
}

/// Whether a node has the cluster's address, or why it can't say.
async fn seen(
    cx: &Cx<'_>,
    node: &Node,
    wanted: &MasterAddress,
) -> Result<Result<AddressLookReply, String>, OpFail> {
    match cx.nodes.call::<AddressLook>(node, &wanted.ip, CALL).await {
        Ok(reply) => Ok(Ok(reply)),
        Err(OpFail::Error(why)) => Ok(Err(format!("its addresses can't be looked at: {why}"))),
        Err(other) => Err(other),
    }
}

/// What is wrong with a node's certificates.
async fn crypto_findings(
    cx: &Cx<'_>,
    node: &Node,
    expected: Expected,
) -> Result<Vec<(&'static str, String, String)>, OpFail> {
    let wrong = match cx.nodes.call::<Crypto>(node, &(), CALL).await {
        Ok(reply) => crypto::findings(&reply, node.master_candidate, expected),
        Err(OpFail::Error(why)) => vec![format!("its certificates can't be looked at: {why}")],
        Err(other) => return Err(other),
    };
    Ok(wrong.into_iter().map(|text| ("node", node.name.clone(), text)).collect())
}

/// What is to be known before the legacy form of ConfD is given up: who uses it still (`spec/confd.md` §7.3). No finding, since
/// the cluster says that both forms are spoken.
async fn legacy_warning(cx: &Cx<'_>, node: &Node, cluster: &Cluster) -> Result<Option<String>, OpFail> {
    let digest = cluster.extra.get(confd::DIGEST).and_then(Value::as_str);
    let answers = node.master_candidate || node.uuid == cx.go().master;
    if !answers || digest.is_some_and(|digest| digest != confd::BOTH) {
        return Ok(None);
    }
    match cx.nodes.call::<ConfdLegacy>(node, &(), CALL).await {
        Ok(sources) => Ok(confd_legacy::warning(&node.name, &sources)),
        // A noded of before can't say.
        Err(OpFail::Error(_)) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Files that Ganeti's tools and confd read, and that are not what the configuration says: somebody, or the disk, changed them.
async fn ssconf_finding(
    cx: &mut Cx<'_>,
    node: &Node,
) -> Result<Option<(&'static str, String, String)>, OpFail> {
    let mut wrong = None;
    for _ in 0..SSCONF_TRIES {
        let have = match cx.nodes.call::<SsconfHave>(node, &(), CALL).await {
            Ok(have) => have,
            // A noded of before can't say.
            Err(OpFail::Error(_)) => return Ok(None),
            Err(other) => return Err(other),
        };
        wrong = ssconf_wrong(&cx.master.ssconf().await?.values, &have.digests);
        if wrong.is_none() {
            return Ok(None);
        }
        tokio::time::sleep(SSCONF_EVERY).await;
    }
    Ok(wrong.map(|text| ("node", node.name.clone(), text)))
}

fn ssconf_wrong(values: &[(String, String)], have: &[(String, [u8; 32])]) -> Option<String> {
    let is_right = |(key, value): &&(String, String)| {
        let digest: [u8; 32] = Sha256::digest(value).into();
        have.iter().any(|(name, found)| name == key && *found == digest)
    };
    let (key, _) = values.iter().find(|value| !is_right(value))?;
    Some(format!(
        "its ssconf_{key} is not what the configuration says: \"gnt-cluster redist-conf\" writes it anew"
    ))
}

/// Bodies on a node's disk that are damaged, and that no other candidate has given back whole.
async fn body_finding(cx: &Cx<'_>, node: &Node) -> Result<Option<(&'static str, String, String)>, OpFail> {
    match cx.nodes.call::<BodyDamaged>(node, &(), CALL).await {
        Ok(reply) => Ok(damaged_text(&reply).map(|text| ("node", node.name.clone(), text))),
        // A noded of before can't say.
        Err(OpFail::Error(_)) => Ok(None),
        Err(other) => Err(other),
    }
}

fn damaged_text(reply: &DamagedReply) -> Option<String> {
    let first = reply.first.first()?;
    let more = match reply.count.saturating_sub(1) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "its copy of body {first}{more} (an input, an output or an image) is damaged; a whole one is taken from another candidate \
         within ten minutes if one has it; else send it again, or take it from a backup"
    ))
}

/// Copies of either log that do not count, do not answer, or are far behind.
fn copy_findings(copies: &Value) -> Result<Vec<(&'static str, String, String)>, OpFail> {
    let mut found = Vec::new();
    for (log, whose) in [("config", "configuration"), ("queue", "job queue")] {
        let all = Vec::<CopyStatus>::deserialize(&copies[log])
            .map_err(|why| OpFail::exec(format!("can't read how the copies stand: {why}")))?;
        let wrong = all.into_iter().filter_map(|copy| Some((copy_finding(&copy, whose)?, copy.name)));
        found.extend(wrong.map(|(text, name)| ("node", name, text)));
    }
    Ok(found)
}

/// What is wrong with a copy, and what to do.
fn copy_finding(copy: &CopyStatus, whose: &str) -> Option<String> {
    let node = &copy.name;
    let cure = format!("\"gnt-node modify -C no {node}\", then \"gnt-node modify -C yes {node}\"");
    match &copy.suspect {
        Some(why) => Some(format!("its copy of the {whose} does not count: {why}; have it fed anew: {cure}")),
        None if !copy.why.is_empty() && copy.answered_ms_ago.is_none_or(|ms| ms > AWAY_MS) => Some(format!(
            "its copy of the {whose} is not reached: {}; if it stays so, have it fed anew: {cure}",
            copy.why
        )),
        None if copy.lag > LAG_MAX => Some(format!("its copy of the {whose} lacks {} changes", copy.lag)),
        None => None,
    }
}

/// Soft checks of `spec/config.md` §5: (kind, name, text) of what is wrong.
fn config_findings(
    nodes: &[Node],
    groups: &[Group],
    instances: &[Instance],
    master: gantry_model::ids::NodeUuid,
) -> Vec<(&'static str, String, String)> {
    let mut found = Vec::new();
    if !nodes.iter().any(|node| node.uuid == master) {
        found.push((
            "cluster",
            "config".to_owned(),
            format!("the master node {master} is not among the nodes"),
        ));
    }
    let known: HashSet<_> = groups.iter().map(|group| group.uuid).collect();
    let mut addresses: HashMap<&str, &str> = HashMap::new();
    for node in nodes {
        if !known.contains(&node.group) {
            found.push((
                "node",
                node.name.clone(),
                format!("belongs to group {}, which does not exist", node.group),
            ));
        }
        if [node.master_candidate, node.drained, node.offline].iter().filter(|flag| **flag).count() > 1 {
            found.push((
                "node",
                node.name.clone(),
                "more than one of candidate, drained and offline is set".to_owned(),
            ));
        }
        if let Some(other) = addresses.insert(&node.primary_ip, &node.name) {
            found.push((
                "node",
                node.name.clone(),
                format!("has the address {} of node {other}", node.primary_ip),
            ));
        }
    }
    let homes: HashSet<_> = nodes.iter().map(|node| node.uuid).collect();
    let mut macs: HashMap<&str, &str> = HashMap::new();
    for instance in instances {
        if !homes.contains(&instance.primary_node) {
            found.push((
                "instance",
                instance.name.clone(),
                format!("its node {} does not exist", instance.primary_node),
            ));
        }
        for nic in &instance.nics {
            if let Some(other) = macs.insert(&nic.mac, &instance.name) {
                found.push((
                    "instance",
                    instance.name.clone(),
                    format!("has the MAC {} of {other}", nic.mac),
                ));
            }
        }
    }
    found
}

/// Compares a group's nodes and what runs there with the configuration. Result: true = clean.
pub async fn group(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let group = cx.master.group(args.need("group_name")?).await?;
    let nodes: Vec<Node> =
        cx.master.nodes().await?.into_iter().filter(|node| node.group == group.uuid).collect();
    let mut locks = Locks::shared().group(group.uuid, Want::Shared);
    for node in &nodes {
        locks = locks.node(node.uuid, Want::Shared);
    }
    cx.begin(locks).await?;
    cx.say(format!("* Verifying group '{}'", group.name));
    cx.say(format!("* Gathering data ({} nodes)", nodes.len()));
    let expected = expected(cx).await?;
    let cluster = cx.master.cluster().await?;
    let address = Address::look(cx, &cluster).await?;
    let mut clean = true;
    let mut legacy = Vec::new();
    for node in nodes.iter().filter(|node| !node.offline) {
        let found = match cx.nodes.call::<NodeInfo>(node, &(), CALL).await {
            Ok(facts) => {
                let (instances, slots) = cx.master.instances_of(node.uuid).await?;
                let mut found = node_findings(node, &facts, &instances, &slots);
                found.extend(crypto_findings(cx, node, expected).await?);
                found.extend(address.finding(cx, node).await?);
                found.extend(body_finding(cx, node).await?);
                found.extend(ssconf_finding(cx, node).await?);
                legacy.extend(legacy_warning(cx, node, &cluster).await?);
                found
            }
            Err(OpFail::Error(why)) => {
                vec![("node", node.name.clone(), format!("while contacting node: {why}"))]
            }
            Err(other) => return Err(other),
        };
        for (kind, name, text) in found {
            clean = false;
            error(cx, kind, &name, &text);
        }
    }
    let offline = nodes.iter().filter(|node| node.offline).count();
    cx.say("* Other Notes");
    if offline > 0 {
        cx.say(format!("  - NOTICE: {offline} offline node(s) found."));
    }
    for warning in legacy {
        cx.say(warning);
    }
    let hooks = Hooks::cluster(args.id(), "cluster-verify", &cluster.cluster_name).after_on(&nodes);
    let failed = cx.hooks_after(&hooks).await?;
    if !failed.is_empty() {
        cx.say("* Hooks Results");
    }
    for one in failed {
        clean = false;
        let text = format!("Script {} failed, output: {}", one.script, one.output);
        error(cx, "node", &one.node, &text);
    }
    Ok(json!(clean))
}

/// What does not fit between a node's facts and the configuration.
fn node_findings(
    node: &Node,
    facts: &NodeInfoReply,
    instances: &[Instance],
    slots: &[Slot],
) -> Vec<(&'static str, String, String)> {
    let mut found = Vec::new();
    let slot_of: HashMap<_, _> = slots.iter().map(|slot| (slot.uuid, slot)).collect();
    for instance in instances.iter().filter(|instance| instance.pool.is_none() && !instance.forthcoming) {
        let slot = slot_of.get(&instance.uuid);
        let runs = facts.vms.iter().any(|vm| {
            vm.slot == instance.uuid
                && vm.running
                && slot.is_some_and(|slot| slot.generation == vm.generation)
        });
        match (instance.admin_state, runs) {
            (AdminState::Up, false) => {
                found.push((
                    "instance",
                    instance.name.clone(),
                    format!("instance not running on its primary node {}", node.name),
                ));
            }
            (AdminState::Down | AdminState::Offline, true) => {
                found.push(("instance", instance.name.clone(), "instance runs but should not".to_owned()));
            }
            _ => {}
        }
    }
    found.extend(stuck_findings(&node.name, instances, slots));
    for vm in facts.vms.iter().filter(|vm| vm.running) {
        let wanted = slot_of
            .get(&vm.slot)
            .is_some_and(|slot| slot.generation == vm.generation && slot.state != SlotState::Absent);
        if !wanted {
            found.push((
                "node",
                node.name.clone(),
                format!("a VM nobody knows runs: slot {} generation {}", vm.slot, vm.generation),
            ));
        }
    }
    found
}

/// Slots of pools that fail again and again.
fn stuck_findings(node: &str, instances: &[Instance], slots: &[Slot]) -> Vec<(&'static str, String, String)> {
    let name_of =
        |slot: &Slot| instances.iter().find(|one| one.uuid == slot.uuid).map(|one| one.name.clone());
    let stuck = slots.iter().filter(|slot| slot.stuck);
    stuck.filter_map(|slot| Some(("slot", name_of(slot)?, stuck_text(slot, node)))).collect()
}

fn stuck_text(slot: &Slot, node: &str) -> String {
    let why = slot.why.as_deref().unwrap_or("its jobs say why");
    format!(
        "no VM could be made or destroyed {} times in a row on {node}, the last time: {why}; it is tried every {SLOT_STUCK_S} s, or \
         at once by gnt-slot recycle",
        slot.failures
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ids::NodeUuid;
    use uuid::Uuid;

    #[test]
    fn a_slot_that_fails_again_and_again_is_told() {
        let (pool, place): (Instance, NodeUuid) = (
            serde_json::from_value(json!({
                "uuid": Uuid::nil(), "name": "py-1", "primary_node": Uuid::nil(), "os": "host", "hypervisor": "oci",
                "hvparams": {}, "beparams": {}, "osparams": {}, "admin_state": "up", "admin_state_source": "admin",
                "nics": [], "disk_template": "file", "disks": [], "forthcoming": true, "pool": "py", "serial_no": 1,
                "ctime": 1.0, "mtime": 1.0,
            }))
            .unwrap(),
            NodeUuid(Uuid::nil()),
        );
        let text = |stuck| {
            let slot =
                Slot { stuck, failures: 8, why: Some("no space".to_owned()), ..Slot::new(pool.uuid, place) };
            stuck_findings("node1", std::slice::from_ref(&pool), &[slot])
        };
        assert_eq!(text(false), []);
        let [(kind, name, text)] = &text(true)[..] else { panic!("one finding") };
        assert_eq!((*kind, name.as_str()), ("slot", "py-1"));
        assert!(
            text.contains("8 times in a row on node1, the last time: no space; it is tried every 600 s"),
            "{text}"
        );
    }

    #[test]
    fn a_file_that_is_missing_or_another_is_told() {
        let values = [("a".to_owned(), "1\n".to_owned()), ("b".to_owned(), String::new())];
        let digest = |key: &str, text: &str| (key.to_owned(), <[u8; 32]>::from(Sha256::digest(text)));
        let right = [digest("a", "1\n"), digest("b", ""), digest("later", "x")];
        assert_eq!(ssconf_wrong(&values, &right), None);
        for wrong in [vec![digest("a", "1\n")], vec![digest("a", "1\n"), digest("b", "\n")]] {
            let text = ssconf_wrong(&values, &wrong).unwrap();
            assert!(text.contains("ssconf_b") && text.contains("redist-conf"), "{text}");
        }
    }

    #[test]
    fn damaged_bodies_are_told_with_what_to_do() {
        assert_eq!(damaged_text(&DamagedReply::default()), None);
        let reply = |count| DamagedReply { count, first: vec!["ab".to_owned()] };
        let text = damaged_text(&reply(1)).unwrap();
        assert!(
            text.starts_with("its copy of body ab (an input") && text.contains("send it again"),
            "{text}"
        );
        assert!(damaged_text(&reply(5)).unwrap().contains("body ab and 4 more ("));
    }
}
