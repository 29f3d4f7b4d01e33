//! ABSENT → CREATING → CLEAN for a lot of slots.

use super::destroy::Gone;
use super::image::Images;
use super::{Entry, Found, Results, by_key, look, short, whole};
use crate::core::together::together;
use crate::error::OpFail;
use crate::io::nodes::Nodes;
use crate::ops::Cx;
use gantry_model::config::{SlotState, kind};
use gantry_model::ids::Generation;
use gantry_model::pool::{Blueprint, IMAGE_HOST, Image, Pool, PoolState};
use gantry_proto::envelope::Code;
use gantry_proto::noded::{VmCreate, VmCreateRequest, VmSpec};
use gantry_proto::wconfd::{Command, Object};
use std::collections::HashMap;
use std::time::Duration;

/// A pool with what its VMs are made from.
pub struct Recipe {
    pool: Pool,
    blueprint: Blueprint,
    /// Digest of the imported image; None for the built-in one.
    digest: Option<String>,
}

/// What the pools of some slots are made from; per pool, or why it can't be.
pub struct Recipes(HashMap<String, Result<Recipe, String>>);

/// A VM whose making is committed.
struct Begun<'f> {
    one: &'f Found,
    recipe: &'f Recipe,
    generation: Generation,
}

/// Makes the VMs of those entries that are ABSENT and wanted.
pub async fn make(cx: &mut Cx<'_>, entries: &[Entry], results: &mut Results) -> Result<(), OpFail> {
    let (found, recipes) = look(cx, entries, results).await?;
    let mut absent = Vec::new();
    for one in &found {
        if one.slot.state == SlotState::Absent {
            absent.push((one, one.slot.generation));
        } else {
            let text = format!("{} is {}, not ABSENT", one.instance.name, one.slot.state.as_str());
            results.skipped(one.slot.uuid, text);
        }
    }
    let begun = begin(cx, absent, &recipes, results).await?;
    finish(cx, begun, results).await
}

/// Makes VMs where others were: those that were begun with the end of the old one, and the others that are wanted.
/// What they are made from is read after their begin: what wconfd noted of it then is not newer than the VM.
pub async fn renew(
    cx: &mut Cx<'_>,
    found: &[Found],
    gone: &[Gone<'_>],
    results: &mut Results,
) -> Result<(), OpFail> {
    let recipes = Recipes::of(&whole(cx, found.iter().map(|one| one.slot.uuid)).await?)?;
    let (mut begun, mut absent, mut hopeless) = (Vec::new(), Vec::new(), Vec::new());
    for Gone { one, generation, begun: next } in gone {
        match (*next, recipes.wanted(one)) {
            (Some(generation), Ok(recipe)) => begun.push(Begun { one, recipe, generation }),
            (Some(generation), Err(why)) => hopeless.push((*one, generation, why)),
            (None, _) => absent.push((*one, *generation)),
        }
    }
    soil(cx, hopeless, results).await?;
    begun.extend(begin(cx, absent, &recipes, results).await?);
    finish(cx, begun, results).await
}

/// Takes back what was begun and can't be made: the pool changed just then.
async fn soil(
    cx: &mut Cx<'_>,
    hopeless: Vec<(&Found, Generation, String)>,
    results: &mut Results,
) -> Result<(), OpFail> {
    let command = |(one, generation, why): &(&Found, Generation, String)| {
        let (slot, generation) = (one.slot.uuid, *generation);
        vec![Command::SlotDirty { slot, generation, why: short(&format!("create failed: {why}")) }]
    };
    cx.apply_each(hopeless.iter().map(command).collect()).await?;
    for (one, _, why) in hopeless {
        results.failed(one.slot.uuid, format!("create failed: {why}"));
    }
    Ok(())
}

/// The intent: ABSENT → CREATING where a VM is wanted.
async fn begin<'f>(
    cx: &mut Cx<'_>,
    absent: Vec<(&'f Found, Generation)>,
    recipes: &'f Recipes,
    results: &mut Results,
) -> Result<Vec<Begun<'f>>, OpFail> {
    let mut wanted = Vec::new();
    for (one, generation) in absent {
        match recipes.wanted(one) {
            Ok(recipe) => wanted.push(Begun { one, recipe, generation }),
            Err(why) => results.skipped(one.slot.uuid, why),
        }
    }
    let holder = cx.owner();
    let command = |Begun { one, generation, .. }: &Begun<'_>| {
        vec![Command::SlotBegin { slot: one.slot.uuid, expected: *generation, holder }]
    };
    let answers = cx.apply_each(wanted.iter().map(command).collect()).await?;
    let mut begun = Vec::new();
    for (one, answer) in wanted.into_iter().zip(answers) {
        match answer.map(|values| values.first().and_then(|value| serde_json::from_value(value.clone()).ok()))
        {
            Ok(Some(generation)) => begun.push(Begun { generation, ..one }),
            Ok(None) => return Err(OpFail::exec("wconfd named no generation")),
            Err(why) => results.skipped(one.one.slot.uuid, why),
        }
    }
    Ok(begun)
}

