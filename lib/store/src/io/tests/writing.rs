use super::*;
use crate::core::list::List;
use crate::io::read::read_batches;
use crate::io::seed::seed;
use crate::io::writer::{LOCAL_BYTES_MAX, LocalChange, LocalSeq, QUEUE_BYTES_MAX};

#[test]
fn a_birth_is_found_again() {
    for log in BOTH {
        let dir = born(log);
        let started = begin(dir.path(), log);
        assert_eq!(names(&started.objects), ["cluster/c@1"]);
        assert_eq!((started.term.epoch, started.term.run), (1, 1));
        assert_eq!((started.cluster, started.history), (Uuid::from_u128(1), Uuid::from_u128(2)));
        assert_eq!((started.ballot, started.members), ([9; 16], vec![member(1)]));
        assert_eq!(started.committed, Index(3), "list, first batch, empty row");
        started.writer.stop();
    }
}

#[test]
fn create_touches_nothing_that_is_there() {
    for log in BOTH {
        let dir = born(log);
        let again = create(dir.path(), log, &birth());
        assert!(matches!(again, Err(StoreError::Exists { .. })));
        assert_eq!(names(&found(dir.path(), log)), ["cluster/c@1"]);
    }
}

#[test]
fn both_logs_live_in_one_directory() {
    let dir = born(LogKind::W);
    create(dir.path(), LogKind::Q, &birth()).unwrap();
    let (w, q) = (begin(dir.path(), LogKind::W), begin(dir.path(), LogKind::Q));
    append_and_wait(&w, one(put("node", "n", 1, "1")));
    append_and_wait(&q, one(put("job", "1", 1, "2")));
    w.writer.stop();
    q.writer.stop();
    assert_eq!(names(&found(dir.path(), LogKind::Q)), ["cluster/c@1", "job/1@1"]);
}

#[test]
fn what_was_left_of_a_crashed_birth_is_no_hindrance() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("wconf.log.new"), b"half a file").unwrap();
    std::fs::write(dir.path().join("wconf.log.new-wal"), b"half a file").unwrap();
    create(dir.path(), LogKind::W, &birth()).unwrap();
    assert_eq!(names(&found(dir.path(), LogKind::W)), ["cluster/c@1"]);
    let mut files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["config.data", "locks.data", "wconf.lock", "wconf.log", "wconf.log.flushed"]);
}

#[test]
fn changes_are_found_again_in_their_files() {
    let dir = born(LogKind::W);
    let started = begin(dir.path(), LogKind::W);
    let both = vec![put("node", "n1", 3, "{\"a\":1}"), put("lease", "l1", 1, "{}"), cut("cluster", "c")];
    assert_eq!(append_and_wait(&started, Batch::of(both)), Index(4));
    append_and_wait(&started, one(put("node", "n1", 4, "{\"a\":2}")));
    started.writer.stop();
    let count = |file, kind: &str| -> i64 {
        let sql = "SELECT count(*) FROM object WHERE kind = ?";
        sqlite(dir.path(), file).query_row(sql, [kind], |r| r.get(0)).unwrap()
    };
    assert_eq!([count("config.data", "node"), count("config.data", "lease")], [1, 0]);
    assert_eq!([count("locks.data", "node"), count("locks.data", "lease")], [0, 1]);
    let a: i64 = sqlite(dir.path(), "config.data")
        .query_row("SELECT json_extract(body, '$.a') FROM object WHERE key = 'n1'", [], |r| r.get(0))
        .unwrap();
    assert_eq!(a, 2, "anyone can look with SQLite's own JSON functions");
    assert_eq!(names(&found(dir.path(), LogKind::W)), ["lease/l1@1", "node/n1@4"]);
}

#[test]
fn each_start_has_a_higher_run() {
    for log in BOTH {
        let dir = born(log);
        let mut last = Index(0);
        for run in 1..=4 {
            let started = begin(dir.path(), log);
            assert_eq!((started.term.epoch, started.term.run), (1, run));
            assert!(started.committed > last);
            last = started.committed;
            started.writer.stop();
        }
    }
}

