//! Whether a task or a lease request can be served at all, as far as the configuration says: asked before the queue
//! takes it, so that a mistake is told at once and nothing waits for ever.

use crate::core::mirror::Snapshot;
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::job::{PRIORITY_MAX, PRIORITY_MIN};
use gantry_model::lease::{LEASE_MS_MAX, LEASE_VMS_MAX, LeaseRequest, TTL_MS_MIN};
use gantry_model::pool::{Blueprint, Pool, PoolState};
use gantry_model::task::{TEXT_BYTES_MAX, TaskSpec, check, fits};

type Result<T> = std::result::Result<T, GanetiError>;

fn wrong(text: impl Into<String>) -> GanetiError {
    GanetiError::prereq(text, Ecode::WrongInput)
}

/// A pool that takes work, and its blueprint.
fn open_pool<'a>(config: &'a Snapshot, name: &str) -> Result<(&'a Pool, &'a Blueprint)> {
    let pool = config.pool_named(name).ok_or_else(|| {
        let text = format!("there is no pool '{}'; gnt-pool list shows which there are", name.escape_debug());
        GanetiError::prereq(text, Ecode::UnknownEntity)
    })?;
    let state = |text| GanetiError::prereq(text, Ecode::WrongState);
    if pool.state == PoolState::Draining {
        return Err(state(format!("pool {name} is draining and gives out no more VMs; use another")));
    }
    let blueprint = config.blueprint(pool.blueprint).ok_or_else(|| {
        GanetiError::new("ConfigurationError", format!("pool {name} names a blueprint that does not exist"))
    })?;
    if !blueprint.enabled {
        let text = format!("blueprint {} of pool {name} is disabled; use another pool", blueprint.name);
        return Err(state(text));
    }
    Ok((pool, blueprint))
}

/// Checks a task.
///
/// # Errors
/// What is wrong, and what is allowed.
pub fn task(config: &Snapshot, spec: &TaskSpec) -> Result<()> {
    check(spec).map_err(wrong)?;
    let (_, blueprint) = open_pool(config, &spec.pool)?;
    fits(spec, blueprint).map_err(wrong)
}

/// Checks a lease request.
///
/// # Errors
/// What is wrong, and what is allowed.
pub fn lease(config: &Snapshot, request: &LeaseRequest) -> Result<()> {
    if request.user.is_empty()
        || request.user.len() > TEXT_BYTES_MAX
        || request.user.contains(char::is_control)
    {
        return Err(wrong(format!(
            "user must be text of 1 to {TEXT_BYTES_MAX} bytes without control characters"
        )));
    }
    if !(PRIORITY_MIN..=PRIORITY_MAX).contains(&request.priority) {
        return Err(wrong(format!(
            "priority must be {PRIORITY_MIN} to {PRIORITY_MAX}, not {}",
            request.priority
        )));
    }
    let (pool, blueprint) = open_pool(config, &request.pool)?;
    let most = u64::from(LEASE_VMS_MAX).min(pool.max);
    if !(1..=most).contains(&u64::from(request.count)) {
        let text = format!("count must be 1 to {most} in pool {}, not {}", pool.name, request.count);
        return Err(wrong(text));
    }
    let longest = blueprint.lease_s_max.saturating_mul(1000).min(LEASE_MS_MAX);
    if !(1..=longest).contains(&request.for_ms) {
        let text = format!(
            "for_s must be 1 to {} with blueprint {}, not {}",
            longest / 1000,
            blueprint.name,
            request.for_ms / 1000
        );
        return Err(wrong(text));
    }
    match request.ttl_ms.filter(|ttl| !(TTL_MS_MIN..=LEASE_MS_MAX).contains(ttl)) {
        Some(ttl) => Err(wrong(format!(
            "ttl_s must be {} to {}, not {}",
            TTL_MS_MIN / 1000,
            LEASE_MS_MAX / 1000,
            ttl / 1000
        ))),
        None => Ok(()),
    }
}
