//! A writing process is killed; what it acknowledged must be found.

use super::*;
use crate::core::Rules;
use crate::core::row::Row;
use crate::io::sql::Db;
use crate::io::{admit, log};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

/// Set for the child: the directory in which it writes until it is killed.
const CHILD_DIR: &str = "GANTRY_STORE_TEST_DIR";
const CHILD_LOG: &str = "GANTRY_STORE_TEST_LOG";

/// Not a test of its own: the child process of the tests below, which does nothing when run as a test.
#[test]
fn child_writes_until_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let log = if std::env::var(CHILD_LOG).unwrap() == "W" { LogKind::W } else { LogKind::Q };
    let started = begin(Path::new(&dir), log);
    let mut out = std::io::stdout();
    for n in started.committed.0.. {
        let batch = vec![put("node", "counter", n, &n.to_string()), put("lease", &n.to_string(), 1, "{}")];
        let last =
            (0..n % 5).map(|k| started.writer.append(one(put("slot", &k.to_string(), n, "1"))).unwrap());
        last.for_each(drop);
        let idx = append_and_wait(&started, Batch::of(batch));
        writeln!(out, "\nack {idx} {n}").unwrap();
        out.flush().unwrap();
    }
}

/// Runs the child until it has acknowledged `acks` batches, kills it in its tracks, and returns the last
/// acknowledged index and counter.
fn killed_after(dir: &Path, log: LogKind, acks: usize) -> (u64, u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "io::tests::crash::child_writes_until_killed", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_LOG, format!("{log:?}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let seen: Vec<String> = lines.by_ref().filter(|l| l.starts_with("ack ")).take(acks).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let rest = lines.filter(|l| l.starts_with("ack "));
    let last = seen.into_iter().chain(rest).last().unwrap();
    let mut numbers = last.split(' ').skip(1).map(|n| n.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    for log in BOTH {
        let dir = born(log);
        for acks in [1, 17, 60] {
            let (idx, counter) = killed_after(dir.path(), log, acks);
            let started = begin(dir.path(), log);
            assert!(started.committed.0 > idx);
            let kept = started.objects.iter().find(|o| o.kind == "node").unwrap();
            assert!(kept.rev >= counter);
            let leases: Vec<u64> = leases(&started.objects);
            assert!(leases.contains(&counter));
            assert_eq!(leases.last(), Some(&kept.rev), "a batch is there in all its files or in none");
            let rows = crate::io::read::read_batches(dir.path(), log, Index(0), 100_000).unwrap().unwrap();
            assert_eq!(rows.len() as u64, started.committed.0);
            started.writer.stop();
        }
    }
}

fn leases(objects: &[Object]) -> Vec<u64> {
    let mut found: Vec<u64> =
        objects.iter().filter(|o| o.kind == "lease").map(|o| o.key.parse().unwrap()).collect();
    found.sort_unstable();
    found
}

/// The files as a crash of the machine between the flush of the log and the writing of the projections
/// leaves them: rows in the log which no projection has.
#[test]
fn rows_flushed_but_not_applied_are_applied_at_the_next_start() {
    let dir = born(LogKind::W);
    begin(dir.path(), LogKind::W).writer.stop();
    let spec = LogKind::W.log_file();
    let mut db = Db::open(spec, &spec.path(dir.path())).unwrap();
    let (base, vote) = (log::base(&db.conn, spec.name).unwrap(), log::vote(&db.conn, spec.name).unwrap());
    let last = log::last(&db.conn, spec.name, &base).unwrap();
    let row = |n: u64| Row {
        idx: Index(last.idx.0 + n),
        term: vote.promised,
        kind: crate::core::row::RowKind::Batch,
        body: one(put("slot", &n.to_string(), 1, "{}")).encode().unwrap(),
    };
    let claim = crate::core::copy::Claim {
        cluster: vote.cluster,
        history: vote.history,
        term: vote.promised,
        ballot: vote.ballot,
        nonce: vote.nonce,
    };
    let rows = (1..=2_500).map(row).collect();
    let append = crate::core::copy::Append { claim, prev: last, rows, commit: Index(0) };
    admit::append(&mut db, dir.path(), &append, last.idx, Rules::ALL, |_, _| Ok(())).unwrap();
    drop(db);
    assert_eq!(found(dir.path(), LogKind::W).len(), 2_501);
}
