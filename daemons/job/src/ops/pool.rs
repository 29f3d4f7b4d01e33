//! OP_POOL_ADD, _MODIFY, _RESIZE, _DRAIN: how many VMs are kept. The slots themselves follow in jobs of their own.

use crate::error::OpFail;
use crate::ops::blueprint::{changed, exists, new_name, tags, within};
use crate::ops::{Args, Cx, Locks};
use gantry_model::config::{Params, Stamp, kind};
use gantry_model::error::Ecode;
use gantry_model::ids::PoolUuid;
use gantry_model::pool::{POOL_SLOTS_MAX, Pool, PoolState};
use gantry_model::time;
use gantry_proto::wconfd::Command;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Longest time a VM may take to become ready, seconds.
const CONNECT_TIMEOUT_S_MAX: u64 = 3600;
/// Longest age of a clean VM, seconds: a year.
const LIFETIME_S_MAX: u64 = 366 * 86_400;
/// What may be changed. The state has an opcode of its own. The blueprint stays: what a VM was made from is told by its
/// blueprint's revision alone, and those of two blueprints can't be compared.
const CHANGEABLE: &[&str] = &["group", "min", "max", "amount", "spare", "lifetime_s", "connect_timeout_s"];

/// Adds a pool, without slots. Result: its uuid.
pub async fn add(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::none()).await?;
    let name = new_name(args, "pool_name", "pool")?;
    if cx.master.find::<Pool>(kind::POOL, name).await?.is_some() {
        return Err(exists("Pool", name));
    }
    let blueprint = cx.master.blueprint(args.need("blueprint")?).await?;
    let group = match args.str("group_name") {
        Some(group) => Some(cx.master.group(group).await?.uuid),
        None => None,
    };
    let number = |key: &str, default| args.uint(key).unwrap_or(default);
    let amount = number("amount", 0);
    let pool = Pool {
        uuid: PoolUuid(Uuid::new_v4()),
        name: name.to_owned(),
        blueprint: blueprint.uuid,
        group,
        min: number("min", 0),
        max: number("max", amount),
        amount,
        spare: number("spare", 0),
        lifetime_s: number("lifetime_s", 0),
        connect_timeout_s: number("connect_timeout_s", 120),
        state: PoolState::Active,
        stamp: Stamp { tags: tags(args)?, ..Stamp::new(time::now().epoch()) },
        extra: Params::new(),
    };
    check(&pool)?;
    let uuid = pool.uuid;
    cx.apply(vec![Command::PoolAdd { pool: Box::new(pool) }]).await?;
    Ok(json!(uuid))
}

fn check(pool: &Pool) -> Result<(), OpFail> {
    numbers(pool).map_err(|why| OpFail::prereq(format!("Pool {}: {why}", pool.name), Ecode::WrongInput))
}

fn numbers(pool: &Pool) -> Result<(), String> {
    within("max", pool.max, 0, POOL_SLOTS_MAX)?;
    if pool.min > pool.max {
        return Err(format!("min {} is above max {}", pool.min, pool.max));
    }
    within("amount", pool.amount, pool.min, pool.max)?;
    within("spare", pool.spare, 0, pool.max)?;
    within("lifetime_s", pool.lifetime_s, 0, LIFETIME_S_MAX)?;
    within("connect_timeout_s", pool.connect_timeout_s, 1, CONNECT_TIMEOUT_S_MAX)
}

/// Changes a pool; `group` by name. Result: `[[field, value], …]`.
pub async fn modify(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::none()).await?;
    let pool = cx.master.pool(args.need("pool_name")?).await?;
    let asked = args.object("set").cloned().unwrap_or_default();
    let mut set = asked.clone();
    if let Some(name) = asked.get("group").and_then(Value::as_str) {
        set.insert("group".to_owned(), json!(cx.master.group(name).await?.uuid));
    }
    check(&changed(&pool, &set, CHANGEABLE)?)?;
    put(cx, &pool, set).await?;
    Ok(Value::Array(asked.iter().map(|(name, value)| json!([name, value])).collect()))
}

