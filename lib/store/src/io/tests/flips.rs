//! A byte that changed, anywhere in a file that is closed: whoever opens it finds what was written, or says that the file
//! is damaged. Nothing else is ever found.

use super::*;
use crate::core::Rules;
use crate::io::copy::{Copy, CopyOptions};
use crate::io::files::FileSpec;
use crate::io::log;
use crate::io::look::{Look, NoBodies};
use crate::io::objects;
use crate::io::reader::Reader;
use crate::io::sql::Db;
use crate::io::writer::{LocalChange, LocalRow};
use std::sync::Arc;

/// Set to 1, each byte of each page's head and pointers is changed in three ways, and many of its content: some minutes.
const ALL_ENV: &str = "GANTRY_FLIPS_ALL";
/// SQLite's page.
const PAGE: usize = 4096;
/// Of a page, the bytes of its head and first pointers between cells.
const HEAD: usize = 40;
/// Before the head of the first page.
const FILE_HEAD: usize = 100;

/// A log of several pages a table, some of them free, in files without a WAL.
fn filled(kind: LogKind) -> TempDir {
    let dir = born(kind);
    let started = begin(dir.path(), kind);
    let text = |number: u64, long| format!("{{\"number\":{number},\"text\":\"{}\"}}", "x".repeat(long));
    let body = |number| text(number, 300);
    for number in 0..40 {
        let kind = if number % 2 == 0 { "node" } else { "slot" };
        append_and_wait(&started, one(put(kind, &format!("k{number}"), 1, &body(number))));
    }
    append_and_wait(&started, one(put("node", "long", 1, &text(0, 12_000))));
    for number in (0..40).step_by(3) {
        let kind = if number % 2 == 0 { "node" } else { "slot" };
        append_and_wait(&started, one(cut(kind, &format!("k{number}"))));
    }
    if kind == LogKind::W {
        for number in 0..60 {
            let row = LocalChange { key: format!("l{number}"), body: Some(body(number).into_bytes()) };
            started.writer.local(vec![row]).unwrap();
        }
    }
    started.writer.stop();
    for spec in files(kind) {
        sqlite(dir.path(), spec.name).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }
    dir
}

fn files(kind: LogKind) -> impl Iterator<Item = &'static FileSpec> {
    std::iter::once(kind.log_file()).chain(kind.projections())
}

/// Local rows, by key.
type Local = Vec<(String, Vec<u8>)>;

/// All that a copy tells, and holds.
#[derive(Debug, PartialEq)]
struct Held {
    look: Look,
    rows: Vec<crate::core::row::Row>,
    objects: Vec<Object>,
    local: Local,
}

fn in_order(mut objects: Vec<Object>) -> Vec<Object> {
    objects.sort_by(|a, b| (&a.kind, &a.key).cmp(&(&b.kind, &b.key)));
    objects
}

fn plain(rows: Vec<LocalRow>) -> Local {
    rows.into_iter().map(|row| (row.key, row.body)).collect()
}

/// As noded finds it, or how it says that it is damaged.
fn followed(dir: &Path, kind: LogKind) -> Result<Held, String> {
    let opts = CopyOptions { log: kind, rules: Rules::ALL, bodies: Arc::new(NoBodies) };
    let copy = Copy::open(dir, opts).map_err(|why| why.chain())?.ok_or("no copy")?;
    let look = copy.look().map_err(|why| why.chain())?;
    if let Some(why) = look.damaged {
        return Err(why);
    }
    let read = || {
        let (mut objects, mut local) = (Vec::new(), Vec::new());
        let spec = kind.log_file();
        let db = Db::open_read(spec, &spec.path(dir))?;
        let rows = log::rows(&db.conn, spec.name, look.base.idx, 1_000, 1 << 24)?;
        for spec in files(kind) {
            let db = Db::open_read(spec, &spec.path(dir))?;
            if spec.objects {
                objects::load(&db.conn, spec, &mut objects)?;
            }
            if spec.local {
                local = plain(objects::load_local(&db.conn, spec)?);
            }
        }
        Ok(Held { look: look.clone(), rows, objects: in_order(objects), local })
    };
    Ok(read().map_err(|why: StoreError| why.chain()).expect("a copy that is sound can be read"))
}

/// As its writer finds it.
fn led(dir: &Path, kind: LogKind) -> Result<(Vec<Object>, Local), String> {
    let started = start(dir, StartOptions::new(kind)).map_err(|why| why.chain())?;
    started.writer.stop();
    Ok((in_order(started.objects), plain(started.local)))
}

