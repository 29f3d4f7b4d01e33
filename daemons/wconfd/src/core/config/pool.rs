//! Blueprints, pools and images: what VMs are made from and how many are kept (`model.md` §2.3).

use super::edit::{Edit, fresh};
use super::error::{exists, unknown, wrong_input, wrong_state};
use super::{fields, tags};
use gantry_model::config::{Params, Stamp};
use gantry_model::error::GanetiError;
use gantry_model::ids::{BlueprintUuid, PoolUuid};
use gantry_model::names::TAGS_MAX;
use gantry_model::pool::{
    Blueprint, DISK_MIB_MAX, IMAGE_HOST, Image, MEMORY_MIB_MAX, MEMORY_MIB_MIN, NAME_BYTES_MAX, PIDS_MAX,
    PIDS_MIN, POOL_SLOTS_MAX, Pool, VCPUS_MAX, WALL_S_MAX, check_disk, is_name,
};
use serde_json::{Value, json};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Back ends that make VMs of pools.
const DRIVERS: [&str; 2] = ["oci", "fake"];
/// Hex digits of SHA-256.
const DIGEST_DIGITS: usize = 64;
/// Pools, blueprints or slots named in a refusal; the rest is counted.
const NAMED_MAX: usize = 5;

impl Edit<'_> {
    /// Adds a blueprint.
    pub(super) fn blueprint_add(&mut self, blueprint: &Blueprint) -> Result<Value, GanetiError> {
        let Blueprint { uuid, name, .. } = blueprint;
        self.never_removed("Blueprint", uuid.0)?;
        check_name("blueprint", name)?;
        let taken = self.config.index.pools.blueprint_names.contains_key(name);
        if taken || self.config.blueprints.contains_key(uuid) {
            return Err(exists(format!("Blueprint '{name}' is already in the cluster")));
        }
        check_tags(&blueprint.stamp)?;
        self.check_blueprint(blueprint)?;
        self.set_blueprint(*uuid, Some(blueprint.clone()));
        Ok(json!(uuid))
    }

    /// Changes a blueprint by its field names. Its serial, the revision of its VMs, grows.
    pub(super) fn blueprint_set(
        &mut self,
        uuid: BlueprintUuid,
        rev: Option<u64>,
        set: &Params,
    ) -> Result<Value, GanetiError> {
        let old = self.blueprint(uuid)?;
        let new = fields::set("Blueprint", &*old, fields::BLUEPRINT, set)?;
        fresh(old.stamp.serial_no, rev, new != *old)?;
        self.check_blueprint(&new)?;
        self.set_blueprint(uuid, Some(new));
        Ok(Value::Null)
    }

    /// Removes a blueprint that no pool uses.
    pub(super) fn blueprint_remove(&mut self, uuid: BlueprintUuid) -> Result<Value, GanetiError> {
        let blueprint = self.blueprint(uuid)?;
        let users = self.config.index.pools.blueprint_pools.get(&uuid).into_iter().flatten();
        let users = users.filter_map(|pool| Some(self.config.pools.get(pool)?.name.as_str()));
        if let Some(users) = some(users) {
            let name = &blueprint.name;
            return Err(wrong_state(format!(
                "Blueprint '{name}' is used by pools: {users}; remove those first"
            )));
        }
        self.set_blueprint(uuid, None);
        Ok(Value::Null)
    }

    /// Adds a pool, without slots.
    pub(super) fn pool_add(&mut self, pool: &Pool) -> Result<Value, GanetiError> {
        let Pool { uuid, name, .. } = pool;
        self.never_removed("Pool", uuid.0)?;
        check_name("pool", name)?;
        if self.config.index.pools.pool_names.contains_key(name) || self.config.pools.contains_key(uuid) {
            return Err(exists(format!("Pool '{name}' is already in the cluster")));
        }
        if let Some(other) = self.instance_like_slot(name) {
            return Err(exists(format!(
                "Pool '{name}' would call its slots '{name}-1' and so on, but instance '{other}' has such a name: \
                 choose another"
            )));
        }
        let blueprint = self.blueprint(pool.blueprint)?;
        if !blueprint.enabled {
            return Err(wrong_state(format!("Blueprint '{}' is disabled", blueprint.name)));
        }
        check_tags(&pool.stamp)?;
        self.check_pool(pool)?;
        self.set_pool(*uuid, Some(pool.clone()));
        Ok(json!(uuid))
    }

    /// Changes a pool by its field names.
    pub(super) fn pool_set(
        &mut self,
        uuid: PoolUuid,
        rev: Option<u64>,
        set: &Params,
    ) -> Result<Value, GanetiError> {
        let old = self.known_pool(uuid)?;
        let new = fields::set("Pool", &*old, fields::POOL, set)?;
        fresh(old.stamp.serial_no, rev, new != *old)?;
        self.check_pool(&new)?;
        self.set_pool(uuid, Some(new));
        Ok(Value::Null)
    }

    /// Removes a pool without slots.
    pub(super) fn pool_remove(&mut self, uuid: PoolUuid) -> Result<Value, GanetiError> {
        let pool = self.known_pool(uuid)?;
        let slots: u64 =
            self.config.index.pools.by_node.get(&pool.name).map_or(0, |nodes| nodes.values().sum());
        if slots > 0 {
            return Err(wrong_state(format!(
                "Pool '{}' still has {slots} slots: drain it, they go as they become free",
                pool.name
            )));
        }
        self.config.rotor.remove(&pool.name);
        self.set_pool(uuid, None);
        Ok(Value::Null)
    }

    /// Adds an image.
    pub(super) fn image_add(&mut self, image: &Image) -> Result<Value, GanetiError> {
        let Image { name, digest, bytes, stamp } = image;
        check_name("image", name)?;
        if name == IMAGE_HOST {
            return Err(wrong_input(format!("Image '{IMAGE_HOST}' is built in: choose another name")));
        }
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digest.len() != DIGEST_DIGITS || !digest.bytes().all(hex) {
            return Err(wrong_input(format!(
                "'{digest}' is not a SHA-256 in {DIGEST_DIGITS} lower-case hex digits"
            )));
        }
        if *bytes == 0 {
            return Err(wrong_input(format!("Image '{name}' is empty")));
        }
        check_tags(stamp)?;
        match self.config.images.get(name) {
            Some(there) if there.digest == *digest => return Ok(Value::Null),
            Some(_) => {
                return Err(exists(format!(
                    "Image '{name}' is there with another content: remove it first, or choose another name"
                )));
            }
            None => {}
        }
        if self.old.images.get(name).is_some_and(Option::is_some) {
            return Err(exists(format!("Image '{name}' was removed in the same request")));
        }
        self.set_image(name, Some(image.clone()));
        Ok(Value::Null)
    }

    /// Removes an image that no blueprint names.
    pub(super) fn image_remove(&mut self, name: &str) -> Result<Value, GanetiError> {
        if !self.config.images.contains_key(name) {
            return Err(unknown("Image", name));
        }
        let users = self.config.index.pools.image_blueprints.get(name).into_iter().flatten();
        let users = users.filter_map(|uuid| Some(self.config.blueprints.get(uuid)?.name.as_str()));
        if let Some(users) = some(users) {
            return Err(wrong_state(format!("Image '{name}' is used by blueprints: {users}")));
        }
        self.set_image(name, None);
        Ok(Value::Null)
    }

    fn check_blueprint(&self, blueprint: &Blueprint) -> Result<(), GanetiError> {
        if !DRIVERS.contains(&blueprint.driver.as_str()) {
            let text = format!("Driver '{}' is none of {}", blueprint.driver, DRIVERS.join(", "));
            return Err(wrong_input(text));
        }
        if blueprint.image != IMAGE_HOST && !self.config.images.contains_key(&blueprint.image) {
            return Err(unknown("Image", &blueprint.image));
        }
        within("memory_mib", blueprint.memory_mib, MEMORY_MIB_MIN..=MEMORY_MIB_MAX)?;
        within("vcpus", blueprint.vcpus, 1..=VCPUS_MAX)?;
        within("disk_mib", blueprint.disk_mib, 1..=DISK_MIB_MAX)?;
        check_disk(&blueprint.driver, blueprint.memory_mib, blueprint.disk_mib).map_err(wrong_input)?;
        within("pids", blueprint.pids, PIDS_MIN..=PIDS_MAX)?;
        within("wall_s_max", blueprint.wall_s_max, 1..=WALL_S_MAX)?;
        within("lease_s_max", blueprint.lease_s_max, 1..=WALL_S_MAX)
    }

    fn check_pool(&self, pool: &Pool) -> Result<(), GanetiError> {
        if let Some(group) = pool.group.filter(|group| !self.config.groups.contains_key(group)) {
            return Err(unknown("Node group", group));
        }
        let Pool { min, max, amount, .. } = *pool;
        within("max", max, 0..=POOL_SLOTS_MAX)?;
        if !(min <= amount && amount <= max) {
            return Err(wrong_input(format!("A pool needs min ≤ amount ≤ max, not {min}, {amount}, {max}")));
        }
        within("spare", pool.spare, 0..=max)?;
        within("connect_timeout_s", pool.connect_timeout_s, 1..=WALL_S_MAX)
    }

    pub(super) fn blueprint(&self, uuid: BlueprintUuid) -> Result<Arc<Blueprint>, GanetiError> {
        self.config.blueprints.get(&uuid).cloned().ok_or_else(|| unknown("Blueprint", uuid))
    }

    fn known_pool(&self, uuid: PoolUuid) -> Result<Arc<Pool>, GanetiError> {
        self.config.pools.get(&uuid).cloned().ok_or_else(|| unknown("Pool", uuid))
    }

    /// An instance that is called as a slot of a pool of that name would be.
    fn instance_like_slot(&self, pool: &str) -> Option<&str> {
        let prefix = format!("{pool}-");
        let names = self.config.index.instance_names.range(prefix.clone()..);
        let mut names = names.map(|(name, _)| name.as_str()).take_while(|name| name.starts_with(&prefix));
        names.find(|name| name[prefix.len()..].bytes().all(|b| b.is_ascii_digit()))
    }
}

fn check_name(what: &str, name: &str) -> Result<(), GanetiError> {
    if is_name(name) {
        return Ok(());
    }
    Err(wrong_input(format!(
        "'{name}' is not a name of {what}s: 1 to {NAME_BYTES_MAX} lower-case letters, digits and inner '-', \
         beginning with a letter, are"
    )))
}

fn check_tags(stamp: &Stamp) -> Result<(), GanetiError> {
    if stamp.tags.len() > TAGS_MAX {
        return Err(super::error::tag(format!("Too many tags on object (maximum {TAGS_MAX})")));
    }
    stamp.tags.iter().try_for_each(|tag| tags::check(tag))
}

fn within(what: &str, value: u64, range: RangeInclusive<u64>) -> Result<(), GanetiError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(wrong_input(format!("{what} must be {} to {}, not {value}", range.start(), range.end())))
}

/// The first names for people; None when there are none.
fn some<T: Display>(names: impl Iterator<Item = T>) -> Option<String> {
    let all: Vec<_> = names.map(|name| name.to_string()).collect();
    let more = all.len().saturating_sub(NAMED_MAX);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!all.is_empty()).then(|| format!("{}{rest}", all[..all.len() - more].join(", ")))
}