/// Asks for another number of slots. Where no more than the amount were allowed, the most grow with it. Result: null.
pub async fn resize(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::none()).await?;
    let pool = cx.master.pool(args.need("pool_name")?).await?;
    let amount = args.uint("amount").ok_or_else(|| OpFail::prereq("amount is missing", Ecode::WrongInput))?;
    let set = resized(&pool, amount).map_err(|why| OpFail::prereq(why, Ecode::WrongInput))?;
    check(&changed(&pool, &set, CHANGEABLE)?)?;
    put(cx, &pool, set).await?;
    Ok(Value::Null)
}

fn resized(pool: &Pool, amount: u64) -> Result<Params, String> {
    let mut set = Map::from_iter([("amount".to_owned(), json!(amount))]);
    if amount > pool.max && pool.max == pool.amount {
        set.insert("max".to_owned(), json!(amount));
    } else if amount > pool.max {
        let Pool { name, max, .. } = pool;
        return Err(format!(
            "Pool {name} may have {max} slots at most, not {amount}; change that with gnt-pool modify --max"
        ));
    }
    if amount < pool.min {
        let Pool { name, min, .. } = pool;
        return Err(format!(
            "Pool {name} shall have {min} slots at least, not {amount}; change that with gnt-pool modify --min"
        ));
    }
    Ok(set)
}

/// Stops or resumes the making and leasing of VMs. Result: null.
pub async fn drain(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    cx.begin(Locks::none()).await?;
    let pool = cx.master.pool(args.need("pool_name")?).await?;
    let state = if args.flag("drain") == Some(false) { PoolState::Active } else { PoolState::Draining };
    set_state(cx, &pool, state).await?;
    Ok(Value::Null)
}

/// Sets the state of a pool, unless it has it.
pub async fn set_state(cx: &mut Cx<'_>, pool: &Pool, state: PoolState) -> Result<(), OpFail> {
    if pool.state == state {
        return Ok(());
    }
    let set = Map::from_iter([("state".to_owned(), json!(state))]);
    // Whatever else changed meanwhile: the state does not rest on it.
    cx.apply(vec![Command::PoolSet { pool: pool.uuid, rev: None, set }]).await?;
    Ok(())
}

async fn put(cx: &mut Cx<'_>, pool: &Pool, set: Params) -> Result<(), OpFail> {
    let rev = Some(pool.stamp.serial_no);
    cx.apply(vec![Command::PoolSet { pool: pool.uuid, rev, set }]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(min: u64, amount: u64, max: u64) -> Pool {
        serde_json::from_value(json!({
            "uuid": Uuid::nil(), "name": "p", "blueprint": Uuid::nil(), "min": min, "max": max, "amount": amount,
            "connect_timeout_s": 60, "serial_no": 1, "ctime": 1.0, "mtime": 1.0,
        }))
        .unwrap()
    }

    #[test]
    fn the_most_grow_with_the_amount_where_no_more_were_allowed() {
        let set = |pool, amount| resized(&pool, amount).map(Value::Object);
        assert_eq!(set(pool(0, 4, 4), 8), Ok(json!({"amount": 8, "max": 8})));
        assert_eq!(set(pool(0, 4, 4), 2), Ok(json!({"amount": 2})), "leases may ask for as many as before");
        assert_eq!(set(pool(0, 4, 8), 8), Ok(json!({"amount": 8})));
        for (bad, amount, word) in [(pool(0, 4, 8), 9, "--max"), (pool(2, 4, 4), 1, "--min")] {
            let why = set(bad, amount).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn numbers_fit_each_other() {
        assert_eq!(numbers(&pool(1, 2, 3)), Ok(()));
        assert_eq!(numbers(&pool(0, 0, 0)), Ok(()));
        for (bad, word) in [
            (pool(3, 3, 2), "min 3 is above max 2"),
            (pool(2, 1, 3), "amount must be 2 to 3"),
            (pool(0, 4, 3), "amount must be 0 to 3"),
            (pool(0, 1, POOL_SLOTS_MAX + 1), "max must be"),
            (Pool { spare: 4, ..pool(0, 1, 3) }, "spare must be"),
            (Pool { connect_timeout_s: 0, ..pool(0, 1, 3) }, "connect_timeout_s must be"),
        ] {
            let why = numbers(&bad).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }
}
