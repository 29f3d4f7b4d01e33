//! The store on a real file system.

use super::sweep::{Unused, unused};
use super::*;
use crate::core::mirror::{Mirror, Snapshot};
use crate::core::queue::Shown;
use crate::io::view::View;
use gantry_body::unnamed::{UNNAMED_MS_MIN, Work};
use gantry_model::config::kind;
use gantry_model::defaults::{ClusterSeed, cluster};
use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_proto::wconfd::{WatchChange, WatchItem};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::{File, FileTimes};
use std::path::Path;
use std::time::Duration;

struct Bed {
    store: Store,
    root: Root,
    _dir: tempfile::TempDir,
}

fn bed() -> Bed {
    let dir = tempfile::Builder::new().prefix("blob").tempdir().unwrap();
    let root = Root::new(dir.path());
    Bed { store: Store::open(&root).unwrap(), root, _dir: dir }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn piece(body: &[u8], from: usize, to: usize) -> BlobPutRequest {
    BlobPutRequest {
        digest: digest(body),
        total: body.len() as u64,
        offset: from as u64,
        bytes: body[from..to].to_vec(),
    }
}

fn partials(root: &Root) -> usize {
    std::fs::read_dir(root.lib().join("blob/partial")).unwrap().count()
}

fn more(next: u64) -> PieceReply {
    PieceReply { next, done: false }
}

/// As if the wall clock had been ten years off when it was written.
fn age(path: &Path) {
    let file = File::open(path).unwrap();
    let old = file.metadata().unwrap().modified().unwrap() - Duration::from_secs(315_000_000);
    file.set_times(FileTimes::new().set_modified(old)).unwrap();
}

const HOUR: u64 = UNNAMED_MS_MIN;

#[tokio::test]
async fn pieces_in_order_repeated_and_lost_become_the_body() {
    let bed = bed();
    let body: Vec<u8> = (0..1000_u32).flat_map(u32::to_le_bytes).collect();
    let put = |request| bed.store.put(1, request);
    assert_eq!(put(piece(&body, 0, 0)).await.unwrap(), more(0), "asked how far it is");
    assert_eq!(put(piece(&body, 500, 600)).await.unwrap(), more(0), "nothing began");
    assert_eq!(partials(&bed.root), 0);
    assert_eq!(put(piece(&body, 0, 1000)).await.unwrap(), more(1000));
    assert_eq!(put(piece(&body, 0, 1000)).await.unwrap(), more(1000), "repeated");
    assert_eq!(put(piece(&body, 2000, 3000)).await.unwrap(), more(1000), "one was lost");
    assert_eq!(put(piece(&body, 1000, 1000)).await.unwrap(), more(1000), "asked how far it is");
    assert!(!bed.root.blob(&digest(&body)).exists());
    let done = PieceReply { next: 4000, done: true };
    assert_eq!(put(piece(&body, 1000, 4000)).await.unwrap(), done);
    assert_eq!(std::fs::read(bed.root.blob(&digest(&body))).unwrap(), body);
    assert_eq!(partials(&bed.root), 0);
    assert_eq!(bed.store.put(2, piece(&body, 0, 0)).await.unwrap(), done, "there already");

    let longer = BlobPutRequest { total: 4001, ..piece(&body, 0, 0) };
    assert!(bed.store.put(2, longer).await.unwrap_err().text.contains("has 4000 bytes"));

    let name = digest(&body);
    let mut stored = bed.store.body(&name).await.unwrap();
    assert_eq!(stored.piece(3990, 100).await.unwrap(), body[3990..]);
    assert!(stored.piece(4000, 100).await.unwrap().is_empty());
    let Err(none) = bed.store.body(&digest(b"other")).await else { panic!("there is none") };
    assert_eq!(none.as_ganeti().unwrap().ecode(), Some("unknown_entity"));
}

#[tokio::test]
async fn a_damaged_body_is_not_given_whole_and_may_be_sent_again() {
    let bed = bed();
    let (body, name) = (vec![7; 1000], digest(&[7; 1000]));
    bed.store.put(1, piece(&body, 0, 1000)).await.unwrap();
    let mut wrong = body.clone();
    wrong[10] ^= 1;
    std::fs::write(bed.root.blob(&name), wrong).unwrap();
    let mut stored = bed.store.body(&name).await.unwrap();
    stored.piece(0, 600).await.unwrap();
    let told = |fail: Fail| {
        let error = fail.as_ganeti().unwrap();
        (error.class.clone(), error.to_string().contains("damaged on the master"))
    };
    let infrastructure = ("OpExecError".to_owned(), true);
    assert_eq!(told(stored.piece(600, 400).await.unwrap_err()), infrastructure);
    let Err(again) = bed.store.body(&name).await else { panic!("it is put aside") };
    assert_eq!(told(again), infrastructure, "not that it was never sent");
    assert!(bed.store.put(1, piece(&body, 0, 1000)).await.unwrap().done);
    assert_eq!(bed.store.body(&name).await.unwrap().piece(0, 1000).await.unwrap(), body);
}

#[tokio::test]
async fn what_is_not_its_digest_is_refused_and_may_be_sent_again() {
    let bed = bed();
    let body = b"the right bytes".to_vec();
    let wrong = BlobPutRequest { bytes: b"the wrong bytes".to_vec(), ..piece(&body, 0, body.len()) };
    let error = bed.store.put(1, wrong).await.unwrap_err().as_ganeti().unwrap();
    assert_eq!(error.ecode(), Some("wrong_input"));
    assert!(error.to_string().contains(&digest(b"the wrong bytes")), "{error}");
    assert_eq!(partials(&bed.root), 0);
    assert!(!bed.root.blob(&digest(&body)).exists());
    assert!(bed.store.put(1, piece(&body, 0, body.len())).await.unwrap().done);
}

#[tokio::test]
async fn bad_requests() {
    let bed = bed();
    let good = piece(b"abc", 0, 3);
    for (bad, word) in [
        (BlobPutRequest { digest: "../../etc/passwd".to_owned(), ..good.clone() }, "hexadecimal"),
        (BlobPutRequest { digest: good.digest.to_uppercase(), ..good.clone() }, "hexadecimal"),
        (BlobPutRequest { total: 0, bytes: vec![], ..good.clone() }, "1 to"),
        (BlobPutRequest { total: IMAGE_BYTES_MAX + 1, ..good.clone() }, "1 to"),
        (BlobPutRequest { total: 2, ..good.clone() }, "beyond"),
        (BlobPutRequest { offset: u64::MAX, ..good.clone() }, "beyond"),
        (
            BlobPutRequest { total: IMAGE_BYTES_MAX, bytes: vec![0; PIECE_BYTES_MAX + 1], ..good.clone() },
            "piece",
        ),
    ] {
        let error = bed.store.put(1, bad).await.unwrap_err().as_ganeti().unwrap();
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(bed.store.body("../../etc/passwd").await.is_err());
    bed.store.put(1, piece(b"abc", 0, 1)).await.unwrap();
    let other = BlobPutRequest { total: 4, ..piece(b"abc", 1, 2) };
    assert!(bed.store.put(1, other).await.unwrap_err().text.contains("began with 3"));
    assert_eq!(partials(&bed.root), 0);
}

#[tokio::test]
async fn uploads_are_bounded_and_end_with_their_connection() {
    let bed = bed();
    let begin = |number: usize| {
        let body = format!("body {number}").into_bytes();
        piece(&body, 0, 2)
    };
    for number in 0..PARTIAL_MAX {
        let connection = number as u64 % 2;
        assert_eq!(bed.store.put(connection, begin(number)).await.unwrap(), more(2));
    }
    let full = bed.store.put(3, begin(PARTIAL_MAX)).await.unwrap_err();
    assert_eq!(full.code, Code::Busy);
    assert_eq!(partials(&bed.root), PARTIAL_MAX);
    bed.store.connection_ended(0);
    assert_eq!(partials(&bed.root), PARTIAL_MAX / 2);
    assert_eq!(bed.store.put(3, begin(PARTIAL_MAX)).await.unwrap(), more(2));
    assert_eq!(bed.store.put(1, begin(1)).await.unwrap(), more(2), "others go on");
}

#[tokio::test]
async fn who_stands_still_longest_makes_place_for_another() {
    let bed = bed();
    let (one, two) = (b"of one".to_vec(), b"of two".to_vec());
    bed.store.put(1, piece(&one, 0, 2)).await.unwrap();
    bed.store.put(2, piece(&two, 0, 2)).await.unwrap();
    bed.store.put(1, piece(&one, 2, 3)).await.unwrap();
    give_up_idle(&mut bed.store.lock(), Instant::now());
    assert_eq!(partials(&bed.root), 2, "not for long yet");
    give_up_idle(&mut bed.store.lock(), Instant::now() + IDLE);
    assert_eq!(partials(&bed.root), 1);
    assert_eq!(bed.store.put(2, piece(&two, 2, 3)).await.unwrap(), more(0), "begins anew");
    assert_eq!(bed.store.put(1, piece(&one, 3, 4)).await.unwrap(), more(4), "the other goes on");
}

/// What a kill leaves at each point: before the rename a partial file, after it a body that is whole.
#[tokio::test]
async fn a_start_after_a_crash_has_whole_bodies_only() {
    let bed = bed();
    let (half, whole) = (b"half sent".to_vec(), b"whole".to_vec());
    bed.store.put(1, piece(&half, 0, 4)).await.unwrap();
    bed.store.put(1, piece(&whole, 0, 5)).await.unwrap();
    // A killed process runs no destructor: its files stay.
    let left = bed.root.lib().join("blob/partial").join(format!("{}.7", digest(b"flushed")));
    std::fs::write(&left, b"flushed").unwrap();
    let Bed { store, root, _dir } = bed;
    std::mem::forget(store);
    assert_eq!(partials(&root), 2);
    let again = Store::open(&root).unwrap();
    assert_eq!(partials(&root), 0);
    assert_eq!(again.put(1, piece(&half, 4, 9)).await.unwrap(), more(0), "begins anew");
    assert!(again.put(1, piece(&whole, 0, 0)).await.unwrap().done);
    assert!(!root.blob(&digest(b"flushed")).exists());
}

#[tokio::test]
async fn the_sweep_takes_what_had_no_name_for_an_hour() {
    let bed = bed();
    let bodies: [&[u8]; 5] = [b"named", b"came later", b"old", b"asked for", b"written anew"];
    let path = |body: &[u8]| bed.root.blob(&digest(body));
    for body in bodies {
        bed.store.put(1, piece(body, 0, body.len())).await.unwrap();
        age(&path(body));
    }
    let leftover = path(b"old").with_file_name(format!(".{}.9.0.tmp", digest(b"old")));
    std::fs::write(&leftover, b"o").unwrap();
    std::fs::remove_file(path(b"came later")).unwrap();

    let named = HashSet::from([digest(b"named")]);
    let look = |now| bed.store.unused(&named, now, Work::default()).unwrap();
    let sweep = |now| bed.store.remove(&look(now), now).unwrap();
    let swept = sweep(0);
    assert_eq!((swept.bodies, swept.leftovers), (0, 1), "however old the clock says they are");
    std::fs::write(path(b"came later"), b"came later").unwrap();
    // A job puts the same body there: its file takes the place.
    let new = path(b"written anew").with_extension("new");
    std::fs::write(&new, b"written anew").unwrap();
    std::fs::rename(&new, path(b"written anew")).unwrap();
    age(&path(b"written anew"));
    assert_eq!(bed.store.keep(&digest(b"asked for")).await.unwrap(), Some(9));
    assert_eq!(bed.store.keep(&digest(b"never sent")).await.unwrap(), None);
    assert_eq!(sweep(HOUR - 1).bodies, 0);
    let due = look(HOUR);
    assert_eq!(due.bodies, [digest(b"old")]);
    // Told of between the look and the removal.
    assert_eq!(bed.store.keep(&digest(b"old")).await.unwrap(), Some(3));
    assert_eq!(bed.store.remove(&due, HOUR).unwrap().bodies, 0);
    assert_eq!(sweep(HOUR).bodies, 0);
    let swept = sweep(3 * HOUR);
    assert_eq!((swept.bodies, swept.bytes), (4, 34));
    assert!(path(b"named").exists());
}

fn config(image: &[u8]) -> Arc<Snapshot> {
    let seed = ClusterSeed {
        uuid: ClusterUuid(uuid::Uuid::nil()),
        name: "c.test".to_owned(),
        master_node: NodeUuid(uuid::Uuid::nil()),
        master_ip: String::new(),
        enabled_hypervisors: vec!["fake".to_owned()],
        now: 1.0,
    };
    let image = json!({ "name": "deb", "digest": digest(image), "bytes": 1, "serial_no": 1, "ctime": 1.0, "mtime": 1.0 });
    let put = |kind: &str, key: &str, body: String| WatchChange {
        kind: kind.to_owned(),
        key: key.to_owned(),
        rev: 1,
        body: Some(body),
    };
    let all = vec![
        put(kind::CLUSTER, kind::CLUSTER_KEY, serde_json::to_string(&cluster(seed)).unwrap()),
        put(kind::IMAGE, "deb", image.to_string()),
    ];
    let mut mirror = Mirror::new();
    mirror.apply(&WatchItem::Reset { index: 1, history: uuid::Uuid::nil() }).unwrap();
    mirror.apply(&WatchItem::Chunk(all)).unwrap();
    mirror.apply(&WatchItem::Loaded).unwrap();
    mirror.snapshot()
}

fn task(id: u64, state: u8, more: Value) -> Shown {
    let mut task = json!({ "id": id, "state": state, "received": [1, 0],
        "spec": { "pool": "p", "execute": [{ "command": "x" }], "input": more["input"] } });
    task["attempts"] = more.get("attempts").cloned().unwrap_or_else(|| json!([]));
    task["result"] = more["result"].clone();
    Shown::Task { rev: 1, task: Arc::new(serde_json::from_value(task).unwrap()) }
}

#[tokio::test]
async fn what_tasks_and_images_name_stays() {
    let bed = bed();
    let bodies: [&[u8]; 6] = [b"input", b"out", b"err", b"archive", b"image", b"nobody's"];
    for body in bodies {
        bed.store.put(1, piece(body, 0, body.len())).await.unwrap();
        age(&bed.root.blob(&digest(body)));
    }
    let named = |body: &[u8]| json!({ "digest": digest(body), "bytes": body.len() });
    let step = json!({ "name": "s", "why": "exit", "exit": 0, "wall_ms": 1, "cpu_us": 1, "memory_peak_bytes": 1,
        "out": named(b"out"), "err": named(b"err") });
    let view = View::default();
    view.apply(vec![
        task(1, 0, json!({ "input": named(b"input") })),
        task(2, 5, json!({ "result": { "steps": [step], "archive": named(b"archive") } })),
    ]);
    let nothing = unused(&bed.store, &view, &Snapshot::default(), 0).unwrap();
    assert_eq!(nothing, Unused::default(), "images are not known yet");
    let config = config(b"image");
    let look = |now| unused(&bed.store, &view, &config, now).unwrap();

    // An attempt that ran when a body was first seen may have put it there, and names it when it ends; one that began
    // later has nothing to do with it.
    let attempt = |job: u64| json!({ "attempts": [{ "number": 1, "lease": uuid::Uuid::nil(), "job": job, "start": [1, 0] }] });
    view.apply(vec![task(3, 3, attempt(8))]);
    assert_eq!(look(0).bodies, [""; 0]);
    view.apply(vec![task(4, 3, attempt(9))]);
    assert_eq!(look(3 * HOUR).bodies, [""; 0]);
    view.apply(vec![Shown::TaskGone(gantry_model::ids::TaskId(3))]);
    let swept = bed.store.remove(&look(3 * HOUR), 3 * HOUR).unwrap();
    assert_eq!((swept.bodies, swept.bytes), (1, 8));
    let left: Vec<bool> = bodies.iter().map(|body| bed.root.blob(&digest(body)).exists()).collect();
    assert_eq!(left, [true, true, true, true, true, false]);
}