#[test]
fn a_second_writer_is_refused_with_the_pid_of_the_first() {
    for log in BOTH {
        let dir = born(log);
        let started = begin(dir.path(), log);
        let pid = match refused(dir.path(), log) {
            StoreError::Busy { pid, .. } => pid,
            other => panic!("{other}"),
        };
        assert_eq!(pid, Some(std::process::id()));
        started.writer.stop();
        begin(dir.path(), log).writer.stop();
    }
}

#[test]
fn what_queues_while_a_transaction_runs_shares_the_next() {
    for log in BOTH {
        let dir = born(log);
        let started = begin(dir.path(), log);
        let other = sqlite(dir.path(), log.log_file().name);
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let all: Vec<Index> = (0..100)
            .map(|n| started.writer.append(one(put("node", &n.to_string(), 1, "{}"))).unwrap())
            .collect();
        assert!(all.windows(2).all(|w| w[1] == w[0].next()));
        other.execute_batch("COMMIT").unwrap();
        started.writer.wait(all[99]).unwrap();
        let stats = started.writer.stats();
        assert_eq!(stats.batches, 100);
        assert!(stats.transactions <= 2, "{} transactions", stats.transactions);
        started.writer.stop();
        assert_eq!(found(dir.path(), log).len(), 101);
    }
}

#[test]
fn a_full_queue_refuses_and_loses_nothing() {
    let dir = born(LogKind::Q);
    let started = start(dir.path(), StartOptions { queue: 3, ..StartOptions::new(LogKind::Q) }).unwrap();
    let other = sqlite(dir.path(), "queue.data");
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (mut taken, mut full) = (Vec::new(), false);
    for n in 0..20 {
        match started.writer.append(one(put("job", &n.to_string(), 1, "{}"))) {
            Ok(idx) => taken.push(idx),
            Err(StoreError::Full) => full = true,
            Err(e) => panic!("{e}"),
        }
    }
    assert!(full && taken.len() >= 3);
    other.execute_batch("COMMIT").unwrap();
    started.writer.wait(*taken.last().unwrap()).unwrap();
    let next = append_and_wait(&started, one(put("job", "last", 1, "{}")));
    assert_eq!(next, taken.last().unwrap().next(), "a refused batch uses up no index");
    started.writer.stop();
    assert_eq!(found(dir.path(), LogKind::Q).len(), taken.len() + 2);
}

#[test]
fn a_bad_batch_is_refused_before_it_is_queued() {
    let dir = born(LogKind::Q);
    let started = begin(dir.path(), LogKind::Q);
    let bad = started.writer.append(one(put("job", "1", 1, "{")));
    assert!(matches!(bad, Err(StoreError::Batch(_))));
    append_and_wait(&started, one(put("job", "1", 1, "{}")));
    started.writer.stop();
}

#[test]
fn local_rows_are_kept_and_are_not_in_the_log() {
    let dir = born(LogKind::W);
    let started = begin(dir.path(), LogKind::W);
    let put = |key: &str, body: &str| LocalChange { key: key.into(), body: Some(body.as_bytes().to_vec()) };
    let first = started.writer.local(vec![put("a", "1"), put("b", "2")]).unwrap();
    started.writer.append(one(super::put("node", "n", 1, "{}"))).unwrap();
    let second =
        started.writer.local(vec![LocalChange { key: "a".into(), body: None }, put("b", "3")]).unwrap();
    assert_eq!((first, second), (LocalSeq(1), LocalSeq(2)));
    let progress = started.writer.progress();
    started.writer.stop();
    assert_eq!((progress.borrow().local, progress.borrow().committed), (LocalSeq(2), Index(4)));
    let again = begin(dir.path(), LogKind::W);
    let rows: Vec<_> = again.local.iter().map(|r| (r.key.as_str(), r.body.as_slice())).collect();
    assert_eq!(rows, [("b", b"3".as_slice())]);
    assert_eq!(again.committed, Index(5), "the first start's empty row, a batch, the second's empty row");
    again.writer.stop();
}

