//! Rows forgotten, and snapshots for those who lack them.

use super::cluster::{Cluster, SOON};
use super::follow::{at, claim, made, node, open, options, row, send};
use super::*;
use crate::core::compact::{KEEP_ROWS, WORTH_ROWS};
use crate::core::row::{Row, RowKind, Term};
use crate::core::token::TokenRow;
use crate::io::copy::Copy;
use crate::io::feed::Shipment;
use std::time::Instant;

/// A writer alone with so many rows that some may go, and that has forgotten them.
fn compacted(log: LogKind) -> (TempDir, Started) {
    let dir = born(log);
    let started = begin(dir.path(), log);
    let token = TokenRow { copy_id: member(9).copy_id, old: None, new: [4; 16] };
    started.writer.append_token(&token).unwrap();
    let many = KEEP_ROWS + 2 * WORTH_ROWS;
    let last = (0..many)
        .map(|n| started.writer.append(one(put("node", &(n % 50).to_string(), n, "{}"))).unwrap())
        .fold(Index(0), Ord::max);
    started.writer.wait(last).unwrap();
    started.writer.compact(last);
    let begun = Instant::now();
    while !matches!(started.writer.batch_after(Index(1), 1, 1).unwrap(), Shipment::Compacted(_)) {
        assert!(begun.elapsed() < SOON, "nothing is forgotten");
        std::thread::yield_now();
    }
    (dir, started)
}

#[test]
fn rows_are_forgotten_and_what_must_outlive_them_stays() {
    for log in BOTH {
        let (dir, started) = compacted(log);
        let idx = append_and_wait(&started, one(put("node", "last", 1, "{}")));
        let records = started.writer.tokens().unwrap();
        assert_eq!(records.of(&member(9).copy_id).unwrap().new, [4; 16], "its row is gone");
        started.writer.stop();
        assert_eq!(crate::io::read::read_batches(dir.path(), log, Index(0), 9).unwrap(), None);
        let again = begin(dir.path(), log);
        assert_eq!(again.members, [member(1)], "the list of the first row");
        assert_eq!(again.objects.len(), 52);
        assert_eq!(again.committed, idx.next());
        again.writer.stop();
        if log == LogKind::W {
            std::fs::remove_file(dir.path().join("config.data")).unwrap();
            assert!(matches!(refused(dir.path(), log), StoreError::Missing { .. }), "rows are gone");
        }
    }
}

#[test]
fn a_copy_far_behind_takes_a_snapshot_and_goes_on_with_rows() {
    for log in BOTH {
        let (_dir, started) = compacted(log);
        let writer = started.writer;
        let (here, mut copy) = made(log, 7);
        let file = writer.snapshot().unwrap();
        let bytes = std::fs::read(&file.path).unwrap();
        assert_eq!((bytes.len() as u64, crc32fast::hash(&bytes)), (file.bytes, file.crc));
        let arrived = here.path().join("arrived");
        for broken in 0..3 {
            let mut bytes = bytes.clone();
            match broken {
                0 => bytes.truncate(bytes.len() - 20),
                1 => {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                }
                _ => bytes.push(0),
            }
            std::fs::write(&arrived, bytes).unwrap();
            assert!(copy.snapshot_in(&writer.claim(), &arrived).is_err());
            assert_eq!(copy.look().unwrap().applied, Index(0), "the copy is as it was");
        }
        std::fs::write(&arrived, &bytes).unwrap();
        assert_eq!(copy.snapshot_in(&writer.claim(), &arrived).unwrap(), Ok(file.at));
        let look = copy.look().unwrap();
        assert_eq!((look.base, look.last, look.applied), (file.at, file.at, file.at.idx));
        assert_eq!(look.list.1.members, [member(1)]);
        assert!(look.tokens.of(&member(9).copy_id).is_some());
        let idx = writer.append(one(put("node", "after", 1, "{}"))).unwrap();
        writer.wait(idx).unwrap();
        let Shipment::Rows { prev, rows, commit } = writer.batch_after(file.at.idx, 1 << 20, 99).unwrap()
        else {
            panic!("rows")
        };
        let append = crate::core::copy::Append { claim: writer.claim(), prev, rows, commit };
        assert_eq!(copy.append(&append).unwrap(), Ok(idx));
        std::fs::write(&arrived, &bytes).unwrap();
        let again = copy.snapshot_in(&writer.claim(), &arrived).unwrap().unwrap();
        assert_eq!(again.idx, idx, "it has all the snapshot says: nothing is done");
        copy.promise(&claim(200, 1)).unwrap().unwrap();
        std::fs::write(&arrived, &bytes).unwrap();
        assert!(copy.snapshot_in(&writer.claim(), &arrived).unwrap().is_err(), "promised more meanwhile");
        drop(copy);
        assert_eq!(open(here.path(), log).look().unwrap().last.idx, idx);
        writer.stop();
    }
}

