//! A copy that takes rows, applies them and takes snapshots over is killed; what it answered must be found.

use super::follow::{at, claim, empty, node, open, row};
use super::*;
use crate::core::copy::Append;
use crate::core::row::Position;
use crate::io::copy::Copy;
use crate::io::look::Fetched;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const CHILD_DIR: &str = "GANTRY_STORE_TEST_COPY";
const CHILD_LOG: &str = "GANTRY_STORE_TEST_COPY_LOG";
/// The file a parent leaves for the child to take over when it is behind it.
const FEED: &str = "snapshot-to-take";

/// Not a test of its own: the child process of the test below, which does nothing when run as a test.
#[test]
fn child_follows_until_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let log = if std::env::var(CHILD_LOG).unwrap() == "W" { LogKind::W } else { LogKind::Q };
    let dir = Path::new(&dir);
    let mut copy = open(dir, log);
    let mut out = std::io::stdout();
    loop {
        let arrived = dir.join("arrived");
        if std::fs::copy(dir.join(FEED), &arrived).is_ok() {
            copy.snapshot_in(&claim(1, 1), &arrived).unwrap().unwrap();
        }
        let last = copy.look().unwrap().last;
        let rows = (1..=7).map(|n| row(last.idx.0 + n, 1, &node(last.idx.0 + n))).collect();
        let append = Append { claim: claim(1, 1), prev: last, rows, commit: Index(last.idx.0 + 3) };
        let idx = copy.append(&append).unwrap().unwrap();
        writeln!(out, "\nack {idx}").unwrap();
        out.flush().unwrap();
    }
}

fn killed_after(dir: &Path, log: LogKind, acks: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "io::tests::crash_follow::child_follows_until_killed", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_LOG, format!("{log:?}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let seen: Vec<String> = lines.by_ref().filter(|l| l.starts_with("ack ")).take(acks).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let last = seen.into_iter().chain(lines.filter(|l| l.starts_with("ack "))).last().unwrap();
    last.trim_start_matches("ack ").parse().unwrap()
}

#[test]
fn what_a_copy_answered_outlives_kill_9() {
    for log in BOTH {
        let dir = TempDir::new().unwrap();
        Copy::make(dir.path(), log, &empty(7)).unwrap();
        for acks in [1, 3, 9, 20] {
            let confirmed = killed_after(dir.path(), log, acks);
            let mut copy = open(dir.path(), log);
            let look = copy.look().unwrap();
            assert_eq!(look.damaged, None);
            assert!(look.last.idx.0 >= confirmed, "{:?} but {confirmed} was confirmed", look.last);
            assert!(look.applied <= look.last.idx);
            let Fetched::Rows(rows) = copy.fetch(&claim(1, 1), look.base, 1 << 24).unwrap().unwrap() else {
                panic!("rows")
            };
            assert_eq!(rows.last().map(|r| r.position()), Some(look.last));
            assert!(rows.iter().all(|r| *r == row(r.idx.0, 1, &node(r.idx.0))));
            // The next child takes over a snapshot of a copy that is a little further on.
            let ahead = TempDir::new().unwrap();
            Copy::make(ahead.path(), log, &empty(8)).unwrap();
            let mut other = open(ahead.path(), log);
            let end = look.last.idx.0 + 50;
            let rows = (1..=end).map(|n| row(n, 1, &node(n))).collect();
            let append = Append { claim: claim(1, 1), prev: Position::default(), rows, commit: Index(end) };
            assert_eq!(other.append(&append).unwrap(), Ok(Index(end)));
            let file = other.snapshot_out(&claim(1, 1)).unwrap().unwrap();
            assert_eq!(file.at, at(1, end));
            std::fs::copy(&file.path, dir.path().join(FEED)).unwrap();
        }
    }
}
