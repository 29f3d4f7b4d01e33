//! ABSENT → CREATING → CLEAN for a lot of slots.

use super::image::Images;
use super::{Entry, Found, Results, gather, short};
use crate::core::together::together;
use crate::error::OpFail;
use crate::io::nodes::Nodes;
use crate::ops::Cx;
use gantry_model::config::{SlotState, kind};
use gantry_model::ids::Generation;
use gantry_model::pool::{Blueprint, IMAGE_HOST, Image, Pool, PoolState};
use gantry_proto::envelope::Code;
use gantry_proto::noded::{VmCreate, VmCreateRequest, VmSpec};
use gantry_proto::wconfd::Command;
use std::collections::HashMap;
use std::time::Duration;

/// A pool with what its VMs are made from.
struct Recipe {
    pool: Pool,
    blueprint: Blueprint,
    /// Digest of the imported image; None for the built-in one.
    digest: Option<String>,
}

/// Makes the VMs of those entries that are ABSENT and wanted.
pub async fn make(cx: &mut Cx<'_>, entries: &[Entry], results: &mut Results) -> Result<(), OpFail> {
    let found = gather(cx, entries, results).await?;
    let recipes = recipes(cx, &found).await?;
    let mut wanted = Vec::new();
    for one in &found {
        match recipes.get(one.pool()) {
            Some(Ok(recipe)) => match refused(one, recipe) {
                Some(why) => results.skipped(one.slot.uuid, why),
                None => wanted.push((one, recipe)),
            },
            Some(Err(why)) => results.skipped(one.slot.uuid, why.clone()),
            None => results.skipped(one.slot.uuid, format!("pool {} is gone", one.pool())),
        }
    }
    let holder = cx.owner();
    let begin = |(one, _): &(&Found, &Recipe)| {
        vec![Command::SlotBegin { slot: one.slot.uuid, expected: one.slot.generation, holder }]
    };
    let begun = cx.apply_each(wanted.iter().map(begin).collect()).await?;
    let mut making = Vec::new();
    for ((one, recipe), began) in wanted.into_iter().zip(begun) {
        match began.map(|values| values.first().and_then(|value| serde_json::from_value(value.clone()).ok()))
        {
            Ok(Some(generation)) => making.push((one, recipe, generation)),
            Ok(None) => return Err(OpFail::exec("wconfd named no generation")),
            Err(why) => results.skipped(one.slot.uuid, why),
        }
    }
    let (nodes, images) = (cx.nodes, Images::new(cx.root(), cx.nodes));
    let works =
        making.iter().map(|(one, recipe, generation)| one_vm(nodes, &images, one, recipe, *generation));
    let made = together(works).await;
    store(cx, making, made, results).await
}

/// Reads what the pools of these slots are made from; per pool, or why it can't be.
async fn recipes(
    cx: &mut Cx<'_>,
    found: &[Found],
) -> Result<HashMap<String, Result<Recipe, String>>, OpFail> {
    let mut recipes = HashMap::new();
    for one in found {
        if recipes.contains_key(one.pool()) {
            continue;
        }
        let Some(pool) = cx.master.find::<Pool>(kind::POOL, one.pool()).await? else { continue };
        let blueprint: Option<Blueprint> =
            cx.master.find(kind::BLUEPRINT, &pool.blueprint.to_string()).await?;
        let recipe = match blueprint {
            None => Err(format!("the blueprint of pool {} is gone", pool.name)),
            Some(blueprint) if blueprint.image == IMAGE_HOST => Ok(Recipe { pool, blueprint, digest: None }),
            Some(blueprint) => match cx.master.find::<Image>(kind::IMAGE, &blueprint.image).await? {
                Some(image) => Ok(Recipe { pool, blueprint, digest: Some(image.digest) }),
                None => Err(format!("image {} of blueprint {} is gone", blueprint.image, blueprint.name)),
            },
        };
        recipes.insert(one.pool().to_owned(), recipe);
    }
    Ok(recipes)
}