/// The files as a crash after the first transaction leaves them: the log is of the snapshot's generation, the
/// objects are not.
#[test]
fn a_start_carries_on_a_snapshot_that_was_being_taken_over() {
    let (here, mut copy) = made(LogKind::W, 7);
    send(&mut copy, 0, at(0, 0), vec![row(1, 0, &node(1))], 1).unwrap();
    drop(copy);
    let before = TempDir::new().unwrap();
    for file in ["config.data", "locks.data"] {
        std::fs::copy(here.path().join(file), before.path().join(file)).unwrap();
    }
    let (_dir, started) = compacted(LogKind::W);
    let file = started.writer.snapshot().unwrap();
    let mut copy = open(here.path(), LogKind::W);
    let arrived = here.path().join("arrived");
    std::fs::copy(&file.path, &arrived).unwrap();
    copy.snapshot_in(&started.writer.claim(), &arrived).unwrap().unwrap();
    drop(copy);
    for file in ["config.data", "locks.data"] {
        std::fs::copy(before.path().join(file), here.path().join(file)).unwrap();
    }
    let lost = Copy::open(here.path(), options(LogKind::W)).unwrap().unwrap().look().unwrap();
    assert!(lost.damaged.is_some(), "no side file: it must not serve the old objects under the new base");
    std::fs::copy(&file.path, here.path().join("wconf.log.side-1")).unwrap();
    std::fs::copy(&file.path, here.path().join("wconf.log.side-2")).unwrap();
    let look = open(here.path(), LogKind::W).look().unwrap();
    assert_eq!((look.applied, look.damaged), (file.at.idx, None));
    let sides = std::fs::read_dir(here.path())
        .unwrap()
        .filter(|f| f.as_ref().unwrap().file_name().to_str().unwrap().contains(".side-"));
    assert_eq!(sides.count(), 0);
    started.writer.stop();
}

#[test]
fn a_copy_forgets_rows_by_itself() {
    let (_here, mut copy) = made(LogKind::Q, 7);
    let many = KEEP_ROWS + 3 * WORTH_ROWS;
    let mut prev = at(0, 0);
    for piece in 0..many / 1_000 {
        let rows: Vec<Row> = (1..=1_000)
            .map(|n| Row {
                idx: Index(piece * 1_000 + n),
                term: Term { epoch: 1, run: 1 },
                kind: RowKind::Empty,
                body: vec![],
            })
            .collect();
        let end = rows[999].position();
        send(&mut copy, 1, prev, rows, end.idx.0).unwrap();
        prev = end;
    }
    let look = copy.look().unwrap();
    assert!(look.base.idx.0 >= WORTH_ROWS && look.base.idx.0 + KEEP_ROWS <= many, "{:?}", look.base);
}

#[test]
fn a_recovering_writer_takes_a_snapshot_from_a_best_copy_that_has_forgotten() {
    let mut cluster = Cluster::new(LogKind::Q, 3);
    let mut master = cluster.recover(0, &[0, 1, 2]).unwrap();
    cluster.bytes = 1 << 20;
    for many in [KEEP_ROWS + 2 * WORTH_ROWS, 2 * WORTH_ROWS] {
        let last = (0..many)
            .map(|n| master.writer.append(one(put("job", &(n % 50).to_string(), n, "{}"))).unwrap())
            .fold(Index(0), Ord::max);
        assert!(cluster.until(&mut master, &[0, 1], last));
    }
    cluster.feed(&mut master, 1);
    master.writer.stop();
    assert!(cluster.nodes[1].copy.look().unwrap().base.idx > Index(0), "the best copy has forgotten rows");
    assert!(cluster.elect(2, &[1, 2]));
    let mut next = cluster.recover(2, &[1, 2]).unwrap();
    let idx = next.writer.append(one(put("job", "x", 1, "{}"))).unwrap();
    assert!(cluster.until(&mut next, &[1, 2], idx));
    assert_eq!(cluster.objects(2).len(), 52);
    next.writer.stop();
}
