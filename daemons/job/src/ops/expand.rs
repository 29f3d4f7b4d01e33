//! OP_POOL_EXPAND: adds the slots a pool lacks, each with a home that has room for it. The VMs follow in jobs of their
//! own. Killed in between, it leaves fewer slots than wanted; the next one adds the rest.

use crate::core::place;
use crate::core::together::together;
use crate::error::OpFail;
use crate::io::nodes::CALL;
use crate::ops::room::{Sizes, blueprint_need};
use crate::ops::{Args, Cx, Locks};
use gantry_model::config::{AdminState, Disk, Instance, Node, Params, Slot, SlotState, Stamp};
use gantry_model::ids::{InstanceUuid, NodeUuid};
use gantry_model::pool::{Blueprint, POOL_SLOTS_MAX, Pool, PoolState, slot_name};
use gantry_model::time;
use gantry_proto::noded::NodeInfo;
use gantry_proto::wconfd::Command;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};
use uuid::Uuid;

/// Slots added in one batch: some 60 KiB of JSON.
const LOT: usize = 64;

/// What is there.
struct Census {
    /// Slots of the pool by node, drained ones and those on nodes that take no work included.
    here: HashMap<NodeUuid, u64>,
    /// Numbers in use.
    numbers: BTreeSet<u64>,
    /// Slots that count: neither drained nor on nodes that are drained, offline or lost.
    counted: u64,
    leased: u64,
    /// What is homed on each node.
    homed: HashMap<NodeUuid, Vec<Instance>>,
}

/// Adds what is missing. Result: `{"added": n, "missing": m, "why": text or null}`.
pub async fn expand(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::none()).await?;
    let pool = cx.master.pool(args.need("pool_name")?).await?;
    let nodes = cx.master.nodes().await?;
    let claimed = cx.master.claimed_nodes().await?;
    let census = census(cx, &pool, &nodes, &claimed).await?;
    let wanted = pool.wanted(census.leased).saturating_sub(census.counted).min(POOL_SLOTS_MAX);
    let blueprint = cx.master.blueprint(&pool.blueprint.to_string()).await?;
    if let Some(why) = idle(&pool, &blueprint, wanted) {
        return Ok(told(0, if blueprint.enabled { 0 } else { wanted }, Some(why)));
    }
    let (homes, short) = homes(cx, &pool, &blueprint, &nodes, (&census, &claimed), wanted).await?;
    let slots = slots(&pool, &blueprint, homes, &census.numbers);
    let (added, refused) = add(cx, slots).await?;
    let missing = wanted - added;
    let why = refused.or(short);
    if let Some(why) = why.as_ref().filter(|_| missing > 0) {
        cx.warn(format!("pool {}: {missing} slots are missing: {why}", pool.name));
    }
    cx.say(format!("pool {}: {added} slots added", pool.name));
    Ok(told(added, missing, why))
}

fn told(added: u64, missing: u64, why: Option<String>) -> Value {
    json!({"added": added, "missing": missing, "why": why})
}

/// Why there is nothing to do.
fn idle(pool: &Pool, blueprint: &Blueprint, wanted: u64) -> Option<String> {
    if pool.state == PoolState::Draining {
        return Some(format!("pool {} is draining", pool.name));
    }
    if wanted == 0 {
        return Some(format!("pool {} has all its slots", pool.name));
    }
    (!blueprint.enabled).then(|| format!("blueprint {} is disabled", blueprint.name))
}

/// Whether the configuration lets a node take slots.
fn takes_work(node: &Node) -> bool {
    node.vm_capable && !node.offline && !node.drained
}

async fn census(
    cx: &mut Cx<'_>,
    pool: &Pool,
    nodes: &[Node],
    claimed: &HashSet<NodeUuid>,
) -> Result<Census, OpFail> {
    let (here, numbers, homed) = (HashMap::new(), BTreeSet::new(), HashMap::new());
    let mut all = Census { here, numbers, counted: 0, leased: 0, homed };
    let prefix = format!("{}-", pool.name);
    for node in nodes {
        let (instances, slots) = cx.master.instances_of(node.uuid).await?;
        let usable = takes_work(node) && claimed.contains(&node.uuid);
        let slots: HashMap<InstanceUuid, Slot> = slots.into_iter().map(|slot| (slot.uuid, slot)).collect();
        for instance in &instances {
            // Also a name outside the pool keeps its number taken.
            all.numbers.extend(instance.name.strip_prefix(&prefix).and_then(|n| n.parse::<u64>().ok()));
            let Some(slot) = slots.get(&instance.uuid).filter(|_| instance.pool.as_ref() == Some(&pool.name))
            else {
                continue;
            };
            *all.here.entry(node.uuid).or_default() += 1;
            all.leased += u64::from(slot.state == SlotState::Leased);
            all.counted += u64::from(usable && !slot.drained);
        }
        all.homed.insert(node.uuid, instances);
    }
    Ok(all)
}

