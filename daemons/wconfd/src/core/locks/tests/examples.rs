//! Single cases: names, errors, and what jobs do.

use super::super::name::NAME_BYTES_MAX;
use super::super::request::LOCKS_PER_REQUEST_MAX;
use super::super::rule::HELD_PER_OWNER_MAX;
use super::super::*;
use super::wants;
use std::collections::BTreeSet;

fn lock(text: &str) -> LockName {
    text.parse().expect("a lock name")
}

fn granted(table: &mut LockTable<u32>, owner: u32, text: &str) {
    let answer = table.update_waiting(&owner, 0, wants(text)).expect("a good request");
    assert_eq!(answer.outcome, Outcome::Granted, "{text}");
    assert!(answer.step.granted.is_empty(), "{text} lets nobody through");
    table.check();
}

fn waits(table: &mut LockTable<u32>, owner: u32, priority: i32, text: &str) -> Vec<u32> {
    let answer = table.update_waiting(&owner, priority, wants(text)).expect("a good request");
    table.check();
    assert!(answer.step.is_empty(), "who waits changes nothing");
    match answer.outcome {
        Outcome::Blocked(blockers) => blockers.into_iter().collect(),
        Outcome::Granted => panic!("{text} was granted"),
    }
}

#[test]
fn names_are_ordered_by_level_then_group_then_name() {
    let sorted = [
        "cluster/[lockset]",
        "cluster/BGL",
        "instance/[lockset]",
        "instance/Alpha.example.com",
        "instance/beta.example.com",
        "nodegroup/[lockset]",
        "nodegroup/0a",
        "node/[lockset]",
        "node/0a",
        "node-res/[lockset]",
        "node-res/0a",
        "network/[lockset]",
        "network/0a",
        "cluster/config",
    ];
    let names: Vec<LockName> = sorted.iter().map(|text| lock(text)).collect();
    assert!(names.is_sorted());
    let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
    assert_eq!(texts, sorted);
    assert_eq!(names[1], LockName::bgl());
    assert_eq!(names[13], LockName::config());
    assert_eq!(names[13].group(), None);
    assert_eq!(names[1].group(), Some(names[0].clone()));
    assert_eq!(LockName::set(Level::Config), None);
    assert_eq!(LockName::set(Level::NodeRes), Some(lock("node-res/[lockset]")));
}

#[test]
fn bad_names_are_refused() {
    let bad = [
        "",
        "node",
        "node/",
        "/a",
        "nodes/a",
        "cluster/x",
        "config/config",
        "config/[lockset]",
        "instance/a/b",
        "instance/a b",
        "instance/a\n",
    ];
    for text in bad {
        assert!(text.parse::<LockName>().is_err(), "{text:?}");
    }
    assert!(LockName::named(Level::Node, "[lockset]").is_err());
    assert!(LockName::named(Level::Cluster, "[lockset]").is_err());
    assert!(LockName::named(Level::Node, &"n".repeat(NAME_BYTES_MAX)).is_ok());
    assert_eq!(
        LockName::named(Level::Node, &"n".repeat(NAME_BYTES_MAX + 1)),
        Err(NameError::BadLength { level: Level::Node, bytes: NAME_BYTES_MAX + 1 })
    );
}

#[test]
fn the_json_forms_are_those_of_the_lock_protocol() {
    let list = wants("cluster/BGL=S instance/a=X node/[lockset]=- cluster/config=X");
    let json = serde_json::to_string(&list).expect("plain data");
    assert_eq!(
        json,
        r#"[["cluster/BGL","shared"],["instance/a","exclusive"],["node/[lockset]","release"],["cluster/config","exclusive"]]"#
    );
    assert_eq!(serde_json::from_str::<Vec<(LockName, Want)>>(&json).expect("our own"), list);
    assert!(serde_json::from_str::<LockName>("\"node/a/b\"").is_err());
    for level in Level::ALL {
        let json = serde_json::to_string(&level).expect("plain data");
        assert_eq!(json, format!("\"{level}\""));
        assert_eq!(level.as_str().parse(), Ok(level));
    }
}

#[test]
fn requests_are_canonical_and_bounded() {
    let a = Wants::new(wants("node/a=X cluster/BGL=S node/a=X"));
    assert_eq!(a, Wants::new(wants("cluster/BGL=S node/a=X")));
    assert_eq!(Wants::new(wants("node/a=X node/a=S")), Err(LockError::Inconsistent { lock: lock("node/a") }));
    let many = |count: usize| -> Vec<_> {
        (0..count)
            .map(|i| (LockName::named(Level::Node, &i.to_string()).expect("a name"), Want::Shared))
            .collect()
    };
    assert!(Wants::new(many(LOCKS_PER_REQUEST_MAX)).is_ok());
    let count = LOCKS_PER_REQUEST_MAX + 1;
    assert_eq!(Wants::new(many(count)), Err(LockError::TooMany { count }));
}

