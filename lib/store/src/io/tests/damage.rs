use super::*;
use crate::core::Rules;
use crate::core::copy::{Claim, Refusal};
use crate::core::row::Term;
use crate::io::opened::Opened;
use crate::io::read::read_batches;
use crate::io::sql::Db;
use crate::io::{admit, log};

/// A stopped log with a few objects.
fn filled(log: LogKind) -> TempDir {
    let dir = born(log);
    let started = begin(dir.path(), log);
    append_and_wait(&started, one(put("node", "n1", 1, "{\"a\":1}")));
    append_and_wait(&started, one(put("slot", "s1", 1, "{\"b\":1}")));
    started.writer.stop();
    dir
}

fn is_damaged(dir: &Path, log: LogKind, file: &str, word: &str) {
    match refused(dir, log) {
        StoreError::Damaged { file: found, what } => {
            assert_eq!(found, file);
            assert!(what.contains(word), "{what}");
        }
        other => panic!("{}", other.chain()),
    }
}

#[test]
fn a_changed_row_is_noticed_wherever_it_is_read() {
    let changes = [
        ("object", "UPDATE object SET body = '{\"a\":2}' WHERE key = 'n1'", "object node/n1"),
        ("object", "UPDATE object SET rev = 7 WHERE key = 'n1'", "object node/n1"),
        ("object", "UPDATE object SET key = 'n2' WHERE key = 'n1'", "object node/n2"),
        ("applied", "UPDATE applied SET idx = idx - 1", "applied"),
        ("vote", "UPDATE vote SET promised_run = 0", "vote"),
        ("vote", "UPDATE vote SET token = x'00000000000000000000000000000000'", "vote"),
        ("vote", "DELETE FROM vote", "vote"),
        ("base", "UPDATE base SET gen = 3", "base"),
        ("list", "UPDATE log SET body = replace(body, '\"n\":1', '\"n\":2') WHERE kind = 'list'", "row 1"),
    ];
    for log in BOTH {
        for (table, sql, word) in changes {
            let dir = filled(log);
            let objects = matches!(table, "object" | "applied");
            let file = if log == LogKind::W && objects { "config.data" } else { log.log_file().name };
            assert!(sqlite(dir.path(), file).execute(sql, []).unwrap() > 0, "{sql}");
            is_damaged(dir.path(), log, file, word);
        }
    }
}

#[test]
fn a_changed_local_row_is_noticed() {
    let dir = born(LogKind::W);
    let started = begin(dir.path(), LogKind::W);
    let row = crate::io::writer::LocalChange { key: "a".into(), body: Some(b"1".to_vec()) };
    started.writer.local(vec![row]).unwrap();
    started.writer.stop();
    sqlite(dir.path(), "locks.data").execute("UPDATE local SET body = '2'", []).unwrap();
    is_damaged(dir.path(), LogKind::W, "locks.data", "local row a");
}

#[test]
fn a_changed_or_missing_row_is_noticed_by_readers_and_by_replay() {
    for (sql, word) in [
        ("UPDATE log SET body = replace(body, '1', '2') WHERE idx = 4", "row 4"),
        ("UPDATE log SET run = run + 1 WHERE idx = 4", "row 4"),
        ("DELETE FROM log WHERE idx = 4", "row 4 is missing"),
    ] {
        let dir = filled(LogKind::W);
        sqlite(dir.path(), "wconf.log").execute(sql, []).unwrap();
        let read = read_batches(dir.path(), LogKind::W, Index(0), 99).unwrap_err();
        assert!(matches!(&read, StoreError::Damaged { what, .. } if what.contains(word)), "{read}");
        std::fs::remove_file(dir.path().join("config.data")).unwrap();
        is_damaged(dir.path(), LogKind::W, "wconf.log", word);
    }
}

#[test]
fn flipped_bytes_of_a_file_never_go_unnoticed() {
    let dir = filled(LogKind::W);
    let path = dir.path().join("config.data");
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = b"{\"a\":1}";
    let at = bytes.windows(needle.len()).position(|w| w == needle).unwrap();
    bytes[at + 5] = b'9';
    std::fs::write(&path, bytes).unwrap();
    is_damaged(dir.path(), LogKind::W, "config.data", "object node/n1");
}