/// Homes for the missing ones: fewer, and why, when there is no room.
async fn homes(
    cx: &mut Cx<'_>,
    pool: &Pool,
    blueprint: &Blueprint,
    nodes: &[Node],
    (census, claimed): (&Census, &HashSet<NodeUuid>),
    wanted: u64,
) -> Result<(Vec<NodeUuid>, Option<String>), OpFail> {
    let sizes = Sizes::read(cx).await?;
    let mut silent: Vec<String> = Vec::new();
    let fit = |node: &&Node| takes_work(node) && pool.group.is_none_or(|group| node.group == group);
    let (asked, lost): (Vec<&Node>, Vec<&Node>) =
        nodes.iter().filter(fit).partition(|node| claimed.contains(&node.uuid));
    silent.extend(lost.iter().map(|node| format!("{}: it does not answer the master", node.name)));
    let answers = together(asked.iter().map(|&node| cx.nodes.call::<NodeInfo>(node, &(), CALL))).await;
    let mut offers = Vec::new();
    for (node, facts) in asked.into_iter().zip(answers) {
        match facts {
            Ok(facts) if facts.drivers.contains(&blueprint.driver) => {
                let homed = census.homed.get(&node.uuid).map_or(&[][..], Vec::as_slice);
                let fellows = census.here.get(&node.uuid).copied().unwrap_or(0);
                offers.push(place::Offer { fellows, ..sizes.offer(node, &facts, homed) });
            }
            Ok(_) => silent.push(format!("{}: driver {} does not work there", node.name, blueprint.driver)),
            Err(OpFail::Error(why)) => silent.push(why.to_string()),
            Err(other) => return Err(other),
        }
    }
    let (homes, why) = place::spread(offers, blueprint_need(blueprint), wanted);
    let why = why.map(|why| if silent.is_empty() { why } else { format!("{why}; {}", silent.join("; ")) });
    Ok((homes, why))
}

/// The new slots, under the lowest numbers that are free.
fn slots(pool: &Pool, blueprint: &Blueprint, homes: Vec<NodeUuid>, taken: &BTreeSet<u64>) -> Vec<Instance> {
    let numbers = (1..).filter(|number| !taken.contains(number));
    let now = time::now().epoch();
    let slot = |(home, number): (NodeUuid, u64)| Instance {
        uuid: InstanceUuid(Uuid::new_v4()),
        name: slot_name(&pool.name, number),
        primary_node: home,
        os: blueprint.image.clone(),
        hypervisor: blueprint.driver.clone(),
        hvparams: Params::new(),
        beparams: Map::from_iter([
            ("maxmem".to_owned(), json!(blueprint.memory_mib)),
            ("minmem".to_owned(), json!(blueprint.memory_mib)),
            ("vcpus".to_owned(), json!(blueprint.vcpus)),
        ]),
        osparams: Params::new(),
        admin_state: AdminState::Up,
        admin_state_source: "admin".to_owned(),
        nics: Vec::new(),
        disk_template: "file".to_owned(),
        disks: vec![Disk {
            uuid: Uuid::new_v4().to_string(),
            size: blueprint.disk_mib,
            mode: "rw".to_owned(),
            name: None,
        }],
        forthcoming: true,
        pool: Some(pool.name.clone()),
        stamp: Stamp::new(now),
        extra: Params::new(),
    };
    homes.into_iter().zip(numbers).map(slot).collect()
}

/// Adds slots lot by lot; how many, and why the rest was refused: the pool changed meanwhile.
async fn add(cx: &mut Cx<'_>, slots: Vec<Instance>) -> Result<(u64, Option<String>), OpFail> {
    let (mut added, mut refused) = (0, None);
    for lot in slots.chunks(LOT) {
        cx.go_on()?;
        let commands =
            lot.iter().map(|slot| vec![Command::SlotAdd { instance: Box::new(slot.clone()) }]).collect();
        for stored in cx.apply_each(commands).await? {
            match stored {
                Ok(_) => added += 1,
                Err(why) => refused = Some(why),
            }
        }
        if refused.is_some() {
            break;
        }
    }
    Ok((added, refused))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_numbers_are_taken() {
        let stamp = json!({"uuid": Uuid::nil(), "serial_no": 1, "ctime": 1.0, "mtime": 1.0});
        let with = |more: Value| {
            let mut all = stamp.as_object().unwrap().clone();
            all.extend(more.as_object().unwrap().clone());
            Value::Object(all)
        };
        let pool: Pool = serde_json::from_value(with(json!({
            "name": "p", "blueprint": Uuid::nil(), "min": 0, "max": 9, "amount": 3, "connect_timeout_s": 9,
        })))
        .unwrap();
        let blueprint: Blueprint = serde_json::from_value(with(json!({
            "name": "b", "driver": "fake", "image": "host", "memory_mib": 64, "vcpus": 2, "disk_mib": 32, "pids": 9,
            "wall_s_max": 1, "lease_s_max": 1, "enabled": true,
        })))
        .unwrap();
        let homes = vec![NodeUuid(Uuid::nil()); 3];
        let made = slots(&pool, &blueprint, homes, &BTreeSet::from([1, 3, 7]));
        assert_eq!(made.iter().map(|slot| slot.name.as_str()).collect::<Vec<_>>(), ["p-2", "p-4", "p-5"]);
        assert_eq!((made[0].disks[0].size, &made[0].beparams["vcpus"]), (32, &json!(2)));
    }
}