#[test]
fn one_owner_holds_a_bounded_number_of_locks() {
    let many = (0..HELD_PER_OWNER_MAX)
        .map(|i| (7, LockName::named(Level::Instance, &i.to_string()).expect("a name"), Mode::Shared));
    let mut table = LockTable::restore(many).expect("they fit");
    let count = HELD_PER_OWNER_MAX + 1;
    assert_eq!(table.update(&7, wants("node/a=S")), Err(LockError::TooManyHeld { count }));
    assert_eq!(table.free_level(&7, Level::Instance).held.len(), HELD_PER_OWNER_MAX);
    granted(&mut table, 7, "node/a=S");
}

#[test]
fn rules_are_enforced() {
    let mut table = LockTable::new();
    granted(&mut table, 1, "cluster/BGL=S node/[lockset]=S network/n=X");
    let highest = lock("network/n");
    let order = |text: &str| Err(LockError::Order { lock: lock(text), highest: highest.clone() });
    assert_eq!(table.update(&1, wants("instance/a=S")), order("instance/a"));
    assert_eq!(table.update(&1, wants("cluster/BGL=X")), order("cluster/BGL"));
    assert_eq!(
        table.update(&1, wants("node/a=X")),
        Err(LockError::GroupShared { lock: lock("node/a"), group: lock("node/[lockset]") })
    );
    // Covered by the group lock, repeated, downgraded, released, or higher: all fine.
    granted(&mut table, 1, "node/a=S cluster/BGL=S network/n=S instance/zzz=-");
    granted(&mut table, 1, "cluster/config=X");
    assert_eq!(
        table.update(&2, wants("network/n=X")).map(|answer| answer.outcome),
        Ok(Outcome::Blocked(BTreeSet::from([1])))
    );
}

#[test]
fn an_upgrade_is_granted_when_free_and_never_waits() {
    let mut table = LockTable::new();
    granted(&mut table, 1, "node/a=S");
    granted(&mut table, 1, "node/a=X");
    granted(&mut table, 1, "node/a=S");
    granted(&mut table, 2, "node/a=S");
    let refused = Err(LockError::UpgradeWaits { lock: lock("node/a") });
    assert_eq!(table.update_waiting(&1, 0, wants("node/a=X")), refused);
    assert_eq!(table.pending(&1), None);
    // Tried without waiting it is an ordinary request.
    let tried = table.update(&1, wants("node/a=X")).map(|answer| answer.outcome);
    assert_eq!(tried, Ok(Outcome::Blocked(BTreeSet::from([2]))));
}

#[test]
fn a_group_lock_stands_for_its_members() {
    let mut table = LockTable::new();
    granted(&mut table, 1, "instance/a=S");
    granted(&mut table, 2, "instance/b=X");
    assert_eq!(waits(&mut table, 3, 0, "instance/[lockset]=S"), [2]);
    assert_eq!(waits(&mut table, 4, 0, "instance/[lockset]=X"), [1, 2]);
    assert_eq!(table.free_all(&2).granted, [3]);
    // The shared group lock lets sharers of members in and keeps the others out.
    granted(&mut table, 5, "instance/b=S");
    assert_eq!(waits(&mut table, 6, 0, "instance/c=X"), [3]);
    assert_eq!(table.blockers(&4), BTreeSet::from([1, 3, 5]));
    assert_eq!(table.free_all(&3).granted, [6]);
    table.check();
}

#[test]
fn grants_go_by_priority_then_owner_and_pass_on() {
    let mut table = LockTable::new();
    granted(&mut table, 1, "node/a=X");
    granted(&mut table, 2, "instance/i=X");
    // 2 waits for the node and gives its instance up with it, which 5 waits for.
    assert_eq!(waits(&mut table, 2, 3, "instance/i=- node/a=S"), [1]);
    assert_eq!(waits(&mut table, 5, -7, "instance/i=X"), [2]);
    assert_eq!(waits(&mut table, 4, 2, "node/a=S"), [1]);
    assert_eq!(waits(&mut table, 3, 2, "node/a=S"), [1]);
    assert_eq!(waits(&mut table, 6, 5, "node/a=X"), [1]);
    let step = table.free_all(&1);
    assert_eq!(step.granted, [3, 4, 2, 5]);
    let told: Vec<String> =
        step.held.iter().map(|c| format!("{} {} {:?}", c.owner, c.lock, c.mode)).collect();
    assert_eq!(
        told,
        [
            "1 node/a None",
            "3 node/a Some(Shared)",
            "4 node/a Some(Shared)",
            "2 instance/i None",
            "2 node/a Some(Shared)",
            "5 instance/i Some(Exclusive)",
        ]
    );
    assert_eq!(table.blockers(&6), BTreeSet::from([2, 3, 4]));
}

#[test]
fn a_waiting_urgent_request_does_not_hold_up_what_is_free() {
    let mut table = LockTable::new();
    granted(&mut table, 1, "cluster/BGL=S");
    assert_eq!(waits(&mut table, 2, -20, "cluster/BGL=X"), [1]);
    granted(&mut table, 3, "cluster/BGL=S");
    assert_eq!(table.blockers(&2), BTreeSet::from([1, 3]));
}

