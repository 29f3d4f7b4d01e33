//! Random histories over a small world, where owners meet often.

use super::super::*;
use super::model::{Model, Who};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Owners in histories are `0..OWNERS`.
pub const OWNERS: Who = 6;

const WORLD: [&str; 10] = [
    "cluster/[lockset]",
    "cluster/BGL",
    "instance/[lockset]",
    "instance/a",
    "instance/b",
    "node/[lockset]",
    "node/m",
    "node/n",
    "node-res/n",
    "cluster/config",
];

/// One command.
#[derive(Debug, Clone)]
pub enum Op {
    Try(Who, Vec<(LockName, Want)>),
    Wait(Who, i32, Vec<(LockName, Want)>),
    SetPriority(Who, i32),
    Withdraw(Who),
    FreeAll(Who),
    FreeLevel(Who, Level),
    KeepOnly(Who, BTreeSet<LockName>),
    Downgrade(Who, Level),
}

pub fn lock() -> impl Strategy<Value = LockName> {
    prop::sample::select(&WORLD[..]).prop_map(|text| text.parse().expect("a lock name"))
}

fn want() -> impl Strategy<Value = Want> {
    prop_oneof![3 => Just(Want::Shared), 3 => Just(Want::Exclusive), 2 => Just(Want::Release)]
}

pub fn request() -> impl Strategy<Value = Vec<(LockName, Want)>> {
    prop::collection::vec((lock(), want()), 1..4)
}

pub fn op() -> impl Strategy<Value = Op> {
    let who = || 0..OWNERS;
    let prio = || -1..2;
    let level = || prop::sample::select(&Level::ALL[..]);
    let keep = prop::collection::btree_set(lock(), 0..4);
    prop_oneof![
        4 => (who(), request()).prop_map(|(who, wants)| Op::Try(who, wants)),
        12 => (who(), prio(), request()).prop_map(|(who, prio, wants)| Op::Wait(who, prio, wants)),
        1 => (who(), prio()).prop_map(|(who, prio)| Op::SetPriority(who, prio)),
        1 => who().prop_map(Op::Withdraw),
        2 => who().prop_map(Op::FreeAll),
        2 => (who(), level()).prop_map(|(who, level)| Op::FreeLevel(who, level)),
        1 => (who(), keep).prop_map(|(who, keep)| Op::KeepOnly(who, keep)),
        1 => (who(), level()).prop_map(|(who, level)| Op::Downgrade(who, level)),
    ]
}

pub fn history() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 0..48)
}

/// What an operation answered, as both sides can say it: the blockers and the granted.
pub type Said = Result<(BTreeSet<Who>, Vec<Who>), ()>;

fn said(answer: Result<Answer<Who>, LockError>, changes: &mut Vec<HeldChange<Who>>) -> Said {
    let Answer { outcome, step } = answer.map_err(|_| ())?;
    changes.extend(step.held);
    match outcome {
        Outcome::Granted => Ok((BTreeSet::new(), step.granted)),
        Outcome::Blocked(blockers) => Ok((blockers, step.granted)),
    }
}

/// Runs one operation on the table.
pub fn run(table: &mut LockTable<Who>, op: &Op, changes: &mut Vec<HeldChange<Who>>) -> Said {
    let step = match op {
        Op::Try(who, wants) => return said(table.update(who, wants.clone()), changes),
        Op::Wait(who, prio, wants) => {
            return said(table.update_waiting(who, *prio, wants.clone()), changes);
        }
        Op::SetPriority(who, prio) => {
            return if table.set_priority(who, *prio) { Ok(Default::default()) } else { Err(()) };
        }
        Op::Withdraw(who) => {
            return if table.withdraw(who) { Ok(Default::default()) } else { Err(()) };
        }
        Op::FreeAll(who) => table.free_all(who),
        Op::FreeLevel(who, level) => table.free_level(who, *level),
        Op::KeepOnly(who, keep) => table.keep_only(who, keep),
        Op::Downgrade(who, level) => table.downgrade_level(who, *level),
    };
    changes.extend(step.held);
    Ok((BTreeSet::new(), step.granted))
}

/// Runs one operation on the model.
pub fn run_model(model: &mut Model, op: &Op) -> Said {
    let wants = |wants: &Vec<(LockName, Want)>| Wants::new(wants.clone()).map_err(|_| ());
    let granted = match op {
        // A pending request is refused anything else, an inconsistent list always: both are errors.
        Op::Try(who, list) => return model.update(*who, None, &wants(list)?),
        Op::Wait(who, prio, list) => return model.update(*who, Some(*prio), &wants(list)?),
        Op::SetPriority(who, prio) => {
            let pending = model.pending.get_mut(who).ok_or(())?;
            pending.0 = *prio;
            return Ok(Default::default());
        }
        Op::Withdraw(who) => {
            return model.pending.remove(who).map(|_| Default::default()).ok_or(());
        }
        Op::FreeAll(who) => model.weaken(*who, |_, _| None),
        Op::FreeLevel(who, level) => {
            model.weaken(*who, |lock, mode| (lock.level() != *level).then_some(mode))
        }
        Op::KeepOnly(who, keep) => model.weaken(*who, |lock, mode| keep.contains(lock).then_some(mode)),
        Op::Downgrade(who, level) => {
            model.weaken(*who, |lock, mode| Some(if lock.level() == *level { Mode::Shared } else { mode }))
        }
    };
    Ok((BTreeSet::new(), granted))
}

/// The table after a history, checked after each step.
pub fn reach(ops: &[Op]) -> LockTable<Who> {
    let mut table = LockTable::new();
    for op in ops {
        // Refusals are part of histories; only the state matters here.
        drop(run(&mut table, op, &mut Vec::new()));
        table.check();
    }
    table
}

/// All held locks, flat.
pub fn held(table: &LockTable<Who>) -> Vec<(Who, LockName, Mode)> {
    let of = |who| table.held(&who).map(move |(lock, mode)| (who, lock.clone(), mode));
    table.owners().into_iter().flat_map(of).collect()
}

/// The owners that wait.
pub fn waiting(table: &LockTable<Who>) -> BTreeSet<Who> {
    table.owners().into_iter().filter(|who| table.pending(who).is_some()).collect()
}
