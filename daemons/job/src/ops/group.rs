//! OP_GROUP_ADD, _REMOVE, _RENAME, _SET_PARAMS, _ASSIGN_NODES.

use crate::core::hooks::Hooks;
use crate::error::OpFail;
use crate::ops::{Args, Cx, Locks};
use gantry_model::config::{ALLOC_POLICIES, Group, Params, Stamp, filled};
use gantry_model::error::Ecode;
use gantry_model::ids::GroupUuid;
use gantry_model::names::is_group_name;
use gantry_model::time;
use gantry_proto::wconfd::{Command, Want};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;

fn good_name(name: &str) -> Result<(), OpFail> {
    if is_group_name(name) {
        return Ok(());
    }
    let text = format!(
        "'{name}' can't name a group: use 1 to 255 of A-Z a-z 0-9 _ . - and nothing formed like a uuid"
    );
    Err(OpFail::prereq(text, Ecode::WrongInput))
}

/// Creates an empty group. Result: null.
pub async fn add(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let name = args.need("group_name")?;
    good_name(name)?;
    let uuid = GroupUuid(Uuid::new_v4());
    cx.begin(Locks::shared().group(uuid, Want::Exclusive)).await?;
    let group = Group {
        uuid,
        name: name.to_owned(),
        ndparams: args.object("ndparams").cloned().unwrap_or_default(),
        alloc_policy: args.str("alloc_policy").unwrap_or(ALLOC_POLICIES[0]).to_owned(),
        ipolicy: args.object("ipolicy").cloned().unwrap_or_default(),
        diskparams: BTreeMap::new(),
        networks: BTreeMap::new(),
        stamp: Stamp::new(time::now().epoch()),
        extra: Params::new(),
    };
    let hooks = Hooks::group(args.id(), "group-add", &group).on_master();
    cx.apply_between(&hooks, vec![Command::GroupAdd { group: Box::new(group) }]).await?;
    Ok(Value::Null)
}

/// Removes an empty group that is not the last. Result: null.
pub async fn remove(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let group = cx.master.group(args.need("group_name")?).await?;
    cx.begin(Locks::shared().group(group.uuid, Want::Exclusive)).await?;
    let hooks = Hooks::group(args.id(), "group-remove", &group).on_master();
    cx.apply_between(&hooks, vec![Command::GroupRemove { group: group.uuid }]).await?;
    Ok(Value::Null)
}

/// Renames a group. Result: the new name.
pub async fn rename(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let name = args.need("new_name")?;
    good_name(name)?;
    let group = cx.master.group(args.need("group_name")?).await?;
    cx.begin(Locks::shared().group(group.uuid, Want::Exclusive)).await?;
    let hooks = Hooks::group(args.id(), "group-rename", &group)
        .with(&[("OLD_NAME", &group.name), ("NEW_NAME", name)])
        .on_master();
    let set = Params::from_iter([("name".to_owned(), json!(name))]);
    cx.apply_between(&hooks, vec![Command::GroupSet { group: group.uuid, rev: None, set }]).await?;
    Ok(json!(name))
}

/// Changes policy and parameters. Result: `[[param, value]]`.
pub async fn set_params(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let group = cx.master.group(args.need("group_name")?).await?;
    cx.begin(Locks::shared().group(group.uuid, Want::Exclusive)).await?;
    let group = cx.master.group(&group.uuid.to_string()).await?;
    let mut set = Params::new();
    if let Some(policy) = args.str("alloc_policy") {
        set.insert("alloc_policy".to_owned(), json!(policy));
    }
    if let Some(own) = args.object("ndparams") {
        set.insert("ndparams".to_owned(), Value::Object(merged(&group.ndparams, own)));
    }
    if let Some(own) = args.object("ipolicy") {
        set.insert("ipolicy".to_owned(), Value::Object(merged(&group.ipolicy, own)));
    }
    if set.is_empty() {
        return Err(OpFail::prereq("Please pass at least one modification", Ecode::WrongInput));
    }
    let told: Vec<Value> = set.iter().map(|(name, value)| json!([name, value])).collect();
    let policy = args.str("alloc_policy").unwrap_or_default();
    let hooks =
        Hooks::group(args.id(), "group-modify", &group).with(&[("NEW_ALLOC_POLICY", policy)]).on_master();
    let rev = Some(group.stamp.serial_no);
    cx.apply_between(&hooks, vec![Command::GroupSet { group: group.uuid, rev, set }]).await?;
    Ok(Value::Array(told))
}

/// `own` over `old`; "default" and null take a value of the object's own away (`spec/opcodes.md` §3).
pub fn merged(old: &Params, own: &Params) -> Params {
    let mut all = filled(old, own);
    all.retain(|_, value| !value.is_null() && *value != json!("default"));
    all
}

/// Moves nodes to a group. Result: null.
pub async fn assign_nodes(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let group = cx.master.group(args.need("group_name")?).await?;
    let mut nodes = Vec::new();
    let mut locks = Locks::shared().group(group.uuid, Want::Exclusive);
    for name in args.texts("nodes") {
        let node = cx.master.node(name).await?;
        locks = locks.group(node.group, Want::Exclusive).node(node.uuid, Want::Exclusive);
        nodes.push(node.uuid);
    }
    cx.begin(locks).await?;
    cx.apply(vec![Command::GroupAssign { group: group.uuid, nodes }]).await?;
    Ok(Value::Null)
}
