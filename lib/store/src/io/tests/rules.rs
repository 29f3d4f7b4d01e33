//! Rules that a store keeps by what it puts into one transaction, each taken away, on real files: the same order of events
//! is harmless with the rule and loses what was committed without it. (The rest of the rules are pure; theirs are beside
//! `core` and in `lib/sim`.)

use super::cluster::Cluster;
use super::follow::{at, claim, made, node, open, options, row, send};
use super::*;
use crate::core::commit::Tally;
use crate::core::copy::{Append, Refusal, promise};
use crate::core::list::List;
use crate::core::recover::{Answer, Choice, CopyState, choose};
use crate::core::row::{Position, Row, Term};
use crate::core::rules::{Rule, Rules};
use crate::core::settle::may_send;
use crate::io::copy::{Copy, CopyOptions};
use crate::io::sql::Db;
use crate::io::{admit, log};
use std::cell::RefCell;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

/// The members of every list here: the writer of epoch 1, the copy that is watched, the elector of a later epoch.
const MEMBERS: [u128; 3] = [1, 7, 3];

fn list() -> List {
    List { n: 1, prev: 0, members: MEMBERS.map(member).to_vec() }
}

/// Up to where the writer of `epoch` takes its log for committed, when it and the watched copy have `last`.
fn committed(epoch: u64, last: Index) -> Index {
    let term = Term { epoch, run: 1 };
    let mut tally = Tally::new(member(1), term, Index(1), (Index(0), list()), Index(0), Rules::ALL);
    tally.confirm(member(1).copy_id, term, last);
    tally.confirm(member(7).copy_id, term, last);
    tally.committed()
}

thread_local! {
    /// A promise that is written and not committed yet.
    static RIVAL: RefCell<Option<Db>> = const { RefCell::new(None) };
}

/// SQLite asks whether to wait: the file is locked, so whoever asks stands between what it has read and its transaction.
/// The promise is committed now.
fn rival_commits(_tries: i32) -> bool {
    RIVAL.take().is_some_and(|rival| rival.conn.execute_batch("COMMIT").is_ok())
}

/// Row 4 of epoch 1 comes to a copy that promises epoch 2 meanwhile, and told the elector that it ends at row 3. What the
/// copy answers, and its row 4 once epoch 2 has sent its own.
fn late_append(rules: Rules) -> (Result<Index, Refusal>, Row) {
    let (dir, mut copy) = made(LogKind::W, 7);
    send(&mut copy, 1, at(0, 0), (1..=3).map(|n| row(n, 1, &node(n))).collect(), 0).unwrap();
    drop(copy);
    let spec = LogKind::W.log_file();
    let open_log = || Db::open(spec, &spec.path(dir.path())).unwrap();
    let (rival, mut db) = (open_log(), open_log());
    rival.conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    let vote = log::vote(&rival.conn, spec.name).unwrap();
    log::put_vote(&rival.conn, spec.name, &promise(&vote, &claim(2, 0), Rules::ALL).unwrap()).unwrap();
    let told = log::last(&rival.conn, spec.name, &log::base(&rival.conn, spec.name).unwrap()).unwrap();
    assert_eq!(told, at(1, 3));
    RIVAL.set(Some(rival));
    db.conn.busy_handler(Some(rival_commits)).unwrap();
    let append = Append { claim: claim(1, 1), prev: told, rows: vec![row(4, 1, &node(4))], commit: Index(0) };
    let answer = match admit::append(&mut db, dir.path(), &append, Index(0), rules, |_, _| Ok(())) {
        Err(StoreError::Refused { why, .. }) => Err(why),
        other => Ok(other.unwrap()),
    };
    assert!(RIVAL.take().is_none(), "the promise came in between");
    drop(db);
    let mut copy = open(dir.path(), LogKind::W);
    assert_eq!(send(&mut copy, 2, told, vec![row(4, 2, &node(9))], 0), Ok(Index(4)));
    drop(copy);
    let db = Db::open_read(spec, &spec.path(dir.path())).unwrap();
    (answer, log::rows(&db.conn, spec.name, Index(3), 1, 1 << 20).unwrap().remove(0))
}

#[test]
fn an_append_must_read_the_vote_in_its_transaction() {
    let (answer, left) = late_append(Rules::ALL);
    assert_eq!(answer, Err(Refusal::Promised(Term { epoch: 2, run: 0 })));
    assert_eq!(left, row(4, 2, &node(9)));

    let (answer, left) = late_append(Rules::ALL.without(Rule::VoteInTransaction));
    assert_eq!(committed(1, answer.expect("confirmed to the old writer")), Index(4));
    assert_eq!(left, row(4, 2, &node(9)), "and row 4, which was committed, is gone");
}

const CHILD_DIR: &str = "GANTRY_STORE_TEST_RULE";
const CHILD_WEAK: &str = "GANTRY_STORE_TEST_RULE_WEAK";
/// Where the child dies with the rule, and without it.
const POINTS: [&str; 2] = ["append-to-commit", "append-row-by-row"];