/// As a reader beside them finds the objects of W.
fn read(dir: &Path) -> Result<Vec<Object>, String> {
    let mut objects = Vec::new();
    let loaded = Reader::open(dir).and_then(|reader| reader.load(|object| objects.push(object)));
    loaded.map_err(|why| why.chain())?;
    Ok(in_order(objects))
}

/// The files in a directory of their own, one of them with a byte changed. Nobody has had it open: a writer that failed may
/// still be closing its files.
fn copied(from: &TempDir, hurt: Option<(&FileSpec, usize, u8)>) -> TempDir {
    let to = TempDir::new().unwrap();
    for entry in std::fs::read_dir(from.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
        }
    }
    if let Some((spec, place, mask)) = hurt {
        let mut bytes = std::fs::read(spec.path(to.path())).unwrap();
        bytes[place] ^= mask;
        std::fs::write(spec.path(to.path()), bytes).unwrap();
    }
    to
}

/// Places in a file: the head and pointers of each page, and some of the content.
fn places(bytes: usize, all: bool) -> Vec<(usize, u8)> {
    let mut found = Vec::new();
    for page in 0..bytes / PAGE {
        let (start, head) = (page * PAGE, if page == 0 { FILE_HEAD } else { 0 });
        let step = if all { 1 } else { 11 };
        // How many cells it has, and the page after the last: rows that are gone leave no crc behind.
        found.extend([(4, 0x01), (4, 0x02), (11, 0x01)].map(|(at, mask)| (start + head + at, mask)));
        // Each page begins elsewhere, so that all pages together have each place.
        for at in (page % step..head + HEAD).step_by(step) {
            let masks = [0x01, 0x20, 0x80].into_iter().skip(if all { 0 } else { (page + at) % 3 });
            found.extend(masks.take(if all { 3 } else { 1 }).map(|mask| (start + at, mask)));
        }
        let step = if all { 61 } else { 1_361 };
        found.extend((head + HEAD + page % step..PAGE).step_by(step).map(|at| (start + at, 1 << (at % 8))));
    }
    found
}

/// Changes bytes of one file, one after the other, and opens it as either.
fn flips(whole: &TempDir, kind: LogKind, spec: &'static FileSpec, all: bool) {
    let there = followed(copied(whole, None).path(), kind).unwrap();
    let objects = (there.objects.clone(), there.local.clone());
    assert_eq!(led(copied(whole, None).path(), kind).unwrap(), objects);
    let bytes = std::fs::metadata(spec.path(whole.path())).unwrap().len();
    let places = places(usize::try_from(bytes).unwrap(), all);
    let (mut noticed, mut wrong) = (0, Vec::new());
    for (place, mask) in &places {
        let place = *place;
        let told = format!("{}: byte {} of page {} ^ {mask:#x}", spec.name, place % PAGE, place / PAGE + 1);
        let hurt = || copied(whole, Some((spec, place, *mask)));
        if kind == LogKind::W {
            match read(hurt().path()) {
                Ok(found) if found == there.objects => {}
                Ok(_) => wrong.push(format!("{told}: it is read, and is another")),
                Err(why) if why.contains(spec.name) => {}
                Err(why) => wrong.push(format!("{told}: read: {why}")),
            }
        }
        match followed(hurt().path(), kind) {
            Ok(found) if found == there => {}
            Ok(_) => wrong.push(format!("{told}: the copy is believed, and is another")),
            Err(why) => {
                noticed += 1;
                if !why.contains(spec.name) {
                    wrong.push(format!("{told}: {why}"));
                }
            }
        }
        match led(hurt().path(), kind) {
            Ok(found) if found == objects => {}
            Ok(_) => wrong.push(format!("{told}: it is led, and is another")),
            Err(why) if why.contains(spec.name) => {}
            Err(why) => wrong.push(format!("{told}: led: {why}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), places.len(), wrong.join("\n"));
    assert!(noticed * 3 > places.len(), "{}: {noticed} of {}", spec.name, places.len());
}

#[test]
fn a_flipped_byte_of_any_page_is_noticed_or_changes_nothing() {
    let all = std::env::var(ALL_ENV).is_ok_and(|text| text == "1");
    for kind in BOTH {
        let whole = filled(kind);
        // Most of the time is waiting for flushes.
        std::thread::scope(|scope| {
            for spec in files(kind) {
                let whole = &whole;
                scope.spawn(move || flips(whole, kind, spec, all));
            }
        });
    }
}