/// Why no VM is to be made there now.
fn refused(one: &Found, recipe: &Recipe) -> Option<String> {
    let name = &one.instance.name;
    if one.slot.state != SlotState::Absent {
        return Some(format!("{name} is {}, not ABSENT", one.slot.state.as_str()));
    }
    if one.slot.drained {
        return Some(format!("{name} is drained"));
    }
    if recipe.pool.state == PoolState::Draining {
        return Some(format!("pool {} is draining", recipe.pool.name));
    }
    if !recipe.blueprint.enabled {
        return Some(format!("blueprint {} is disabled", recipe.blueprint.name));
    }
    let node = &one.node;
    (node.offline || node.drained || !node.vm_capable)
        .then(|| format!("node {} takes no VMs: it is offline, drained or not vm_capable", node.name))
}

fn request(nodes: &Nodes, one: &Found, recipe: &Recipe, generation: Generation) -> VmCreateRequest {
    let blueprint = &recipe.blueprint;
    let spec = VmSpec {
        name: one.instance.name.clone(),
        driver: blueprint.driver.clone(),
        image: blueprint.image.clone(),
        image_digest: recipe.digest.clone(),
        memory_mib: blueprint.memory_mib,
        vcpus: blueprint.vcpus,
        disk_mib: blueprint.disk_mib,
        pids: blueprint.pids,
    };
    VmCreateRequest { fence: nodes.fence(), slot: one.slot.uuid, generation, spec }
}

/// Has the node make one VM, and sends it the image first when it has not got it.
async fn one_vm(
    nodes: &Nodes,
    images: &Images<'_>,
    one: &Found,
    recipe: &Recipe,
    generation: Generation,
) -> Result<(), OpFail> {
    let within = Duration::from_secs(recipe.pool.connect_timeout_s);
    let request = request(nodes, one, recipe, generation);
    let work = async {
        match (nodes.ask::<VmCreate>(&one.node, &request, within).await, &recipe.digest) {
            (Ok(_), _) => return Ok(()),
            (Err(why), Some(digest)) if why.code() == Some(Code::NotFound) => {
                images.send(&one.node, digest).await?
            }
            (Err(why), _) => return Err(why.into_op(&one.node)),
        }
        nodes.call::<VmCreate>(&one.node, &request, within).await.map(|_| ())
    };
    match tokio::time::timeout(within, work).await {
        Ok(done) => done,
        Err(_) => Err(OpFail::exec(format!(
            "node {}: not ready within the connect timeout of {} s of pool {}",
            one.node.name, recipe.pool.connect_timeout_s, recipe.pool.name
        ))),
    }
}

/// Commits what became of them: ready, or dirty with the reason.
async fn store(
    cx: &mut Cx<'_>,
    making: Vec<(&Found, &Recipe, Generation)>,
    made: Vec<Result<(), OpFail>>,
    results: &mut Results,
) -> Result<(), OpFail> {
    let (mut commands, mut whys) = (Vec::new(), Vec::new());
    for ((one, _, generation), made) in making.iter().zip(made) {
        let (slot, generation) = (one.slot.uuid, *generation);
        let why = match made {
            Ok(()) => None,
            Err(OpFail::Error(why)) => Some(why.to_string()),
            Err(other) => return Err(other),
        };
        commands.push(vec![match &why {
            None => Command::SlotReady { slot, generation },
            Some(why) => {
                Command::SlotDirty { slot, generation, why: short(&format!("create failed: {why}")) }
            }
        }]);
        whys.push(why);
    }
    let stored = cx.apply_each(commands).await?;
    for (((one, _, generation), why), stored) in making.iter().zip(whys).zip(stored) {
        let (slot, name) = (one.slot.uuid, &one.instance.name);
        match (why, stored) {
            (None, Ok(_)) => results.ok(slot, format!("created generation {generation}")),
            (None, Err(why)) => results.failed(slot, format!("created, but wconfd refused it: {why}")),
            (Some(why), _) => {
                cx.warn(format!("{name}: {why}"));
                results.failed(slot, format!("create failed: {why}"));
            }
        }
    }
    Ok(())
}
