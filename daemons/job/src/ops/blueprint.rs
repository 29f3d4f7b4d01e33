//! OP_BLUEPRINT_ADD, _MODIFY, _REMOVE: how the VMs of pools are made.

use crate::error::OpFail;
use crate::ops::{Args, Cx, Locks};
use gantry_model::config::{Params, Stamp, kind};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::BlueprintUuid;
use gantry_model::names::is_tag;
use gantry_model::pool::{
    Blueprint, DISK_MIB_MAX, DRIVER_OCI, IMAGE_HOST, Image, MEMORY_MIB_MAX, MEMORY_MIB_MIN, PIDS_MAX,
    PIDS_MIN, Pool, Recycle, VCPUS_MAX, WALL_S_MAX, check_disk, is_name,
};
use gantry_model::task::Limits;
use gantry_model::time;
use gantry_proto::wconfd::Command;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use uuid::Uuid;

/// What may be changed. The rest is the identity of a blueprint, or not for people.
const CHANGEABLE: &[&str] =
    &["image", "memory_mib", "vcpus", "disk_mib", "pids", "recycle", "wall_s_max", "lease_s_max", "enabled"];
/// Drivers that make VMs of pools.
const DRIVERS: &[&str] = &[DRIVER_OCI, "fake"];

/// Adds a blueprint. Result: its uuid.
pub async fn add(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::none()).await?;
    let name = new_name(args, "blueprint_name", "blueprint")?;
    if cx.master.find::<Blueprint>(kind::BLUEPRINT, name).await?.is_some() {
        return Err(exists("Blueprint", name));
    }
    let number = |key: &str, default| args.uint(key).unwrap_or(default);
    let limits = Limits::default();
    let blueprint = Blueprint {
        uuid: BlueprintUuid(Uuid::new_v4()),
        name: name.to_owned(),
        driver: args.need("driver")?.to_owned(),
        image: args.need("image")?.to_owned(),
        memory_mib: number("memory_mib", limits.memory_mib),
        vcpus: number("vcpus", 1),
        disk_mib: number("disk_mib", limits.disk_mib),
        pids: number("pids", limits.pids),
        recycle: Recycle::Destroy,
        wall_s_max: number("wall_s_max", 3600),
        lease_s_max: number("lease_s_max", WALL_S_MAX),
        enabled: true,
        stamp: Stamp { tags: tags(args)?, ..Stamp::new(time::now().epoch()) },
        extra: Params::new(),
    };
    check(cx, &blueprint).await?;
    let uuid = blueprint.uuid;
    cx.apply(vec![Command::BlueprintAdd { blueprint: Box::new(blueprint) }]).await?;
    Ok(json!(uuid))
}

/// Changes a blueprint; VMs made before are replaced as they become free. Result: `[[field, value], …]`.
pub async fn modify(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::none()).await?;
    let blueprint = cx.master.blueprint(args.need("blueprint_name")?).await?;
    let set = args.object("set").cloned().unwrap_or_default();
    let next: Blueprint = changed(&blueprint, &set, CHANGEABLE)?;
    check(cx, &next).await?;
    let told: Vec<Value> = set.iter().map(|(name, value)| json!([name, value])).collect();
    let rev = Some(blueprint.stamp.serial_no);
    cx.apply(vec![Command::BlueprintSet { blueprint: blueprint.uuid, rev, set }]).await?;
    Ok(Value::Array(told))
}

/// Removes a blueprint that no pool uses. Result: null.
pub async fn remove(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::none()).await?;
    let blueprint = cx.master.blueprint(args.need("blueprint_name")?).await?;
    let pools: Vec<Pool> = cx.master.all(kind::POOL).await?;
    let users: Vec<&str> =
        pools.iter().filter(|pool| pool.blueprint == blueprint.uuid).map(|pool| pool.name.as_str()).collect();
    if !users.is_empty() {
        let text =
            format!("Blueprint {} is used by pool {}; remove it first", blueprint.name, users.join(", "));
        return Err(OpFail::prereq(text, Ecode::WrongState));
    }
    cx.apply(vec![Command::BlueprintRemove { blueprint: blueprint.uuid }]).await?;
    Ok(Value::Null)
}

async fn check(cx: &mut Cx<'_>, blueprint: &Blueprint) -> Result<(), OpFail> {
    sizes(blueprint).map_err(|why| OpFail::prereq(why, Ecode::WrongInput))?;
    let image = &blueprint.image;
    if image != IMAGE_HOST && cx.master.find::<Image>(kind::IMAGE, image).await?.is_none() {
        let text = format!("Image '{image}' not known; import it with gnt-os import, or use '{IMAGE_HOST}'");
        return Err(OpFail::prereq(text, Ecode::UnknownEntity));
    }
    Ok(())
}

