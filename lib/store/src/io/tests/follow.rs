//! A copy that follows: promises, rows, tokens, bodies, what goes aside, what it says when it is damaged.

use super::*;
use crate::core::Rules;
use crate::core::copy::{Append, Claim, Refusal};
use crate::core::list::List;
use crate::core::row::{Digest, Position, Row, RowKind, Term};
use crate::core::token::{Suspicion, TokenRow, judge};
use crate::io::copy::{Copy, CopyOptions, EmptyCopy};
use crate::io::look::{AppendRefusal, Bodies, Fetched, NoBodies};
use std::sync::{Arc, Mutex};

pub fn claim(epoch: u64, run: u64) -> Claim {
    Claim {
        cluster: Uuid::from_u128(1),
        history: Uuid::from_u128(2),
        term: Term { epoch, run },
        ballot: [u8::try_from(epoch).unwrap(); 16],
        nonce: [u8::try_from(run).unwrap(); 16],
    }
}

pub fn empty(n: u128) -> EmptyCopy {
    EmptyCopy { cluster: Uuid::from_u128(1), history: Uuid::from_u128(2), copy_id: member(n).copy_id }
}

pub fn options(log: LogKind) -> CopyOptions {
    CopyOptions { log, rules: Rules::ALL, bodies: Arc::new(NoBodies) }
}

pub fn made(log: LogKind, n: u128) -> (TempDir, Copy) {
    let dir = TempDir::new().unwrap();
    Copy::make(dir.path(), log, &empty(n)).unwrap();
    let copy = open(dir.path(), log);
    (dir, copy)
}

pub fn open(dir: &Path, log: LogKind) -> Copy {
    Copy::open(dir, options(log)).unwrap().unwrap()
}

pub fn row(idx: u64, epoch: u64, batch: &Batch) -> Row {
    let term = Term { epoch, run: 1 };
    Row { idx: Index(idx), term, kind: RowKind::Batch, body: batch.encode().unwrap() }
}

fn list_row(idx: u64, epoch: u64, members: &[u128]) -> Row {
    let list = List { n: idx, prev: idx - 1, members: members.iter().copied().map(member).collect() };
    let term = Term { epoch, run: 1 };
    Row { idx: Index(idx), term, kind: RowKind::List, body: serde_json::to_vec(&list).unwrap() }
}

pub fn at(epoch: u64, idx: u64) -> Position {
    let run = u64::from(epoch > 0);
    Position { term: Term { epoch, run }, idx: Index(idx) }
}

pub fn send(
    copy: &mut Copy,
    epoch: u64,
    prev: Position,
    rows: Vec<Row>,
    commit: u64,
) -> Result<Index, AppendRefusal> {
    copy.append(&Append { claim: claim(epoch, 1), prev, rows, commit: Index(commit) }).unwrap()
}

pub fn node(n: u64) -> Batch {
    Batch::of(vec![put("node", &n.to_string(), n, "{}"), put("lease", &n.to_string(), n, "{}")])
}

#[test]
fn a_copy_is_fed_applies_what_is_committed_and_is_found_again() {
    for log in BOTH {
        let (dir, mut copy) = made(log, 7);
        let rows = vec![list_row(1, 1, &[1, 7]), row(2, 1, &node(2)), row(3, 1, &node(3))];
        assert_eq!(send(&mut copy, 1, at(0, 0), rows.clone(), 2), Ok(Index(3)));
        assert_eq!(send(&mut copy, 1, at(0, 0), rows, 2), Ok(Index(3)), "the same again is no harm");
        let look = copy.look().unwrap();
        assert_eq!((look.last, look.applied, look.list.0), (at(1, 3), Index(2), Index(1)));
        drop(copy);
        let mut copy = open(dir.path(), log);
        assert_eq!(copy.look().unwrap(), look);
        assert_eq!(send(&mut copy, 1, at(1, 3), vec![], 3), Ok(Index(3)));
        assert_eq!(copy.look().unwrap().applied, Index(3));
        let count: i64 = ["config.data", "locks.data", "queue.data"]
            .iter()
            .filter(|f| dir.path().join(f).exists())
            .map(|f| -> i64 {
                sqlite(dir.path(), f).query_row("SELECT count(*) FROM object", [], |r| r.get(0)).unwrap()
            })
            .sum();
        assert_eq!(count, 4);
    }
}