#[test]
fn queue_data_has_no_local_rows_and_bad_ones_are_refused() {
    let dir = born(LogKind::Q);
    let started = begin(dir.path(), LogKind::Q);
    assert!(matches!(started.writer.local(vec![]), Err(StoreError::NoLocal)));
    started.writer.stop();
    let dir = born(LogKind::W);
    let started = begin(dir.path(), LogKind::W);
    let bad = LocalChange { key: "k".into(), body: Some(vec![0xff]) };
    assert!(matches!(started.writer.local(vec![bad]), Err(StoreError::LocalRow { .. })));
    started.writer.stop();
}

#[test]
fn progress_is_awaited() {
    let dir = born(LogKind::W);
    let started = begin(dir.path(), LogKind::W);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut progress = started.writer.progress();
    let idx = started.writer.append(one(put("node", "n", 1, "{}"))).unwrap();
    let seen = runtime.block_on(async { progress.wait_for(|p| p.committed >= idx).await.unwrap().clone() });
    assert_eq!(seen.failed, None);
    started.writer.stop();
}

#[test]
fn a_stopped_writer_has_written_all_and_takes_no_more() {
    let dir = born(LogKind::W);
    let started = begin(dir.path(), LogKind::W);
    let other = started.writer.clone();
    let append = |n: u32| other.append(one(put("node", &n.to_string(), 1, "{}"))).unwrap();
    let idx = (0..50).map(append).fold(Index(0), Ord::max);
    assert_eq!(idx, Index(53));
    started.writer.stop();
    assert_eq!(other.progress().borrow().committed, idx);
    assert!(matches!(other.append(Batch::default()), Err(StoreError::Stopped)));
    assert!(matches!(other.wait(idx.next()), Err(StoreError::Stopped)));
    assert!(other.wait(idx).is_ok());
    other.stop();
}

