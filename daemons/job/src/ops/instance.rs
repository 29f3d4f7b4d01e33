//! OP_INSTANCE_CREATE, _REMOVE, _STARTUP, _SHUTDOWN, _QUERY_DATA for instances outside pools: a slot record without
//! pool; startup is a new generation and `vm_create`, shutdown is `vm_destroy` (DESIGN §9).
//!
//! Order of every effect: the intent is committed (CREATING, g+1 or DESTROYING), then the node acts, then the new state is
//! committed. A job that dies in between leaves the slot DIRTY; the next startup or shutdown destroys what is there first.

use crate::core::hooks::Hooks;
use crate::core::place::{self, Offer};
use crate::error::OpFail;
use crate::io::nodes::{CALL, VM_CALL};
use crate::ops::cluster::memory_split;
use crate::ops::room::{Sizes, beparams, own_need};
use crate::ops::{Args, Cx, Locks};
use gantry_model::config::{
    AdminState, Cluster, Disk, Group, Instance, Nic, Node, Params, Slot, SlotState, Stamp, filled, kind,
};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::InstanceUuid;
use gantry_model::names::{is_host_name, is_tag};
use gantry_model::time;
use gantry_proto::noded::{NodeInfo, VmCreate, VmCreateRequest, VmDestroy, VmRef, VmSpec};
use gantry_proto::wconfd::{Command, Want};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Processes of an instance outside pools: Ganeti's backend parameters have no such limit.
const PIDS: u64 = 256;

/// Creates an instance, and starts it unless told not to. Result: the names of its nodes.
pub async fn create(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let cluster = cx.master.cluster().await?;
    let wanted = check_request(cx, args, &cluster).await?;
    let nodes = candidates(cx, args).await?;
    let mut locks = Locks::shared().instance(&wanted.name, Want::Exclusive);
    for node in &nodes {
        locks = locks
            .group(node.group, Want::Shared)
            .node(node.uuid, Want::Shared)
            .node_res(node.uuid, Want::Exclusive);
    }
    cx.begin(locks).await?;
    // Read again what was read before the locks were held.
    let cluster = cx.master.cluster().await?;
    let mut instance = check_request(cx, args, &cluster).await?;
    let nodes = candidates(cx, args).await?;
    let node = placed(cx, &cluster, &instance, &nodes, args).await?;
    instance.primary_node = node.uuid;
    let hooks = hooks(cx, args, "instance-add", &instance, &node).await?.with(&[("ADD_MODE", "create")]);
    cx.pre_hooks(&hooks).await?;
    cx.say(format!("adding instance {} to cluster config", instance.name));
    let start = args.get("start").is_none_or(|flag| flag == &Value::Bool(true)) && !instance.forthcoming;
    instance.admin_state = if start { AdminState::Up } else { AdminState::Down };
    cx.apply(vec![Command::InstanceAdd { instance: Box::new(instance.clone()) }]).await?;
    if start {
        cx.say("* starting instance...");
        bring_up(cx, &cluster, &instance, &node).await?;
    }
    cx.post_hooks(&hooks.became(&[("INSTANCE_STATUS", instance.admin_state.as_str())])).await?;
    Ok(json!([node.name]))
}

/// On the master and the instance's node.
async fn hooks(
    cx: &mut Cx<'_>,
    args: &Args<'_>,
    path: &'static str,
    instance: &Instance,
    node: &Node,
) -> Result<Hooks, OpFail> {
    let be = beparams(&cx.master.cluster().await?, instance);
    let there = std::slice::from_ref(node);
    let hooks = Hooks::instance(args.id(), path, instance, node, &be).on_master();
    Ok(hooks.before_on(there).after_on(there))
}