fn sizes(blueprint: &Blueprint) -> Result<(), String> {
    if !DRIVERS.contains(&blueprint.driver.as_str()) {
        return Err(format!("driver '{}' is none of {}", blueprint.driver, DRIVERS.join(", ")));
    }
    within("memory_mib", blueprint.memory_mib, MEMORY_MIB_MIN, MEMORY_MIB_MAX)?;
    within("vcpus", blueprint.vcpus, 1, VCPUS_MAX)?;
    within("disk_mib", blueprint.disk_mib, 1, DISK_MIB_MAX)?;
    check_disk(&blueprint.driver, blueprint.memory_mib, blueprint.disk_mib)?;
    within("pids", blueprint.pids, PIDS_MIN, PIDS_MAX)?;
    within("wall_s_max", blueprint.wall_s_max, 1, WALL_S_MAX)?;
    within("lease_s_max", blueprint.lease_s_max, 1, WALL_S_MAX)
}

/// Whether a number is allowed; else what is.
pub fn within(what: &str, value: u64, min: u64, max: u64) -> Result<(), String> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(format!("{what} must be {min} to {max}, not {value}"))
    }
}

/// The name of a new blueprint, pool or image.
pub fn new_name<'a>(args: &Args<'a>, parameter: &str, noun: &str) -> Result<&'a str, OpFail> {
    let name = args.need(parameter)?;
    if is_name(name) {
        return Ok(name);
    }
    let text = format!(
        "'{name}' can't name a {noun}: 1 to 50 lower-case letters, digits and inner '-', a letter first, and no uuid"
    );
    Err(OpFail::prereq(text, Ecode::WrongInput))
}

/// The refusal of a name that is taken.
pub fn exists(noun: &str, name: &str) -> OpFail {
    OpFail::prereq(format!("{noun} '{name}' is already in the cluster"), Ecode::AlreadyExists)
}

/// Tags of a new object.
pub fn tags(args: &Args<'_>) -> Result<BTreeSet<String>, OpFail> {
    let tags: BTreeSet<String> = args.texts("tags").into_iter().map(str::to_owned).collect();
    match tags.iter().find(|tag| !is_tag(tag)) {
        Some(bad) => Err(OpFail::Error(GanetiError::new("TagError", format!("'{bad}' is no tag")))),
        None => Ok(tags),
    }
}

/// `old` with the fields of `set` replaced; only those that may be changed.
pub fn changed<T: Serialize + DeserializeOwned>(old: &T, set: &Params, fields: &[&str]) -> Result<T, OpFail> {
    let wrong = |text: String| OpFail::prereq(text, Ecode::WrongInput);
    if set.is_empty() {
        return Err(wrong("Please pass at least one modification".to_owned()));
    }
    if let Some(other) = set.keys().find(|name| !fields.contains(&name.as_str())) {
        return Err(wrong(format!("'{other}' can't be changed; what can: {}", fields.join(", "))));
    }
    let mut value = serde_json::to_value(old).map_err(|why| OpFail::exec(why.to_string()))?;
    for (name, new) in set {
        value[name] = new.clone();
    }
    serde_json::from_value(value).map_err(|why| wrong(format!("a value is not usable: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blueprint() -> Blueprint {
        serde_json::from_value(json!({
            "uuid": Uuid::nil(), "name": "py", "driver": "fake", "image": "host", "memory_mib": 64, "vcpus": 1,
            "disk_mib": 64, "pids": 64, "wall_s_max": 60, "lease_s_max": 60, "enabled": true, "serial_no": 1,
            "ctime": 1.0, "mtime": 1.0,
        }))
        .unwrap()
    }

    fn text(why: OpFail) -> String {
        match why {
            OpFail::Error(error) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_may_be_changed_is_changed() {
        let set = |value: Value| value.as_object().unwrap().clone();
        let next =
            changed(&blueprint(), &set(json!({"memory_mib": 128, "enabled": false})), CHANGEABLE).unwrap();
        assert_eq!((next.memory_mib, next.enabled), (128, false));
        for (bad, words) in [
            (json!({}), "at least one modification"),
            (json!({"name": "other"}), "'name' can't be changed"),
            (json!({"memory_mib": "much"}), "not usable"),
        ] {
            let why = text(changed(&blueprint(), &set(bad.clone()), CHANGEABLE).unwrap_err());
            assert!(why.contains(words), "{bad}: {why}");
        }
    }

    #[test]
    fn sizes_have_bounds() {
        assert_eq!(sizes(&blueprint()), Ok(()));
        let oci = Blueprint { driver: "oci".to_owned(), disk_mib: 63, ..blueprint() };
        assert_eq!(sizes(&oci), Ok(()));
        for (bad, word) in [
            (Blueprint { memory_mib: 1, ..blueprint() }, "memory_mib"),
            (Blueprint { vcpus: 0, ..blueprint() }, "vcpus"),
            (Blueprint { disk_mib: 0, ..blueprint() }, "disk_mib"),
            (Blueprint { driver: "oci".to_owned(), ..blueprint() }, "must be below memory_mib"),
            (Blueprint { pids: 3, ..blueprint() }, "pids"),
            (Blueprint { wall_s_max: WALL_S_MAX + 1, ..blueprint() }, "wall_s_max"),
            (Blueprint { lease_s_max: 0, ..blueprint() }, "lease_s_max"),
            (Blueprint { driver: "kvm".to_owned(), ..blueprint() }, "driver"),
        ] {
            assert!(sizes(&bad).unwrap_err().contains(word), "{word}");
        }
    }
}
