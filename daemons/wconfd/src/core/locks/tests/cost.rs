//! What releases cost, counted in requests looked at again. No clock: a count does not depend on the
//! machine.

use super::super::*;

/// As many jobs as a cluster is meant to run at once.
const JOBS: u32 = 5_000;

fn instance(job: u32) -> LockName {
    LockName::named(Level::Instance, &format!("i{job}")).expect("a lock name")
}

/// A table in which each job shares the big lock and holds an instance.
fn busy() -> LockTable<u32> {
    let mut table = LockTable::new();
    for job in 0..JOBS {
        let list = vec![(LockName::bgl(), Want::Shared), (instance(job), Want::Exclusive)];
        let answer = table.update_waiting(&job, 0, list).expect("a good request");
        assert_eq!(answer.outcome, Outcome::Granted);
    }
    table
}

fn wait(table: &mut LockTable<u32>, job: u32, list: Vec<(LockName, Want)>) {
    let answer = table.update_waiting(&job, 0, list).expect("a good request");
    assert!(matches!(answer.outcome, Outcome::Blocked(_)));
}

#[test]
fn a_release_without_waiters_looks_at_nobody() {
    let mut table = busy();
    for job in 0..JOBS {
        assert!(table.free_all(&job).granted.is_empty());
    }
    assert_eq!(table.retries(), 0);
    assert!(table.owners().is_empty());
}

#[test]
fn a_release_looks_at_the_waiter_of_that_lock_only() {
    let mut table = busy();
    for job in 0..JOBS {
        wait(&mut table, JOBS + job, vec![(instance(job), Want::Exclusive)]);
    }
    for job in 0..JOBS {
        assert_eq!(table.free_all(&job).granted, [JOBS + job]);
    }
    assert_eq!(table.retries(), u64::from(JOBS));
    table.check();
}

#[test]
fn waiters_for_everything_are_looked_at_when_the_last_holder_goes() {
    let mut table = busy();
    let set = LockName::set(Level::Instance).expect("a level with a group lock");
    wait(&mut table, JOBS, vec![(LockName::bgl(), Want::Exclusive)]);
    wait(&mut table, JOBS + 1, vec![(set.clone(), Want::Exclusive)]);
    wait(&mut table, JOBS + 2, vec![(set, Want::Shared)]);
    for job in 0..JOBS - 1 {
        assert!(table.free_all(&job).granted.is_empty());
    }
    assert_eq!(table.retries(), 0, "while one member is held nobody need be asked");
    assert_eq!(table.free_all(&(JOBS - 1)).granted, [JOBS, JOBS + 1]);
    // The third is let through by the members and stopped by the second, which took the group lock.
    assert_eq!(table.retries(), 3);
    assert_eq!(table.free_all(&(JOBS + 1)).granted, [JOBS + 2]);
    assert_eq!(table.retries(), 4);
}

#[test]
fn a_queue_for_one_lock_costs_one_look_per_release() {
    let mut table = LockTable::new();
    let node = LockName::named(Level::Node, "n").expect("a lock name");
    let list = vec![(node, Want::Exclusive)];
    let first = table.update_waiting(&0, 0, list.clone()).expect("a good request");
    assert_eq!(first.outcome, Outcome::Granted);
    for job in 1..JOBS {
        wait(&mut table, job, list.clone());
    }
    for job in 0..JOBS - 1 {
        assert_eq!(table.free_all(&job).granted, [job + 1]);
    }
    assert_eq!(table.retries(), u64::from(JOBS - 1));
}

#[test]
fn the_end_of_an_exclusive_big_lock_looks_at_each_waiter_once() {
    let mut table = LockTable::new();
    let first = table.update_waiting(&0, 0, vec![(LockName::bgl(), Want::Exclusive)]);
    assert!(first.is_ok_and(|answer| answer.outcome == Outcome::Granted));
    for job in 1..JOBS {
        wait(&mut table, job, vec![(LockName::bgl(), Want::Shared), (instance(job), Want::Exclusive)]);
    }
    assert_eq!(table.free_all(&0).granted.len(), usize::try_from(JOBS).expect("small") - 1);
    assert_eq!(table.retries(), u64::from(JOBS - 1));
    table.check();
}