/// The instance as asked for, but for its node.
async fn check_request(cx: &mut Cx<'_>, args: &Args<'_>, cluster: &Cluster) -> Result<Instance, OpFail> {
    let wrong = |text: String| Err(OpFail::prereq(text, Ecode::WrongInput));
    let name = args.need("instance_name")?;
    if !is_host_name(name) {
        return wrong(format!("'{name}' is no host name"));
    }
    match args.str("mode") {
        Some("create") => {}
        mode => {
            let mode = mode.unwrap_or_default();
            return wrong(format!("mode '{mode}' is not supported; only 'create' is"));
        }
    }
    if let Some(known) = cx.master.find::<Instance>(kind::INSTANCE, name).await?
        && known.name == name
    {
        let text = format!("Instance '{name}' is already in the cluster");
        return Err(OpFail::prereq(text, Ecode::AlreadyExists));
    }
    let hypervisor = args.str("hypervisor").or(cluster.enabled_hypervisors.first().map(String::as_str));
    let Some(hypervisor) =
        hypervisor.filter(|name| cluster.enabled_hypervisors.iter().any(|known| known == name))
    else {
        return wrong(format!(
            "hypervisor '{}' is not enabled (enabled: {})",
            hypervisor.unwrap_or_default(),
            cluster.enabled_hypervisors.join(", ")
        ));
    };
    let os = args.need("os_type")?;
    let template = template(args, cluster)?;
    let disks = if template == "diskless" { Vec::new() } else { disks(args)? };
    let tags: std::collections::BTreeSet<String> =
        args.texts("tags").into_iter().map(str::to_owned).collect();
    if let Some(bad) = tags.iter().find(|tag| !is_tag(tag)) {
        return Err(OpFail::Error(GanetiError::new("TagError", format!("'{bad}' is no tag"))));
    }
    Ok(Instance {
        uuid: InstanceUuid(Uuid::new_v4()),
        name: name.to_owned(),
        primary_node: cx.go().master,
        os: os.to_owned(),
        hypervisor: hypervisor.to_owned(),
        hvparams: args.object("hvparams").cloned().unwrap_or_default(),
        beparams: memory_split(args.object("beparams").unwrap_or(&Map::new())),
        osparams: args.object("osparams").cloned().unwrap_or_default(),
        admin_state: AdminState::Down,
        admin_state_source: "admin".to_owned(),
        nics: nics(args, cluster),
        disk_template: template,
        disks,
        forthcoming: args.bool("forthcoming"),
        pool: None,
        stamp: Stamp { tags, ..Stamp::new(time::now().epoch()) },
        extra: Params::new(),
    })
}

fn template(args: &Args<'_>, cluster: &Cluster) -> Result<String, OpFail> {
    let template = args.str("disk_template").unwrap_or("diskless");
    if cluster.enabled_disk_templates.iter().any(|known| known == template) {
        return Ok(template.to_owned());
    }
    let text = format!(
        "disk template '{template}' is not enabled (enabled: {})",
        cluster.enabled_disk_templates.join(", ")
    );
    Err(OpFail::prereq(text, Ecode::WrongInput))
}

fn disks(args: &Args<'_>) -> Result<Vec<Disk>, OpFail> {
    let read = |disk: &Value| {
        let size = disk.get("size").and_then(Value::as_u64).filter(|size| *size > 0);
        let size =
            size.ok_or_else(|| OpFail::prereq("each disk needs a size over 0 MiB", Ecode::WrongInput))?;
        Ok(Disk {
            uuid: Uuid::new_v4().to_string(),
            size,
            mode: disk.get("mode").and_then(Value::as_str).unwrap_or("rw").to_owned(),
            name: disk.get("name").and_then(Value::as_str).map(str::to_owned),
        })
    };
    args.list("disks").iter().map(read).collect()
}

/// Interfaces as asked for; a MAC that is not given is made from the cluster's prefix and the interface's uuid.
fn nics(args: &Args<'_>, cluster: &Cluster) -> Vec<Nic> {
    let read = |nic: &Value| {
        let text = |key: &str| nic.get(key).and_then(Value::as_str).map(str::to_owned);
        let uuid = Uuid::new_v4();
        let tail = uuid.as_bytes();
        let made = format!("{}:{:02x}:{:02x}:{:02x}", cluster.mac_prefix, tail[0], tail[1], tail[2]);
        let own =
            ["mode", "link", "vlan"].iter().filter_map(|key| Some(((*key).to_owned(), json!(text(key)?))));
        Nic {
            uuid: uuid.to_string(),
            mac: text("mac").filter(|mac| mac != "auto" && mac != "generate").unwrap_or(made),
            nicparams: own.collect(),
            ip: text("ip"),
            network: text("network"),
            name: text("name"),
        }
    };
    args.list("nics").iter().map(read).collect()
}