#[test]
fn a_promise_outlives_the_copy_and_bars_older_writers() {
    let (dir, mut copy) = made(LogKind::W, 7);
    copy.promise(&claim(3, 0)).unwrap().unwrap();
    drop(copy);
    let mut copy = open(dir.path(), LogKind::W);
    assert_eq!(copy.promise(&claim(2, 9)).unwrap(), Err(Refusal::Promised(Term { epoch: 3, run: 0 })));
    let other = Claim { ballot: [99; 16], ..claim(3, 0) };
    assert_eq!(copy.promise(&other).unwrap(), Err(Refusal::OtherBallot(3)));
    let late = send(&mut copy, 2, at(0, 0), vec![row(1, 2, &node(1))], 1);
    assert_eq!(late, Err(AppendRefusal::Refusal(Refusal::Promised(Term { epoch: 3, run: 0 }))));
    let stranger = Claim { cluster: Uuid::from_u128(77), ..claim(9, 1) };
    assert_eq!(copy.promise(&stranger).unwrap(), Err(Refusal::Stranger));
    let append = Append { claim: stranger, prev: at(0, 0), rows: vec![], commit: Index(0) };
    assert_eq!(copy.append(&append).unwrap(), Err(AppendRefusal::Refusal(Refusal::Stranger)));
}

#[test]
fn rows_that_must_go_are_kept_aside() {
    let (dir, mut copy) = made(LogKind::Q, 7);
    let old = vec![row(1, 1, &node(1)), row(2, 1, &node(2)), row(3, 1, &node(3))];
    send(&mut copy, 1, at(0, 0), old, 1).unwrap();
    assert_eq!(send(&mut copy, 2, at(1, 1), vec![row(2, 2, &node(9))], 2), Ok(Index(2)));
    assert_eq!(copy.look().unwrap().last, at(2, 2));
    let kept = std::fs::read_to_string(dir.path().join("aside/Q-1-2")).unwrap();
    assert_eq!(kept.lines().count(), 2);
    assert!(kept.contains("\\\"key\\\":\\\"3\\\""), "{kept}");
    let broken = send(&mut copy, 3, at(1, 1), vec![row(2, 3, &node(8))], 0);
    assert_eq!(broken, Err(AppendRefusal::Refusal(Refusal::Broken(Index(2)))), "applied rows stay");
    let gap = send(&mut copy, 3, at(3, 9), vec![], 0);
    assert_eq!(gap, Err(AppendRefusal::Refusal(Refusal::Gap(at(2, 2)))));
}