#[test]
fn a_changed_priority_changes_the_order_of_grants() {
    let mut table = LockTable::new();
    granted(&mut table, 1, "node/a=X");
    waits(&mut table, 2, 0, "node/a=X");
    waits(&mut table, 3, 0, "node/a=X");
    assert!(table.set_priority(&3, -1));
    assert!(!table.set_priority(&1, -1));
    assert_eq!(table.pending(&3).map(|p| p.priority), Some(-1));
    assert_eq!(table.free_all(&1).granted, [3]);
}

#[test]
fn a_withdrawn_request_is_never_granted() {
    let mut table = LockTable::new();
    granted(&mut table, 1, "node/a=X");
    granted(&mut table, 2, "instance/i=X");
    waits(&mut table, 2, 0, "node/a=X");
    assert!(table.withdraw(&2));
    assert!(!table.withdraw(&2));
    assert!(table.free_all(&1).granted.is_empty());
    assert_eq!(table.held(&2).map(|(lock, _)| lock.to_string()).collect::<Vec<_>>(), ["instance/i"]);
}

#[test]
fn releasing_commands_keep_what_they_should() {
    let names = |table: &LockTable<u32>| -> Vec<String> {
        table.held(&1).map(|(lock, mode)| format!("{lock} {mode}")).collect()
    };
    let mut table = LockTable::new();
    granted(&mut table, 1, "cluster/BGL=S node/a=X node/b=X node-res/a=X");
    waits(&mut table, 2, 0, "node/b=S");
    let step = table.keep_only(&1, &BTreeSet::from([LockName::bgl(), lock("node/b"), lock("node/z")]));
    assert_eq!((step.granted.len(), step.held.len()), (0, 2));
    assert_eq!(names(&table), ["cluster/BGL shared", "node/b exclusive"]);
    assert_eq!(table.downgrade_level(&1, Level::Node).granted, [2]);
    assert_eq!(names(&table), ["cluster/BGL shared", "node/b shared"]);
    assert!(table.downgrade_level(&1, Level::Node).is_empty());
    assert_eq!(table.free_level(&1, Level::Cluster).held.len(), 1);
    assert_eq!(names(&table), ["node/b shared"]);
    assert!(table.free_all(&9).is_empty());
}

#[test]
fn the_reason_to_wait_can_be_told() {
    let mut table = LockTable::new();
    granted(&mut table, 12, "instance/x=X");
    waits(&mut table, 13, 0, "cluster/BGL=S instance/x=X");
    let pending = table.pending(&13).expect("it waits");
    assert_eq!(pending.wanted, &lock("instance/x"));
    assert_eq!(table.blockers(&13), BTreeSet::from([12]));
    assert_eq!(table.blockers(&12), BTreeSet::new());
}

#[test]
fn rows_are_those_of_the_lock_query() {
    let mut table = LockTable::new();
    granted(&mut table, 82, "cluster/BGL=S node/n=X");
    granted(&mut table, 83, "cluster/BGL=S");
    waits(&mut table, 83, 0, "node/n=X");
    let rows: Vec<_> = table
        .rows()
        .into_iter()
        .map(|row| {
            let pending: Vec<_> = row.pending.iter().map(|w| (w.mode, w.owner)).collect();
            (row.name.to_string(), row.mode, row.owners, pending)
        })
        .collect();
    let x = Mode::Exclusive;
    assert_eq!(
        rows,
        [
            ("cluster/[lockset]".to_owned(), None, vec![], vec![]),
            ("cluster/BGL".to_owned(), Some(Mode::Shared), vec![82, 83], vec![]),
            ("node/[lockset]".to_owned(), None, vec![], vec![]),
            ("node/n".to_owned(), Some(x), vec![82], vec![(x, 83)]),
        ]
    );
}

#[test]
fn restore_refuses_what_cannot_be() {
    let (s, x) = (Mode::Shared, Mode::Exclusive);
    let restore = |list: &[(u32, &str, Mode)]| {
        LockTable::restore(list.iter().map(|(owner, text, mode)| (*owner, lock(text), *mode))).err()
    };
    assert_eq!(restore(&[(1, "node/a", s), (2, "node/a", s), (1, "node/a", s)]), None);
    let conflict = |text| Some(LockError::Conflict { lock: lock(text) });
    assert_eq!(restore(&[(1, "node/a", s), (2, "node/a", x)]), conflict("node/a"));
    assert_eq!(restore(&[(1, "node/a", x), (2, "node/[lockset]", s)]), conflict("node/[lockset]"));
    assert_eq!(restore(&[(2, "node/[lockset]", x), (1, "node/a", s)]), conflict("node/a"));
    let twice = restore(&[(1, "node/a", s), (1, "node/a", x)]);
    assert_eq!(twice, Some(LockError::Inconsistent { lock: lock("node/a") }));
}
