//! A process dies at each step of taking a snapshot over and of going on alone ([`gantry_crash::point`]): what is found
//! is what was there before, or what was to come, and the step that is done again ends as if nothing had been.

use super::follow::{at, claim, empty, node, open, row, send};
use super::*;
use crate::core::copy::Append;
use crate::core::row::Position;
use crate::core::token::TokenRow;
use crate::io::alone::{Alone, go_alone};
use crate::io::copy::Copy;
use crate::io::look::Fetched;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

const CHILD_DIR: &str = "GANTRY_STORE_TEST_STEP";
const CHILD_LOG: &str = "GANTRY_STORE_TEST_STEP_LOG";
/// What the child does; see [`child_dies_at_a_step`].
const CHILD_WORK: &str = "GANTRY_STORE_TEST_STEP_WORK";
/// The file that the child takes over.
const FEED: &str = "snapshot-to-take";
const SIGKILL: i32 = 9;
/// The last row of the snapshot.
const S: u64 = 6;

/// Not a test of its own: the child process of the tests below, which does nothing when run as a test.
#[test]
fn child_dies_at_a_step() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let log = if std::env::var(CHILD_LOG).unwrap() == "W" { LogKind::W } else { LogKind::Q };
    let dir = Path::new(&dir);
    let work = std::env::var(CHILD_WORK).unwrap();
    if work == "take" {
        let mut copy = open(dir, log);
        let arrived = dir.join("arrived");
        std::fs::copy(dir.join(FEED), &arrived).unwrap();
        copy.snapshot_in(&claim(2, 1), &arrived).unwrap().unwrap();
    } else {
        go_alone(dir, log, &how(dir, log, work.parse().unwrap())).unwrap();
    }
}

/// Runs the child with these points armed. Whether it died at one.
fn dies(dir: &Path, log: LogKind, work: &str, points: &[&str]) -> bool {
    let armed = TempDir::new().unwrap();
    points.iter().for_each(|point| std::fs::write(armed.path().join(point), "").unwrap());
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "io::tests::crash_steps::child_dies_at_a_step", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_LOG, format!("{log:?}"))
        .env(CHILD_WORK, work)
        .env(gantry_crash::DIR_ENV, armed.path())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    let left = std::fs::read_dir(armed.path()).unwrap().count();
    let died = status.signal() == Some(SIGKILL);
    assert!(died || status.success(), "{status:?}");
    assert_eq!(died, left < points.len(), "it dies at a point and nowhere else");
    died
}

/// Everything a copy holds.
#[derive(Debug, Clone, PartialEq)]
struct Content {
    base: Position,
    last: Position,
    applied: Index,
    tokens: usize,
    rows: Vec<crate::core::row::Row>,
    objects: Vec<String>,
}

fn content(dir: &Path, log: LogKind) -> Content {
    let mut copy = open(dir, log);
    let look = copy.look().unwrap();
    assert_eq!(look.damaged, None);
    let rows = match copy.fetch(&claim(2, 1), look.base, 1 << 24).unwrap().unwrap() {
        Fetched::Rows(rows) => rows,
        other => panic!("{other:?}"),
    };
    let mut objects = Vec::new();
    for spec in std::iter::once(log.log_file()).chain(log.projections()).filter(|spec| spec.objects) {
        let db = crate::io::sql::Db::open_read(spec, &spec.path(dir)).unwrap();
        crate::io::objects::load(&db.conn, spec, &mut objects).unwrap();
    }
    let mut objects = names(&objects);
    objects.sort();
    let tokens = look.tokens.iter().count();
    Content { base: look.base, last: look.last, applied: look.applied, tokens, rows, objects }
}

fn beside(dir: &Path, part: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().contains(part)).count()
}

/// A copy whose applied rows are the snapshot's; of the rows after them, row S is `same` there, or none is. With a
/// snapshot to take over beside it.
fn behind(log: LogKind, same: bool) -> TempDir {
    let dir = TempDir::new().unwrap();
    Copy::make(dir.path(), log, &empty(7)).unwrap();
    let mut copy = open(dir.path(), log);
    let rows = |from, to, epoch| (from..=to).map(|n| row(n, epoch, &node(n))).collect::<Vec<_>>();
    send(&mut copy, 1, at(0, 0), rows(1, 3, 1), 3).unwrap();
    let tail = if same { rows(4, S, 2) } else { rows(4, S, 1) };
    let epoch = if same { 2 } else { 1 };
    send(&mut copy, epoch, at(1, 3), tail, 3).unwrap();
    send(&mut copy, epoch, at(epoch, S), rows(S + 1, S + 2, epoch), 3).unwrap();
    copy.promise(&claim(2, 1)).unwrap().unwrap();

    let ahead = TempDir::new().unwrap();
    Copy::make(ahead.path(), log, &empty(8)).unwrap();
    let mut other = open(ahead.path(), log);
    send(&mut other, 1, at(0, 0), rows(1, 3, 1), 3).unwrap();
    let token = TokenRow { copy_id: member(9).copy_id, old: None, new: [4; 16] };
    let mut more = rows(4, S, 2);
    // In the copy that has other rows the record comes with the snapshot alone.
    if !same {
        more[0] = crate::core::row::Row {
            kind: crate::core::row::RowKind::Token,
            body: token.encode(),
            ..more[0].clone()
        };
    }
    let append = Append { claim: claim(2, 1), prev: at(1, 3), rows: more, commit: Index(S) };
    other.append(&append).unwrap().unwrap();
    let file = other.snapshot_out(&claim(2, 1)).unwrap().unwrap();
    assert_eq!(file.at, at(2, S));
    std::fs::copy(&file.path, dir.path().join(FEED)).unwrap();
    dir
}

