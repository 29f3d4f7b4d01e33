//! A reader beside the writer always has the writer's objects, whatever was changed, compacted or replaced meanwhile.

use super::*;
use crate::io::reader::{Mark, News, Reader};
use std::collections::BTreeMap;

type Picture = BTreeMap<(String, String), Vec<u8>>;

fn load(reader: &Reader) -> (Mark, Picture) {
    let mut all = Picture::new();
    let mark = reader
        .load(|object| {
            all.insert((object.kind, object.key), object.body);
        })
        .unwrap();
    (mark, all)
}

fn follow(picture: &mut Picture, changes: Vec<Change>) {
    for Change { kind, key, body, .. } in changes {
        match body {
            Some(body) => picture.insert((kind, key), body),
            None => picture.remove(&(kind, key)),
        };
    }
}

/// The changes since `mark`, which must be known.
fn news(reader: &Reader, mark: &Mark) -> (Mark, Vec<Change>) {
    match reader.since(mark).unwrap() {
        News::Changes(mark, changes) => (mark, changes),
        News::Anew => panic!("the way is known"),
    }
}

#[test]
fn only_what_changed_is_read_again() {
    let dir = born(LogKind::W);
    let started = begin(dir.path(), LogKind::W);
    let mut reader = Reader::open(dir.path()).unwrap();
    assert!(reader.changed().unwrap() && !reader.changed().unwrap());
    let (mark, mut picture) = load(&reader);
    append_and_wait(&started, Batch::of(vec![put("node", "n", 1, "1"), put("lease", "l", 1, "2")]));
    append_and_wait(&started, Batch::of(vec![put("node", "n", 2, "3"), cut("cluster", "c")]));
    assert!(reader.changed().unwrap());
    let (mark, changes) = news(&reader, &mark);
    assert_eq!(changes.len(), 4);
    follow(&mut picture, changes);
    assert_eq!(picture, load(&reader).1);
    assert!(news(&reader, &mark).1.is_empty() && !reader.changed().unwrap());
    started.writer.stop();
}

#[test]
fn files_that_are_not_equally_far_are_each_followed_from_where_they_are() {
    let dir = born(LogKind::W);
    let started = begin(dir.path(), LogKind::W);
    append_and_wait(&started, Batch::of(vec![put("node", "n", 1, "1"), put("lease", "l", 1, "2")]));
    append_and_wait(&started, Batch::of(vec![put("node", "n", 2, "3"), put("lease", "l", 2, "4")]));
    let reader = Reader::open(dir.path()).unwrap();
    let (mark, _) = load(&reader);
    let behind = Mark { locks: Index(mark.locks.0 - 1), ..mark };
    let (_, changes) = news(&reader, &behind);
    assert_eq!(changes, [put("lease", "l", 2, "4")], "nothing of config.data goes back");
    started.writer.stop();
}

#[test]
fn what_is_not_known_is_read_anew() {
    let dir = born(LogKind::W);
    let started = begin(dir.path(), LogKind::W);
    let reader = Reader::open(dir.path()).unwrap();
    let (mark, _) = load(&reader);
    for other in
        [Mark { history: Uuid::from_u128(77), ..mark }, Mark { config: Index(mark.config.0 + 1), ..mark }]
    {
        assert!(matches!(reader.since(&other).unwrap(), News::Anew));
    }
    let compacted = Mark { config: Index(0), locks: Index(0), ..mark };
    sqlite(dir.path(), "wconf.log").execute("DELETE FROM log WHERE idx <= 2", []).unwrap();
    let seen = reader.since(&compacted);
    assert!(!matches!(seen, Ok(News::Changes(..))), "{seen:?}");
    started.writer.stop();
    // Another file under the same name.
    let (from, to) = (dir.path().join("config.data"), dir.path().join("other"));
    std::fs::copy(&from, &to).unwrap();
    assert!(reader.is_current());
    std::fs::rename(&to, &from).unwrap();
    assert!(!reader.is_current());
}