#[test]
fn rows_that_go_aside_again_and_again_are_kept_once() {
    let (dir, mut copy) = made(LogKind::Q, 7);
    send(&mut copy, 1, at(0, 0), vec![row(1, 1, &node(1)), row(2, 1, &node(2))], 0).unwrap();
    let conn = sqlite(dir.path(), "queue.data");
    let save =
        |after| crate::io::aside::save_rows(&conn, *LogKind::Q.log_file(), dir.path(), Index(after)).unwrap();
    let names = || {
        let entries = std::fs::read_dir(dir.path().join("aside")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    // The transaction that is to delete them fails, and is tried every second.
    (0..5).for_each(|_| save(1));
    assert_eq!(names(), ["Q-1-2"]);
    // One that ended in the middle for want of room.
    std::fs::write(dir.path().join("aside/.Q-rows.tmp"), "[2,").unwrap();
    save(1);
    assert_eq!(names(), ["Q-1-2"]);
    // Other rows of that place.
    std::fs::write(dir.path().join("aside/Q-1-2"), "another history\n").unwrap();
    (0..3).for_each(|_| save(1));
    assert_eq!(names(), ["Q-1-2", "Q-1-2.1"]);
}

#[test]
fn a_held_lock_is_told_as_busy_and_nothing_is_promised() {
    let (dir, mut copy) = made(LogKind::W, 7);
    let other = sqlite(dir.path(), "wconf.log");
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(copy.promise(&claim(3, 0)).unwrap_err().is_busy());
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(copy.look().unwrap().vote.promised, Term::default());
    assert!(copy.promise(&claim(3, 0)).unwrap().is_ok());
}

#[test]
fn a_recovering_writer_is_given_rows_only_while_the_promise_is_its_own() {
    let (_dir, mut copy) = made(LogKind::W, 7);
    let rows: Vec<Row> = (1..=9).map(|n| row(n, 1, &node(n))).collect();
    send(&mut copy, 1, at(0, 0), rows.clone(), 0).unwrap();
    let ask = |copy: &mut Copy, c: &Claim, after, bytes| copy.fetch(c, after, bytes).unwrap();
    assert!(ask(&mut copy, &claim(2, 1), at(0, 0), 1 << 20).is_err(), "not promised yet");
    copy.promise(&claim(2, 1)).unwrap().unwrap();
    assert_eq!(ask(&mut copy, &claim(2, 1), at(1, 4), 1 << 20), Ok(Fetched::Rows(rows[4..].to_vec())));
    assert_eq!(ask(&mut copy, &claim(2, 1), at(1, 4), 1), Ok(Fetched::Rows(vec![rows[4].clone()])));
    assert_eq!(ask(&mut copy, &claim(2, 1), at(1, 9), 9), Ok(Fetched::Rows(vec![])));
    assert_eq!(ask(&mut copy, &claim(2, 1), at(2, 4), 9), Ok(Fetched::Diverged));
    assert_eq!(ask(&mut copy, &claim(2, 1), at(1, 99), 9), Ok(Fetched::Diverged));
    copy.promise(&claim(3, 1)).unwrap().unwrap();
    assert!(ask(&mut copy, &claim(2, 1), at(1, 4), 9).is_err(), "promised more since");
}

/// Bodies of a test: those in the set are there.
#[derive(Default)]
struct Kept(Mutex<std::collections::BTreeSet<Digest>>);

impl Bodies for Kept {
    fn missing(&self, wanted: &[Digest]) -> std::io::Result<Vec<Digest>> {
        let there = self.0.lock().unwrap();
        Ok(wanted.iter().filter(|d| !there.contains(*d)).copied().collect())
    }
    fn remove(&self, dropped: &[Digest]) -> std::io::Result<()> {
        let mut there = self.0.lock().unwrap();
        there.retain(|d| !dropped.contains(d));
        Ok(())
    }
}

#[test]
fn rows_wait_for_their_bodies_and_dropped_ones_go_when_the_row_is_applied() {
    let (dir, copy) = made(LogKind::Q, 7);
    drop(copy);
    let kept = Arc::new(Kept::default());
    let opts = CopyOptions { bodies: Arc::clone(&kept) as Arc<dyn Bodies>, ..options(LogKind::Q) };
    let mut copy = Copy::open(dir.path(), opts).unwrap().unwrap();
    let names = |bodies: &[u8], dropped: &[u8]| Batch {
        bodies: bodies.iter().map(|b| [*b; 32]).collect(),
        dropped: dropped.iter().map(|b| [*b; 32]).collect(),
        ..node(1)
    };
    let first = vec![row(1, 1, &names(&[1, 2, 3], &[]))];
    kept.0.lock().unwrap().insert([2; 32]);
    let refused = send(&mut copy, 1, at(0, 0), first.clone(), 0);
    assert_eq!(refused, Err(AppendRefusal::Bodies(vec![[1; 32], [3; 32]])));
    assert_eq!(copy.look().unwrap().last.idx, Index(0), "nothing was confirmed");
    kept.0.lock().unwrap().extend([[1; 32], [3; 32]]);
    send(&mut copy, 1, at(0, 0), first, 1).unwrap();
    let more = vec![row(2, 1, &names(&[], &[1, 2, 3])), row(3, 1, &names(&[2], &[]))];
    send(&mut copy, 1, at(1, 1), more, 1).unwrap();
    assert_eq!(kept.0.lock().unwrap().len(), 3, "not committed yet");
    send(&mut copy, 1, at(1, 3), vec![], 2).unwrap();
    let left: Vec<Digest> = kept.0.lock().unwrap().iter().copied().collect();
    assert_eq!(left, [[2; 32]], "a later row names it again");
}

#[test]
fn tokens_tell_an_old_image_and_a_clone() {
    let (dir, mut copy) = made(LogKind::W, 7);
    let token = |idx, old, new| {
        let body = TokenRow { copy_id: member(7).copy_id, old, new }.encode();
        Row { idx: Index(idx), term: Term { epoch: 1, run: 1 }, kind: RowKind::Token, body }
    };
    send(&mut copy, 1, at(0, 0), vec![token(1, None, [1; 16])], 1).unwrap();
    copy.set_token(&claim(1, 1), None, [1; 16]).unwrap().unwrap();
    drop(copy);
    let image = TempDir::new().unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap).filter(|f| f.path().is_file()) {
        std::fs::copy(file.path(), image.path().join(file.file_name())).unwrap();
    }
    let mut copy = open(dir.path(), LogKind::W);
    send(&mut copy, 1, at(1, 1), vec![token(2, Some([1; 16]), [2; 16])], 2).unwrap();
    copy.set_token(&claim(1, 1), Some([1; 16]), [2; 16]).unwrap().unwrap();
    copy.set_token(&claim(1, 1), Some([1; 16]), [9; 16]).unwrap().unwrap();
    let now = copy.look().unwrap();
    assert_eq!(now.vote.token, Some([2; 16]), "a gift that comes late changes nothing");
    send(&mut copy, 1, at(1, 2), vec![token(3, Some([2; 16]), [3; 16])], 3).unwrap();
    copy.set_token(&claim(1, 1), Some([2; 16]), [3; 16]).unwrap().unwrap();
    let records = copy.look().unwrap().tokens;
    let record = records.of(&member(7).copy_id);
    assert_eq!(judge(&copy.look().unwrap().shown(), record, Index(3)), Ok(()));
    let old = open(image.path(), LogKind::W).look().unwrap();
    assert_eq!(judge(&old.shown(), record, Index(0)), Err(Suspicion::Token), "old image or clone");
    assert!(copy.set_token(&claim(0, 1), Some([3; 16]), [4; 16]).unwrap().is_err(), "an older writer");
}

#[test]
fn an_empty_copy_takes_the_place_of_an_old_one() {
    for log in BOTH {
        let (dir, mut copy) = made(log, 7);
        send(&mut copy, 1, at(0, 0), vec![row(1, 1, &node(1))], 1).unwrap();
        drop(copy);
        Copy::make(dir.path(), log, &empty(8)).unwrap();
        let look = open(dir.path(), log).look().unwrap();
        assert_eq!((look.vote.copy_id, look.last, look.applied), (member(8).copy_id, at(0, 0), Index(0)));
        let aside = dir.path().join(format!("aside/{log:?}-copy"));
        assert_eq!(open(&aside, log).look().unwrap().vote.copy_id, member(7).copy_id);
        // A crash in the middle: the log has gone aside, the rest has not.
        std::fs::remove_file(log.log_file().path(dir.path())).unwrap();
        assert!(Copy::open(dir.path(), options(log)).unwrap().is_none());
        Copy::make(dir.path(), log, &empty(9)).unwrap();
        assert_eq!(open(dir.path(), log).look().unwrap().vote.copy_id, member(9).copy_id);
    }
}

/// Any byte of any file, changed: the copy then says that it is damaged, or says what it said before.
#[test]
fn a_flipped_byte_never_makes_another_history() {
    for log in BOTH {
        let (dir, mut copy) = made(log, 7);
        let rows: Vec<Row> = (1..=12).map(|n| row(n, 1, &node(n))).collect();
        send(&mut copy, 1, at(0, 0), rows.clone(), 10).unwrap();
        let sound = copy.look().unwrap();
        drop(copy);
        let files: Vec<&str> = ["wconf.log", "config.data", "locks.data", "queue.data"]
            .into_iter()
            .filter(|f| dir.path().join(f).exists())
            .collect();
        let mut noticed = 0;
        for file in &files {
            let path = dir.path().join(file);
            let whole = std::fs::read(&path).unwrap();
            for place in (0..whole.len()).step_by(97) {
                let mut bytes = whole.clone();
                bytes[place] ^= 0x5a;
                std::fs::write(&path, &bytes).unwrap();
                let _ = std::fs::remove_file(dir.path().join(format!("{file}-wal")));
                noticed += usize::from(!same(dir.path(), log, &sound, &rows));
            }
            std::fs::write(&path, &whole).unwrap();
        }
        assert!(noticed > 20, "only {noticed} changes were noticed");
        assert!(same(dir.path(), log, &sound, &rows));
    }
}

/// Whatever is damaged, down to the header, the tables' names, the format and the vote: the copy can be looked at, and
/// gives way to a new one (docs/FAILOVER.md, the cure).
#[test]
fn a_copy_of_which_nothing_can_be_read_says_so_and_gives_way() {
    for log in BOTH {
        let (dir, mut copy) = made(log, 7);
        send(&mut copy, 1, at(0, 0), vec![row(1, 1, &node(1))], 1).unwrap();
        let sound = copy.look().unwrap();
        drop(copy);
        let path = log.log_file().path(dir.path());
        let whole = std::fs::read(&path).unwrap();
        let find = |text: &str| {
            let at = whole.windows(text.len()).rposition(|bytes| bytes == text.as_bytes()).unwrap();
            at.saturating_sub(90)..at + text.len()
        };
        let history = Uuid::from_u128(2).to_string();
        let first_page = (0..100).chain((100..4_096.min(whole.len())).step_by(11));
        let places = first_page.chain(find(log.log_file().name)).chain(find(&history));
        let (mut unreadable, mut damaged) = (0, 0);
        for place in places {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x15;
            std::fs::write(&path, &bytes).unwrap();
            let look = open(dir.path(), log).look().unwrap();
            match look.damaged {
                None => assert_eq!(look, sound, "byte {place}"),
                Some(_) if look.readable_vote().is_none() => unreadable += 1,
                Some(_) => damaged += 1,
            }
        }
        assert!(unreadable > 60, "{unreadable} of {damaged}");
        std::fs::write(&path, [0x15; 4_096]).unwrap();
        let mut copy = open(dir.path(), log);
        let told = copy.promise(&claim(1, 1)).unwrap().unwrap();
        assert!(judge(&told.shown(), None, Index(0)).is_err() && told.readable_vote().is_none());
        drop(copy);
        Copy::make(dir.path(), log, &empty(8)).unwrap();
        assert_eq!(open(dir.path(), log).look().unwrap().vote.copy_id, member(8).copy_id);
        assert_eq!(
            std::fs::read(dir.path().join(format!("aside/{log:?}-copy/{}", log.log_file().name))).unwrap(),
            [0x15; 4_096]
        );
    }
}

/// A file of a newer program is no damage: nothing is promised, and the copy is no suspect either.
#[test]
fn a_copy_of_a_newer_format_promises_nothing_but_gives_way() {
    let (dir, copy) = made(LogKind::W, 7);
    drop(copy);
    sqlite(dir.path(), "wconf.log").execute("UPDATE meta SET format = 9, min_reader = 9", []).unwrap();
    let mut copy = open(dir.path(), LogKind::W);
    let look = copy.look().unwrap();
    assert!(look.readable_vote().is_none() && look.damaged.unwrap().contains("format 9"));
    assert!(matches!(copy.promise(&claim(1, 1)), Err(StoreError::Format { .. })));
    drop(copy);
    Copy::make(dir.path(), LogKind::W, &empty(8)).unwrap();
    assert_eq!(open(dir.path(), LogKind::W).look().unwrap().vote.copy_id, member(8).copy_id);
}

/// `false` when the copy noticed; panics when it tells another history.
fn same(dir: &Path, log: LogKind, sound: &crate::io::look::Look, rows: &[Row]) -> bool {
    let mut copy = open(dir, log);
    let Ok(look) = copy.look() else { return false };
    if look.damaged.is_some() {
        assert!(judge(&look.shown(), None, Index(0)).is_err());
        assert!(
            copy.append(&Append { claim: claim(1, 1), prev: at(1, 12), rows: vec![], commit: Index(0) })
                .is_err()
        );
        return false;
    }
    assert_eq!(&look, sound);
    match copy.fetch(&claim(1, 1), at(0, 0), 1 << 20) {
        Ok(Ok(Fetched::Rows(found))) => assert_eq!(found, rows),
        Ok(other) => panic!("{other:?}"),
        Err(_) => return false,
    }
    true
}