/// The steps of taking a snapshot over, those that leave the old copy first, and how many these are.
fn steps(log: LogKind) -> (Vec<String>, usize) {
    let files: &[&str] = if log == LogKind::W { &["config.data", "locks.data"] } else { &["queue.data"] };
    let all = [&["renamed", "to-take", "taken"], files, &["to-sweep"]].concat();
    (all.into_iter().map(|step| format!("install-{log:?}-{step}")).collect(), 2)
}

#[test]
fn a_snapshot_taken_over_is_there_whole_or_not_at_all_wherever_its_process_dies() {
    for log in BOTH {
        for same in [false, true] {
            let whole = behind(log, same);
            let old = content(whole.path(), log);
            assert!(!dies(whole.path(), log, "take", &[]));
            let new = content(whole.path(), log);
            assert_ne!(old, new);
            assert_eq!(new.rows.len(), if same { 2 } else { 0 }, "a suffix that was confirmed stays");
            let (steps, olds) = steps(log);
            for (number, step) in steps.iter().enumerate() {
                let dir = behind(log, same);
                assert!(dies(dir.path(), log, "take", &[step]), "nothing came by {step}");
                let found = content(dir.path(), log);
                assert_eq!(&found, if number < olds { &old } else { &new }, "{step}, same: {same}");
                assert_eq!(beside(dir.path(), ".side-"), 0, "{step}: a start removes what nobody wants");
                assert!(!dies(dir.path(), log, "take", &[]), "the writer sends it again");
                assert_eq!(content(dir.path(), log), new, "{step}, same: {same}");
                let kept = beside(&dir.path().join("aside"), "");
                assert_eq!(kept, usize::from(!same), "{step}: rows that had to go are kept once");
            }
        }
    }
}

/// The same, and the start that carries it on dies at each step too.
#[test]
fn a_snapshot_is_carried_on_by_starts_that_die_at_every_step() {
    for log in BOTH {
        let dir = behind(log, false);
        let (mut left, _) = steps(log);
        let mut deaths = 0;
        loop {
            let armed: Vec<&str> = left.iter().map(String::as_str).collect();
            if !dies(dir.path(), log, "take", &armed) {
                break;
            }
            left.remove(0);
            deaths += 1;
        }
        assert_eq!((left.len(), deaths), (0, steps(log).0.len()), "{left:?}");
        let whole = behind(log, false);
        assert!(!dies(whole.path(), log, "take", &[]));
        assert_eq!(content(dir.path(), log), content(whole.path(), log));
    }
}

/// How the log goes on alone in the `n`th history.
fn how(dir: &Path, log: LogKind, n: u64) -> Alone {
    let look = open(dir, log).look().unwrap();
    Alone {
        history: Uuid::from_u128(u128::from(100 + n)),
        epoch: 1_000 * n,
        ballot: [u8::try_from(n).unwrap(); 16],
        node: member(1).node,
        list_n: 2 + n,
        last: look.last,
    }
}

#[test]
fn a_log_goes_on_alone_wherever_its_process_dies_on_the_way() {
    for log in BOTH {
        let files: &[&str] = if log == LogKind::W { &["config.data", "locks.data"] } else { &[] };
        let steps = std::iter::once(format!("{log:?}-begun")).chain(files.iter().map(|f| (*f).to_owned()));
        let steps: Vec<String> = steps.map(|step| format!("alone-{step}")).collect();
        // The same again, or as the command does that is repeated: in another history.
        for (step, again) in steps.iter().flat_map(|step| [(step, 1), (step, 2)]) {
            let dir = TempDir::new().unwrap();
            let members = vec![member(1), member(2)];
            create(dir.path(), log, &Birth { members, ..birth() }).unwrap();
            assert!(dies(dir.path(), log, "1", &[step]), "nothing came by {step}");
            // Between the log and the last of its objects nothing starts: no half of a history is served.
            if log == LogKind::W && step != "alone-locks.data" {
                assert!(refused(dir.path(), log).is_damage(), "{step}");
            }
            assert!(!dies(dir.path(), log, &again.to_string(), &[]), "{step}");
            let started = begin(dir.path(), log);
            assert_eq!(started.history, Uuid::from_u128(100 + u128::from(again)), "{step}");
            assert_eq!(
                (started.term.epoch, &started.members[..]),
                (1_000 * again, &[member(1)][..]),
                "{step}"
            );
            assert_eq!(names(&started.objects), ["cluster/c@1"], "{step}");
            append_and_wait(&started, one(put("node", "after", 1, "{}")));
            started.writer.stop();
            assert_eq!(found(dir.path(), log).len(), 2, "{step}");
        }
    }
}