#[test]
fn batches_are_read_beside_the_writer_without_gaps() {
    for log in BOTH {
        let dir = born(log);
        let started = begin(dir.path(), log);
        for n in 0..5 {
            append_and_wait(&started, one(put("node", &n.to_string(), n, "{}")));
        }
        let read = |from, limit| read_batches(dir.path(), log, Index(from), limit).unwrap().unwrap();
        let all = read(0, 100);
        assert_eq!(all.iter().map(|(i, _)| i.0).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
        assert_eq!([&all[0].1, &all[2].1], [&Batch::default(), &Batch::default()], "list and empty rows");
        assert_eq!(all[7].1, one(put("node", "4", 4, "{}")));
        assert_eq!(read(3, 2), all[3..5]);
        assert_eq!((read(8, 9), read(99, 9)), (vec![], vec![]));
        started.writer.stop();
        assert_eq!(read_batches(dir.path(), log, Index(0), 100).unwrap().unwrap(), all);
    }
}

#[test]
fn the_bulk_loader_goes_through_the_log() {
    let dir = born(LogKind::W);
    let changes = (0..250).map(|n| put("instance", &n.to_string(), 1, "{\"os\":\"noop\"}"));
    let last = seed(dir.path(), StartOptions::new(LogKind::W), changes, 100).unwrap();
    assert_eq!(last, Index(6), "three batches after the empty row");
    assert_eq!(found(dir.path(), LogKind::W).len(), 251);
}

#[test]
fn many_threads_append_at_once() {
    let dir = born(LogKind::Q);
    let started = begin(dir.path(), LogKind::Q);
    let mut all: Vec<Index> = std::thread::scope(|s| {
        let work = |t: u32| {
            let writer = started.writer.clone();
            move || {
                let key = |n: u32| format!("{t}-{n}");
                (0..50).map(|n| writer.append(one(put("job", &key(n), 1, "{}"))).unwrap()).collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = (0..8).map(|t| s.spawn(work(t))).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    all.sort();
    assert_eq!(all, (4..404).map(Index).collect::<Vec<_>>());
    started.writer.wait(Index(403)).unwrap();
    started.writer.stop();
    assert_eq!(found(dir.path(), LogKind::Q).len(), 401);
}

#[test]
fn a_dropped_writer_writes_what_is_queued() {
    let dir = born(LogKind::W);
    let started = begin(dir.path(), LogKind::W);
    let mut progress = started.writer.progress();
    let idx = started.writer.append(one(put("node", "n", 1, "{}"))).unwrap();
    drop(started);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { while progress.changed().await.is_ok() {} });
    assert_eq!(progress.borrow().committed, idx);
    assert_eq!(names(&found(dir.path(), LogKind::W)), ["cluster/c@1", "node/n@1"]);
}

#[test]
fn who_looks_at_the_last_index_wakes_nobody() {
    let dir = TempDir::new().unwrap();
    create(dir.path(), LogKind::W, &birth()).unwrap();
    let started = begin(dir.path(), LogKind::W);
    let mut seen = started.writer.appended();
    seen.mark_unchanged();
    let again = started.writer.appended();
    assert!(!seen.has_changed().unwrap());
    drop(again);
    let idx = started.writer.append(Batch::of(vec![put("cluster", "d", 1, "{}")])).unwrap();
    assert!(seen.has_changed().unwrap());
    assert_eq!(*seen.borrow_and_update(), idx);
    started.writer.stop();
}

/// A second member that never answers by itself: nothing is committed that `confirm` is not told of.
fn second_member(started: &Started) -> Uuid {
    let n = started.writer.list().1.n;
    let other = member(2);
    let list = List { n: n + 1, prev: n, members: vec![started.members[0], other] };
    started.writer.append_list(list).unwrap();
    other.copy_id
}

#[test]
fn local_rows_that_wait_for_a_majority_are_bounded_and_none_is_lost() {
    const MOST: usize = 50;
    let dir = born(LogKind::W);
    let started = start(dir.path(), StartOptions { queue: MOST, ..StartOptions::new(LogKind::W) }).unwrap();
    let other = second_member(&started);
    let held = started.writer.append(one(put("node", "n", 1, "{}"))).unwrap();
    let row = |n: usize| LocalChange { key: format!("k{n}"), body: Some(b"1".to_vec()) };
    let (mut taken, mut full) = (0, false);
    for n in 0..10 * MOST {
        match started.writer.local(vec![row(n)]) {
            Ok(_) => taken += 1,
            Err(StoreError::Full) => full = true,
            Err(e) => panic!("{e}"),
        }
    }
    assert!(full && taken < MOST as u64, "{taken} of {MOST} were taken beside a batch and a list");
    assert_eq!(started.writer.progress().borrow().local, LocalSeq(0), "none before what was queued first");
    started.writer.confirm(other, started.term, held);
    started.writer.wait(held).unwrap();
    let more = started.writer.local(vec![row(MOST * 10)]).unwrap();
    assert_eq!(more, LocalSeq(taken + 1), "a refused change uses up no number");
    started.writer.stop();
    assert_eq!(local_rows(dir.path()), taken + 1, "all that was taken, and the last");
}

#[test]
fn what_was_written_of_local_rows_takes_no_room_though_the_queue_is_never_empty() {
    let dir = born(LogKind::W);
    let started = begin(dir.path(), LogKind::W);
    let other = second_member(&started);
    let body = vec![b'x'; LOCAL_BYTES_MAX];
    let mut waits = started.writer.append(one(put("node", "n0", 1, "{}"))).unwrap();
    // Half as much again as may wait at once.
    for n in 0..QUEUE_BYTES_MAX / LOCAL_BYTES_MAX * 3 / 2 {
        let change = LocalChange { key: "k".into(), body: Some(body.clone()) };
        started.writer.local(vec![change]).unwrap();
        let next = started.writer.append(one(put("node", &format!("n{}", n + 1), 1, "{}"))).unwrap();
        started.writer.confirm(other, started.term, waits);
        started.writer.wait(waits).unwrap();
        waits = next;
    }
    started.writer.stop();
}

fn local_rows(dir: &Path) -> u64 {
    let locks = sqlite(dir, "locks.data");
    let rows: i64 = locks.query_row("SELECT count(*) FROM local", [], |row| row.get(0)).unwrap();
    rows.unsigned_abs()
}