/// The named node, or all that may take an instance.
async fn candidates(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Vec<Node>, OpFail> {
    let named = args.str("pnode_uuid").or(args.str("pnode"));
    match (named, args.str("iallocator")) {
        (Some(_), Some(_)) => {
            Err(OpFail::prereq("Give either a node or an allocator, not both", Ecode::WrongInput))
        }
        (Some(name), None) => {
            let node = cx.master.node(name).await?;
            let state =
                |text: &str| Err(OpFail::prereq(format!("Node {} is {text}", node.name), Ecode::WrongState));
            match (node.offline, node.drained, node.vm_capable) {
                (true, ..) => state("marked offline"),
                (_, true, _) => state("drained: it takes no new instances"),
                (.., false) => state("not vm_capable"),
                _ => Ok(vec![node]),
            }
        }
        (None, _) => {
            let mut nodes = cx.master.nodes().await?;
            if let Some(group) = args.str("group_name") {
                let group = cx.master.group(group).await?.uuid;
                nodes.retain(|node| node.group == group);
            }
            nodes.retain(|node| !node.offline && !node.drained && node.vm_capable);
            Ok(nodes)
        }
    }
}

/// The node it goes to, with room for it; its locks are held.
async fn placed(
    cx: &mut Cx<'_>,
    cluster: &Cluster,
    instance: &Instance,
    nodes: &[Node],
    args: &Args<'_>,
) -> Result<Node, OpFail> {
    let sizes = Sizes::read(cx).await?;
    let mut offers = Vec::new();
    for node in nodes {
        match offer(cx, &sizes, node).await {
            Ok(offer) => offers.push(offer),
            Err(OpFail::Error(why)) if args.str("pnode").is_none() => cx.warn(why.to_string()),
            Err(why) => return Err(why),
        }
    }
    let chosen = place::choose(&offers, own_need(cluster, instance)).map_err(|why| {
        let text = format!("Can't place instance {}: {why}", instance.name);
        OpFail::prereq(text, Ecode::InsufficientResources)
    })?;
    let node = nodes.iter().find(|node| node.uuid == chosen).cloned();
    node.ok_or_else(|| OpFail::exec("the chosen node is not among the candidates"))
}

/// What a node has, and what the instances and slots homed there were promised.
async fn offer(cx: &mut Cx<'_>, sizes: &Sizes, node: &Node) -> Result<Offer, OpFail> {
    let facts = cx.nodes.call::<NodeInfo>(node, &(), CALL).await?;
    let (instances, _) = cx.master.instances_of(node.uuid).await?;
    Ok(sizes.offer(node, &facts, &instances))
}

/// Makes the next generation live: begin (durable), create on the node, ready (durable).
async fn bring_up(
    cx: &mut Cx<'_>,
    cluster: &Cluster,
    instance: &Instance,
    node: &Node,
) -> Result<(), OpFail> {
    cx.claimed(node).await?;
    let slot = cx.master.slot(instance.uuid).await?;
    let slot =
        if slot.state == SlotState::Absent { slot } else { tear_down(cx, &slot, node, "startup").await? };
    let begin = Command::SlotBegin { slot: slot.uuid, expected: slot.generation, holder: cx.owner() };
    let results = cx.apply(vec![begin]).await?;
    let generation = results
        .first()
        .and_then(|value| serde_json::from_value(value.clone()).ok())
        .ok_or_else(|| OpFail::exec("wconfd named no generation"))?;
    let wants = own_need(cluster, instance);
    let spec = VmSpec {
        name: instance.name.clone(),
        driver: instance.hypervisor.clone(),
        image: instance.os.clone(),
        memory_mib: wants.memory_mib,
        vcpus: wants.vcpus,
        disk_mib: wants.disk_mib,
        image_digest: None,
        pids: PIDS,
    };
    let request = VmCreateRequest { fence: cx.nodes.fence(), slot: slot.uuid, generation, spec };
    match cx.nodes.call::<VmCreate>(node, &request, VM_CALL).await {
        Ok(_) => {
            cx.apply(vec![Command::SlotReady { slot: slot.uuid, generation }]).await?;
            Ok(())
        }
        Err(OpFail::Error(why)) => {
            let dirty = Command::SlotDirty { slot: slot.uuid, generation, why: why.to_string() };
            cx.apply(vec![dirty]).await?;
            let slot = cx.master.slot(slot.uuid).await?;
            tear_down(cx, &slot, node, "failed start").await?;
            Err(OpFail::exec(format!("Could not start instance {}: {why}", instance.name)))
        }
        Err(other) => Err(other),
    }
}

/// Makes a slot ABSENT from any state: dirty, destroying (durable), destroyed on the node with the floor raised, absent.
async fn tear_down(cx: &mut Cx<'_>, slot: &Slot, node: &Node, why: &str) -> Result<Slot, OpFail> {
    cx.claimed(node).await?;
    let (uuid, generation) = (slot.uuid, slot.generation);
    let mut commands = Vec::new();
    // Also what is DESTROYING: by a job that is dead, or ended in error, since this one has the instance's lock.
    if slot.state != SlotState::Dirty {
        commands.push(Command::SlotDirty { slot: uuid, generation, why: why.to_owned() });
    }
    commands.push(Command::SlotBeginDestroy { slot: uuid, generation, holder: cx.owner() });
    cx.apply(commands).await?;
    let vm = VmRef { fence: cx.nodes.fence(), slot: uuid, generation };
    let gone = match cx.nodes.call::<VmDestroy>(node, &vm, VM_CALL).await {
        Ok(reply) => reply,
        Err(OpFail::Error(error)) => {
            let dirty = Command::SlotDirty { slot: uuid, generation, why: error.to_string() };
            cx.apply(vec![dirty]).await?;
            return Err(OpFail::exec(format!("Could not destroy the VM on {}: {error}", node.name)));
        }
        Err(other) => return Err(other),
    };
    cx.apply(vec![Command::SlotAbsent { slot: uuid, generation, floor: gone.floor }]).await?;
    cx.master.slot(uuid).await
}

/// The instance with its locks held and its node, read again.
async fn locked(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<(Instance, Node), OpFail> {
    let instance = cx.master.instance(args.named("instance_name", "instance_uuid")?).await?;
    let found = [("instance_name", instance.name.clone()), ("instance_uuid", instance.uuid.to_string())];
    cx.expand(args, found);
    cx.begin(Locks::instance_and_node(&instance)).await?;
    let now: Option<Instance> = cx.master.find(kind::INSTANCE, &instance.uuid.to_string()).await?;
    let now = now.ok_or_else(|| {
        let text = format!("Instance '{}' was removed while its locks were waited for", instance.name);
        OpFail::prereq(text, Ecode::UnknownEntity)
    })?;
    if now.primary_node != instance.primary_node || now.name != instance.name {
        let text = format!("Instance {} changed while its locks were waited for; try again", instance.name);
        return Err(OpFail::prereq(text, Ecode::WrongState));
    }
    if let Some(pool) = &now.pool {
        let text = format!("Instance {0} belongs to pool {pool}: use gnt-slot recycle {0}", now.name);
        return Err(OpFail::prereq(text, Ecode::WrongState));
    }
    let node = cx.master.node(&now.primary_node.to_string()).await?;
    Ok((now, node))
}

fn must_answer(node: &Node) -> Result<(), OpFail> {
    if node.offline {
        return Err(OpFail::prereq(format!("Node {} is marked offline", node.name), Ecode::WrongState));
    }
    Ok(())
}

/// Starts an instance; one that runs already is left alone. Result: null.
pub async fn startup(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let (instance, node) = locked(cx, args).await?;
    if instance.forthcoming {
        let text = format!("Instance {} is forthcoming: it only reserves room", instance.name);
        return Err(OpFail::prereq(text, Ecode::WrongState));
    }
    if instance.admin_state == AdminState::Offline {
        let text = format!(
            "Instance {} is marked offline; bring it back with gnt-instance modify --online",
            instance.name
        );
        return Err(OpFail::prereq(text, Ecode::WrongState));
    }
    if node.offline && args.bool("ignore_offline_nodes") {
        remember(cx, args, &instance, AdminState::Up).await?;
        cx.warn("the node is offline: only the wanted state was changed");
        return Ok(Value::Null);
    }
    must_answer(&node)?;
    let force = if args.bool("force") { "True" } else { "False" };
    let hooks = hooks(cx, args, "instance-start", &instance, &node).await?.with(&[("FORCE", force)]);
    cx.pre_hooks(&hooks).await?;
    remember(cx, args, &instance, AdminState::Up).await?;
    let cluster = cx.master.cluster().await?;
    if !is_live(cx, &instance, &node).await? {
        bring_up(cx, &cluster, &instance, &node).await?;
    }
    cx.post_hooks(&hooks.became(&[("INSTANCE_STATUS", AdminState::Up.as_str())])).await?;
    Ok(Value::Null)
}

/// Whether the slot's current generation is ready and its VM runs on the node.
async fn is_live(cx: &mut Cx<'_>, instance: &Instance, node: &Node) -> Result<bool, OpFail> {
    let slot = cx.master.slot(instance.uuid).await?;
    if slot.state != SlotState::Clean {
        return Ok(false);
    }
    let facts = cx.nodes.call::<NodeInfo>(node, &(), CALL).await?;
    Ok(facts.vms.iter().any(|vm| vm.slot == slot.uuid && vm.generation == slot.generation && vm.running))
}

async fn remember(
    cx: &mut Cx<'_>,
    args: &Args<'_>,
    instance: &Instance,
    state: AdminState,
) -> Result<(), OpFail> {
    if args.bool("no_remember") || instance.admin_state == state {
        return Ok(());
    }
    let source = args.str("admin_state_source").unwrap_or("admin").to_owned();
    cx.apply(vec![Command::InstanceSetState { instance: instance.uuid, state, source }]).await?;
    Ok(())
}

/// Stops an instance; one that is down already is left alone. Result: null.
pub async fn shutdown(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let (instance, node) = locked(cx, args).await?;
    if node.offline {
        if !args.bool("ignore_offline_nodes") {
            return must_answer(&node).map(|()| Value::Null);
        }
        remember(cx, args, &instance, AdminState::Down).await?;
        cx.warn("the node is offline: only the wanted state was changed");
        return Ok(Value::Null);
    }
    let timeout = args.uint("timeout").map(|seconds| seconds.to_string()).unwrap_or_default();
    let hooks = hooks(cx, args, "instance-stop", &instance, &node).await?.with(&[("TIMEOUT", &timeout)]);
    cx.pre_hooks(&hooks).await?;
    remember(cx, args, &instance, AdminState::Down).await?;
    let slot = cx.master.slot(instance.uuid).await?;
    if slot.state != SlotState::Absent {
        tear_down(cx, &slot, &node, "shutdown").await?;
    }
    cx.post_hooks(&hooks.became(&[("INSTANCE_STATUS", AdminState::Down.as_str())])).await?;
    Ok(Value::Null)
}

/// Stops and removes an instance. Result: null.
pub async fn remove(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let (instance, node) = locked(cx, args).await?;
    let slot = cx.master.slot(instance.uuid).await?;
    // Before it goes only the master is asked, as in Ganeti.
    let hooks = hooks(cx, args, "instance-remove", &instance, &node).await?.before_on(&[]);
    cx.pre_hooks(&hooks).await?;
    if slot.state != SlotState::Absent && node.offline {
        abandon(cx, &node, args.bool("ignore_failures"))?;
    } else if slot.state != SlotState::Absent {
        cx.say(format!("* stopping instance {}", instance.name));
        tear_down(cx, &slot, &node, "remove").await?;
    }
    cx.say(format!("removing instance {} out of cluster config", instance.name));
    cx.apply(vec![Command::InstanceRemove { instance: instance.uuid }]).await?;
    cx.post_hooks(&hooks).await?;
    Ok(Value::Null)
}

/// Whether an instance may go though its node, which is offline, can't be told. A host that never comes back
/// must not keep its instances, and so itself, in the configuration for ever.
fn abandon(cx: &Cx<'_>, node: &Node, ignore_failures: bool) -> Result<(), OpFail> {
    if !ignore_failures {
        let text = format!(
            "Node {} is marked offline: what runs there can't be destroyed; bring it back, or give --ignore-failures \
             if it never comes back",
            node.name
        );
        return Err(OpFail::prereq(text, Ecode::WrongState));
    }
    cx.warn(format!(
        "node {} is offline: what may run there was not destroyed; do not bring it back without removing its \
         var/lib/gantry and restarting the machine",
        node.name
    ));
    Ok(())
}

/// Data for `gnt-instance info` (`spec/opcodes.md` §4). Result: `{name: object}`.
pub async fn query_data(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let mut instances: Vec<Instance> = Vec::new();
    for name in args.texts("instances") {
        instances.push(cx.master.instance(name).await?);
    }
    if args.texts("instances").is_empty() {
        instances = cx.master.instances().await?;
    }
    let mut locks = Locks::shared();
    if args.bool("use_locking") {
        for instance in &instances {
            locks = locks.instance(&instance.name, Want::Shared).node(instance.primary_node, Want::Shared);
        }
    }
    cx.begin(locks).await?;
    let (cluster, nodes, groups) =
        (cx.master.cluster().await?, cx.master.nodes().await?, cx.master.groups().await?);
    let mut all = Map::new();
    for instance in &instances {
        let node = nodes.iter().find(|node| node.uuid == instance.primary_node);
        let node = node.ok_or_else(|| OpFail::exec(format!("the node of {} is not known", instance.name)))?;
        let state = if args.bool("static") { Value::Null } else { run_state(cx, instance, node).await };
        let group = groups.iter().find(|group| group.uuid == node.group);
        all.insert(instance.name.clone(), told(&cluster, instance, node, group, state));
    }
    Ok(Value::Object(all))
}

async fn run_state(cx: &mut Cx<'_>, instance: &Instance, node: &Node) -> Value {
    if node.offline {
        return Value::Null;
    }
    match is_live(cx, instance, node).await {
        Ok(true) => json!("up"),
        Ok(false) => json!("down"),
        Err(_) => Value::Null,
    }
}

fn told(cluster: &Cluster, instance: &Instance, node: &Node, group: Option<&Group>, state: Value) -> Value {
    let nic_default = cluster.nicparams.get("default").cloned().unwrap_or_default();
    let nics: Vec<Value> = instance
        .nics
        .iter()
        .map(|nic| {
            let all = filled(&nic_default, &nic.nicparams);
            json!([
                nic.name,
                nic.uuid,
                nic.ip,
                nic.mac,
                all.get("mode"),
                all.get("link"),
                all.get("vlan"),
                nic.network,
                null
            ])
        })
        .collect();
    let disks: Vec<Value> =
        instance.disks.iter().enumerate().map(|(index, disk)| told_disk(instance, index, disk)).collect();
    let hv_default = cluster.hvparams.get(&instance.hypervisor).cloned().unwrap_or_default();
    json!({
        "name": instance.name, "config_state": instance.admin_state.as_str(), "run_state": state,
        "pnode": node.name, "pnode_group_uuid": node.group, "pnode_group_name": group.map(|group| &group.name),
        "snodes": [], "snodes_group_uuids": [], "snodes_group_names": [],
        "os": instance.os, "nics": nics, "disk_template": instance.disk_template, "disks": disks,
        "hypervisor": instance.hypervisor, "network_port": null,
        "hv_instance": instance.hvparams, "hv_actual": filled(&hv_default, &instance.hvparams),
        "be_instance": instance.beparams, "be_actual": beparams(cluster, instance),
        "os_instance": instance.osparams, "os_actual": instance.osparams,
        "serial_no": instance.stamp.serial_no, "mtime": instance.stamp.mtime, "ctime": instance.stamp.ctime,
        "uuid": instance.uuid,
    })
}

fn told_disk(instance: &Instance, index: usize, disk: &Disk) -> Value {
    json!({
        "iv_name": format!("disk/{index}"), "dev_type": instance.disk_template, "logical_id": null,
        "pstatus": null, "sstatus": null, "children": [], "mode": disk.mode, "size": disk.size,
        "spindles": null, "name": disk.name, "uuid": disk.uuid, "drbd_info": null,
    })
}