/// The effect, and what became of it.
async fn finish(cx: &mut Cx<'_>, begun: Vec<Begun<'_>>, results: &mut Results) -> Result<(), OpFail> {
    let (nodes, images) = (cx.nodes, Images::new(cx.root(), cx.nodes));
    let works = begun.iter().map(|begun| one_vm(nodes, &images, begun));
    let made = together(works).await;
    store(cx, begun, made, results).await
}

impl Recipes {
    /// Those of the pools among these objects.
    pub fn of(objects: &[Object]) -> Result<Self, OpFail> {
        let pools: HashMap<String, Pool> = by_key(objects, kind::POOL)?;
        let blueprints: HashMap<String, Blueprint> = by_key(objects, kind::BLUEPRINT)?;
        let images: HashMap<String, Image> = by_key(objects, kind::IMAGE)?;
        let recipe = |pool: Pool| {
            let (name, blueprint) = (pool.name.clone(), blueprints.get(&pool.blueprint.to_string()));
            let recipe = match blueprint.cloned() {
                None => Err(format!("the blueprint of pool {name} is gone")),
                Some(blueprint) if blueprint.image == IMAGE_HOST => {
                    Ok(Recipe { pool, blueprint, digest: None })
                }
                Some(blueprint) => match images.get(&blueprint.image) {
                    Some(image) => Ok(Recipe { pool, blueprint, digest: Some(image.digest.clone()) }),
                    None => Err(format!("image {} of blueprint {} is gone", blueprint.image, blueprint.name)),
                },
            };
            (name, recipe)
        };
        Ok(Self(pools.into_values().map(recipe).collect()))
    }

    /// What a VM of that slot is made from, or why none is to be made now.
    pub fn wanted(&self, one: &Found) -> Result<&Recipe, String> {
        let recipe = match self.0.get(one.pool()) {
            Some(recipe) => recipe.as_ref().map_err(String::clone)?,
            None => return Err(format!("pool {} is gone", one.pool())),
        };
        refused(one, recipe).map_or(Ok(recipe), Err)
    }
}

/// Why no VM is to be made there now.
fn refused(one: &Found, recipe: &Recipe) -> Option<String> {
    if one.slot.drained {
        return Some(format!("{} is drained", one.instance.name));
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

fn request(nodes: &Nodes, begun: &Begun<'_>) -> VmCreateRequest {
    let Begun { one, recipe: Recipe { blueprint, digest, .. }, generation } = begun;
    let spec = VmSpec {
        name: one.instance.name.clone(),
        driver: blueprint.driver.clone(),
        image: blueprint.image.clone(),
        image_digest: digest.clone(),
        memory_mib: blueprint.memory_mib,
        vcpus: blueprint.vcpus,
        disk_mib: blueprint.disk_mib,
        pids: blueprint.pids,
    };
    VmCreateRequest { fence: nodes.fence(), slot: one.slot.uuid, generation: *generation, spec }
}

/// Has the node make one VM, and sends it the image first when it has not got it.
async fn one_vm(nodes: &Nodes, images: &Images<'_>, begun: &Begun<'_>) -> Result<(), OpFail> {
    let (one, recipe) = (begun.one, begun.recipe);
    let within = Duration::from_secs(recipe.pool.connect_timeout_s);
    let request = request(nodes, begun);
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
    begun: Vec<Begun<'_>>,
    made: Vec<Result<(), OpFail>>,
    results: &mut Results,
) -> Result<(), OpFail> {
    let (mut commands, mut whys) = (Vec::new(), Vec::new());
    for (Begun { one, generation, .. }, made) in begun.iter().zip(made) {
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
    for ((Begun { one, generation, .. }, why), stored) in begun.iter().zip(whys).zip(stored) {
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