fn tail_rules(weak: bool) -> Rules {
    if weak { Rules::ALL.without(Rule::TailInOneTransaction) } else { Rules::ALL }
}

/// Row 2 of epoch 2 comes to the copy in `dir`, which has rows 2 to 4 of epoch 1.
fn replace_tail(dir: &Path, weak: bool) -> Index {
    let opts = CopyOptions { rules: tail_rules(weak), ..options(LogKind::Q) };
    let mut copy = Copy::open(dir, opts).unwrap().unwrap();
    send(&mut copy, 2, at(1, 1), vec![row(2, 2, &node(9))], 1).unwrap()
}

/// Not a test of its own: the child process of the test below, which does nothing when run as a test.
#[test]
fn child_dies_replacing_a_tail() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    replace_tail(Path::new(&dir), std::env::var_os(CHILD_WEAK).is_some());
}

/// A copy dies while it replaces its tail, and is sent the same again. What the writer takes for committed then, what the
/// copy says where its log ends, and whose log a node goes on from that has all of epoch 1.
fn torn_tail(weak: bool) -> (Index, Position, u128) {
    let (dir, mut copy) = made(LogKind::Q, 7);
    send(&mut copy, 1, at(0, 0), (1..=4).map(|n| row(n, 1, &node(n))).collect(), 1).unwrap();
    drop(copy);
    let armed = TempDir::new().unwrap();
    let point = armed.path().join(POINTS[usize::from(weak)]);
    std::fs::write(&point, "").unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "io::tests::rules::child_dies_replacing_a_tail", "--nocapture"]);
    child.env(CHILD_DIR, dir.path()).env(gantry_crash::DIR_ENV, armed.path()).stdout(Stdio::null());
    if weak {
        child.env(CHILD_WEAK, "1");
    }
    assert_eq!(child.status().unwrap().signal(), Some(9), "it dies on the way");
    let confirmed = replace_tail(dir.path(), weak);
    let last = open(dir.path(), LogKind::Q).look().unwrap().last;
    let answer =
        |n, last| Answer { member: member(n), last, list: list(), commit: Index(1), state: CopyState::Sound };
    let answers = [answer(3, at(1, 5)), answer(7, last)];
    let Choice::Ready { best } = choose(&member(3), &answers, Rules::ALL) else { panic!("two of three") };
    (committed(2, confirmed), last, [3, 7][best])
}

#[test]
fn a_tail_must_be_replaced_in_one_transaction() {
    assert_eq!(torn_tail(false), (Index(2), at(2, 2), 7), "the next master goes on from what was committed");
    // Row 2 of epoch 2 is committed; behind it stands a tail of epoch 1, so a log without it looks longer.
    assert_eq!(torn_tail(true), (Index(2), at(1, 4), 3), "row 2 is lost");
}

/// A lease that rests on a task is written; its master dies. Whether the next one has the lease, and the task. `fed`: the
/// task was on a majority before.
fn lease_on_a_task(fed: bool, rules: Rules) -> (bool, bool) {
    let (mut w, mut q) = (Cluster::new(LogKind::W, 3), Cluster::new(LogKind::Q, 3));
    let leads = |cluster: &mut Cluster, at: usize, up: &[usize]| {
        let mut master = cluster.recover(at, up).unwrap();
        let first = *master.writer.appended().borrow();
        assert!(cluster.until(&mut master, up, first));
        master
    };
    let (mut leases, mut tasks) = (leads(&mut w, 0, &[0, 1, 2]), leads(&mut q, 0, &[0, 1, 2]));
    let task = tasks.writer.append(one(put("task", "t", 1, "{}"))).unwrap();
    if fed {
        assert!(q.until(&mut tasks, &[0, 1], task));
    }
    if may_send(task, tasks.writer.progress().borrow().committed, rules) {
        let lease = leases.writer.append(one(put("lease", "l", 1, "{}"))).unwrap();
        assert!(w.until(&mut leases, &[0, 1], lease), "it was acknowledged");
    }
    leases.writer.stop();
    tasks.writer.stop();
    let next = |cluster: &mut Cluster| {
        assert!(cluster.elect(1, &[1, 2]));
        leads(cluster, 1, &[1, 2]).writer.stop();
        cluster.objects(1)
    };
    let (leases, tasks) = (next(&mut w), next(&mut q));
    (leases.contains(&"lease/l@1".to_owned()), tasks.contains(&"task/t@1".to_owned()))
}

#[test]
fn what_rests_on_the_other_log_must_wait_for_it() {
    assert_eq!(lease_on_a_task(true, Rules::ALL), (true, true));
    assert_eq!(lease_on_a_task(false, Rules::ALL), (false, false));
    let weak = Rules::ALL.without(Rule::CauseFirst);
    assert_eq!(lease_on_a_task(false, weak), (true, false), "a lease for a task that nobody has");
}
