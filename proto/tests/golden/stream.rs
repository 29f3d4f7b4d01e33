//! LuxiD's stream verbs.

use crate::sheet::{Sheet, ids};
use gantry_model::ids::TaskId;
use gantry_proto::noded::{Bytes, CommandEnd, OutputPiece, PieceReply, Stream, Why};
use gantry_proto::stream::{
    BlobGet, BlobGetRequest, BlobPut, BlobPutRequest, LeaseExec, LeaseExecRequest, LeaseGet, LeaseGetReply,
    LeaseGetRequest, LeasePut, LeasePutRequest, LeaseSignal, LeaseSignalRequest, LogPlace, StreamEvent,
    TaskLog, TaskLogEnd, TaskLogPiece, TaskLogRequest, VERBS, Watch, WatchRequest,
};

fn text(text: &str) -> String {
    text.to_owned()
}

fn tasks(sheet: &mut Sheet) {
    let from = LogPlace { attempt: 1, step: 2, out: 300, err: 4 };
    let piece =
        |stream| TaskLogPiece { attempt: 1, step: 2, name: text("run"), stream, offset: 300, bytes: vec![1] };
    let end = TaskLogEnd { state: 5, why: text("") };
    let request = TaskLogRequest { task: TaskId(7), from, follow: true };
    sheet.verb::<TaskLog>(&[request], &[Stream::Out, Stream::Err].map(piece), &[end]);
}

fn leases(sheet: &mut Sheet) {
    let exec = LeaseExecRequest {
        lease: ids::LEASE,
        vm: 1,
        exec: text("e1"),
        argv: vec![text("/bin/true")],
        env: vec![(text("A"), text("b"))],
        cwd: None,
        stdin: vec![1, 2],
        output_bytes_max: 1_048_576,
        wall_ms: 60_000,
        cpu_ms: 50_000,
        out: 3,
        err: 300,
    };
    let piece = OutputPiece { stream: Stream::Err, offset: 300, bytes: vec![9] };
    let end =
        CommandEnd { why: Why::Signal(9), wall_ms: 1, cpu_us: 2, memory_peak_bytes: 3, truncated: false };
    let signal = LeaseSignalRequest { lease: ids::LEASE, vm: 0, exec: text("e1"), signal: 15 };
    let put = LeasePutRequest {
        lease: ids::LEASE,
        vm: 0,
        upload: text("u1"),
        path: text("a"),
        offset: 300,
        bytes: vec![7],
        last: true,
    };
    let get = LeaseGetRequest { lease: ids::LEASE, vm: 0, path: text("out"), bytes_max: 70_000 };
    sheet.verb::<LeaseExec>(&[exec], &[piece], &[end]);
    sheet.verb::<LeaseSignal>(&[signal], &[], &[()]);
    sheet.verb::<LeasePut>(&[put], &[], &[PieceReply { next: 301, done: true }]);
    sheet.verb::<LeaseGet>(&[get], &[Bytes { bytes: vec![5] }], &[LeaseGetReply { files: 1, refused: 2 }]);
}

#[test]
fn stream_keeps_its_bytes() {
    let digest = "ab".repeat(32);
    let put = BlobPutRequest { digest: digest.clone(), total: 300, offset: 1, bytes: vec![2] };
    let changed = StreamEvent::Changed { kind: text("slot"), key: text("k"), state: text("CLEAN") };
    let mut sheet = Sheet::new("stream");
    sheet.verb::<BlobPut>(&[put], &[], &[PieceReply { next: 2, done: false }]);
    sheet.verb::<BlobGet>(&[BlobGetRequest { digest, offset: 300 }], &[Bytes { bytes: vec![5] }], &[()]);
    tasks(&mut sheet);
    leases(&mut sheet);
    let watch = WatchRequest { kinds: vec![text("slot"), text("task")] };
    sheet.verb::<Watch>(&[watch], &[StreamEvent::Begun, changed, StreamEvent::Lost], &[()]);
    sheet.covers(VERBS);
    sheet.check();
}