#[test]
fn a_lost_projection_is_made_again_from_the_log() {
    for file in ["config.data", "locks.data"] {
        let dir = filled(LogKind::W);
        let before = found(dir.path(), LogKind::W);
        std::fs::remove_file(dir.path().join(file)).unwrap();
        assert_eq!(found(dir.path(), LogKind::W), before);
    }
}

#[test]
fn a_projection_that_is_behind_is_brought_forward() {
    let dir = born(LogKind::W);
    let kept = dir.path().join("kept");
    let started = begin(dir.path(), LogKind::W);
    append_and_wait(&started, one(put("node", "n1", 1, "1")));
    started.writer.stop();
    std::fs::copy(dir.path().join("config.data"), &kept).unwrap();
    let started = begin(dir.path(), LogKind::W);
    append_and_wait(&started, Batch::of(vec![cut("node", "n1"), put("node", "n2", 1, "2")]));
    append_and_wait(&started, one(put("slot", "s", 1, "2")));
    started.writer.stop();
    std::fs::copy(&kept, dir.path().join("config.data")).unwrap();
    assert_eq!(names(&found(dir.path(), LogKind::W)), ["cluster/c@1", "node/n2@1", "slot/s@1"]);
}

#[test]
fn a_projection_ahead_of_its_log_is_refused() {
    let dir = born(LogKind::W);
    let kept = dir.path().join("kept");
    std::fs::copy(dir.path().join("wconf.log"), &kept).unwrap();
    let started = begin(dir.path(), LogKind::W);
    append_and_wait(&started, one(put("node", "n1", 1, "1")));
    append_and_wait(&started, one(put("node", "n2", 1, "1")));
    started.writer.stop();
    std::fs::copy(&kept, dir.path().join("wconf.log")).unwrap();
    is_damaged(dir.path(), LogKind::W, "wconf.log", "was flushed here and is gone");
    // Where nothing says how far it was flushed, as in one of an earlier release.
    std::fs::remove_file(dir.path().join("wconf.log.flushed")).unwrap();
    assert!(matches!(refused(dir.path(), LogKind::W), StoreError::Ahead { .. }));
}

#[test]
fn files_of_another_history_name_or_format_are_refused() {
    let dir = filled(LogKind::W);
    let other = TempDir::new().unwrap();
    let theirs = Birth { history: Uuid::from_u128(77), ..birth() };
    create(other.path(), LogKind::W, &theirs).unwrap();
    std::fs::copy(other.path().join("config.data"), dir.path().join("config.data")).unwrap();
    is_damaged(dir.path(), LogKind::W, "config.data", "another history");
    std::fs::copy(other.path().join("locks.data"), dir.path().join("config.data")).unwrap();
    is_damaged(dir.path(), LogKind::W, "config.data", "copy of locks.data");
    sqlite(dir.path(), "wconf.log").execute("UPDATE meta SET format = 9, min_reader = 9", []).unwrap();
    let newer = StoreError::Format { file: "wconf.log", format: 9, min_reader: 9 };
    assert_eq!(refused(dir.path(), LogKind::W).to_string(), newer.to_string());
    sqlite(dir.path(), "wconf.log").execute("UPDATE meta SET format = 1, min_reader = 1", []).unwrap();
    let older = refused(dir.path(), LogKind::W).to_string();
    assert!(older.starts_with("wconf.log has format 1, this program reads 2 and newer"), "{older}");
}

#[test]
fn a_newer_format_that_we_may_read_is_read() {
    let dir = filled(LogKind::Q);
    sqlite(dir.path(), "queue.data").execute("UPDATE meta SET format = 9", []).unwrap();
    begin(dir.path(), LogKind::Q).writer.stop();
}

#[test]
fn another_cluster_or_a_missing_log_is_refused() {
    let dir = filled(LogKind::Q);
    let wrong = StartOptions { cluster: Some(Uuid::from_u128(5)), ..StartOptions::new(LogKind::Q) };
    assert!(matches!(start(dir.path(), wrong), Err(StoreError::Cluster { .. })));
    assert!(matches!(refused(dir.path(), LogKind::W), StoreError::Missing { .. }));
}

#[test]
fn a_log_with_other_members_is_not_led_alone() {
    let dir = TempDir::new().unwrap();
    create(dir.path(), LogKind::W, &Birth { members: vec![member(1), member(2)], ..birth() }).unwrap();
    assert!(matches!(refused(dir.path(), LogKind::W), StoreError::NeedsOthers { members: 2 }));
    let none = Birth { members: vec![], ..birth() };
    assert!(matches!(create(dir.path(), LogKind::Q, &none), Err(StoreError::NotMember)));
}

fn claim(epoch: u64, run: u64, ballot: u8) -> Claim {
    let (cluster, history) = (birth().cluster, birth().history);
    Claim { cluster, history, term: Term { epoch, run }, ballot: [ballot; 16], nonce: [3; 16] }
}

#[test]
fn a_writer_that_finds_a_higher_promise_in_its_file_stops() {
    for log in BOTH {
        let dir = born(log);
        let started = begin(dir.path(), log);
        let idx = append_and_wait(&started, one(put("node", "n1", 1, "1")));
        let spec = log.log_file();
        let mut db = Db::open(spec, &spec.path(dir.path())).unwrap();
        admit::give_promise(&mut db, &claim(2, 0, 7), Rules::ALL).unwrap();
        let next = started.writer.append(one(put("node", "n2", 1, "1"))).unwrap();
        let reason = match started.writer.wait(next) {
            Err(StoreError::Failed { reason }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason.contains("term 2.0 is promised"), "{reason}");
        let progress = started.writer.progress().borrow().clone();
        assert_eq!((progress.committed, progress.failed), (idx, Some(reason)));
        assert!(matches!(started.writer.append(Batch::default()), Err(StoreError::Failed { .. })));
        started.writer.stop();
        assert_eq!(
            log::last(&db.conn, spec.name, &log::base(&db.conn, spec.name).unwrap()).unwrap().idx,
            idx
        );
    }
}

#[test]
fn a_promise_is_durable_and_an_older_one_is_refused() {
    let dir = born(LogKind::Q);
    let spec = LogKind::Q.log_file();
    let mut db = Db::open(spec, &spec.path(dir.path())).unwrap();
    admit::give_promise(&mut db, &claim(4, 0, 7), Rules::ALL).unwrap();
    let other = admit::give_promise(&mut db, &claim(4, 0, 8), Rules::ALL);
    assert!(matches!(other, Err(StoreError::Refused { why: Refusal::OtherBallot(4), .. })));
    let older = admit::give_promise(&mut db, &claim(3, 9, 7), Rules::ALL);
    assert!(matches!(older, Err(StoreError::Refused { why: Refusal::Promised(_), .. })));
    drop(db);
    let started = begin(dir.path(), LogKind::Q);
    assert_eq!((started.term, started.ballot), (Term { epoch: 4, run: 1 }, [7; 16]));
    started.writer.stop();
}

#[test]
fn a_failing_write_stops_the_writer() {
    let dir = born(LogKind::W);
    let started = begin(dir.path(), LogKind::W);
    sqlite(dir.path(), "config.data").execute_batch("DROP TABLE object").unwrap();
    let idx = started.writer.append(one(put("node", "n1", 1, "1"))).unwrap();
    assert!(matches!(started.writer.wait(idx), Err(StoreError::Failed { .. })));
    let failed = started.writer.progress().borrow().failed.clone().unwrap();
    assert!(failed.starts_with("config.data: cannot change an object"), "{failed}");
    started.writer.stop();
}

/// Rows that were applied long ago are needed by other copies only: beside others a writer that lost them must not confirm.
#[test]
fn a_damaged_row_keeps_a_log_from_being_led_beside_others_only() {
    const HURT: &str = "UPDATE log SET epoch = epoch + 1 WHERE idx = 2";
    for log in BOTH {
        let dir = filled(log);
        let before = found(dir.path(), log);
        assert_eq!(sqlite(dir.path(), log.log_file().name).execute(HURT, []).unwrap(), 1);
        assert_eq!(found(dir.path(), log), before, "alone it goes on");

        let mut cluster = super::cluster::Cluster::new(log, 3);
        assert!(cluster.elect(0, &[0, 1, 2]));
        cluster.recover(0, &[0, 1, 2]).unwrap().writer.stop();
        let dir = cluster.dir(0).to_owned();
        assert_eq!(sqlite(&dir, log.log_file().name).execute(HURT, []).unwrap(), 1);
        let why = Opened::open(&dir, StartOptions::new(log)).unwrap_err();
        assert!(matches!(&why, StoreError::Damaged { what, .. } if what.contains("row 2")), "{why}");
    }
}
