//! NodeD's verbs on copies of logs.

use crate::sheet::{Sheet, ids};
use gantry_proto::copies::{
    AloneRequest, AppendReply, AppendRequest, AsideReply, BodyGetReply, BodyGetRequest, BodyPutRequest,
    Claim, DamagedReply, Facts, FetchReply, FetchRequest, List, Log, LookReply, MakeReply, MakeRequest,
    Member, Place, PromiseReply, PromiseRequest, Refusal, Row, RowKind, SnapshotGetReply, SnapshotGetRequest,
    SnapshotId, SnapshotPutReply, SnapshotPutRequest, StepDownReply, Term, TokenRecord, TokenRequest,
};
use gantry_proto::noded::{
    BodyDamaged, BodyGet, BodyHave, BodyPut, CopyAlone, CopyAppend, CopyAside, CopyFetch, CopyLook, CopyMake,
    CopyPromise, CopySnapshotGet, CopySnapshotPut, CopyToken, Deposed, Elected, PieceReply, StepDown,
};

const TERM: Term = Term { epoch: 7, run: 300 };
const AT: Place = Place { term: TERM, idx: 70_000 };
const CLAIM: Claim = Claim {
    cluster: ids::CLUSTER,
    history: ids::HISTORY,
    term: TERM,
    ballot: ids::FENCE.ballot,
    nonce: [9; 16],
};
const OF: SnapshotId = SnapshotId { at: AT, bytes: 5_000_000_000, crc: 0xdead_beef };

fn facts() -> Facts {
    let token = TokenRecord { copy_id: ids::HISTORY, old: Some([1; 16]), new: [2; 16], at: AT };
    let member = Member { node: ids::NODE, copy_id: ids::HISTORY };
    Facts {
        promised: TERM,
        ballot: ids::FENCE.ballot,
        nonce: [3; 16],
        cluster: ids::CLUSTER,
        history: ids::HISTORY,
        copy_id: ids::HISTORY,
        token: Some([4; 16]),
        base: Place::default(),
        last: AT,
        list_at: 1,
        list: List { n: 2, prev: 1, members: vec![member] },
        applied: 69_999,
        tokens: vec![token],
        damaged: Some("x".to_owned()),
    }
}

fn refusals() -> [Refusal; 7] {
    [
        Refusal::Stranger,
        Refusal::Promised(TERM),
        Refusal::OtherBallot(7),
        Refusal::OtherStart(TERM),
        Refusal::Gap(AT),
        Refusal::Broken(5),
        Refusal::Malformed,
    ]
}

pub fn samples(sheet: &mut Sheet) {
    let copies = vec![(Log::W, facts()), (Log::Q, Facts { token: None, damaged: None, ..facts() })];
    let look = LookReply { node: ids::NODE, master: Some(7), copies };
    sheet.verb::<CopyLook>(&[()], &[], &[look]);
    let promise = PromiseRequest { claims: vec![(Log::W, CLAIM), (Log::Q, CLAIM)] };
    let refused = refusals().map(|why| (Log::Q, Err(why)));
    let promised = PromiseReply { answers: [(Log::W, Ok(facts()))].into_iter().chain(refused).collect() };
    sheet.verb::<CopyPromise>(&[promise], &[], &[promised]);
    let kinds = [RowKind::Batch, RowKind::List, RowKind::Empty, RowKind::Token];
    let rows = || kinds.map(|kind| Row { at: AT, kind, body: b"{}".to_vec() }).to_vec();
    let append =
        AppendRequest { log: Log::W, claim: CLAIM, prev: AT, rows: rows(), commit: 5, absent: vec![[6; 32]] };
    let appended = [
        AppendReply::Matched(300),
        AppendReply::Refused(Refusal::Stranger),
        AppendReply::Bodies(vec![[5; 32]]),
    ];
    sheet.verb::<CopyAppend>(&[append], &[], &appended);
    let fetch = FetchRequest { log: Log::Q, claim: CLAIM, after: AT, bytes_max: 1_000 };
    let fetched = [
        FetchReply::Rows(rows()),
        FetchReply::Compacted(AT),
        FetchReply::Diverged,
        FetchReply::Refused(Refusal::Malformed),
    ];
    sheet.verb::<CopyFetch>(&[fetch], &[], &fetched);
    let make = MakeRequest {
        claims: vec![(Log::W, CLAIM)],
        copy_id: ids::HISTORY,
        instead_of: vec![(Log::Q, ids::HISTORY)],
    };
    let made = [
        MakeReply::Made,
        MakeReply::Refused(Log::Q, Refusal::Stranger),
        MakeReply::OtherCopy(Log::W, Some(ids::HISTORY)),
    ];
    sheet.verb::<CopyMake>(&[make], &[], &made);
    snapshots(sheet);
    let token = TokenRequest { log: Log::W, claim: CLAIM, old: None, new: [6; 16] };
    sheet.verb::<CopyToken>(&[token], &[], &[None, Some(Refusal::Stranger)]);
    sheet.verb::<BodyHave>(&[vec![[7; 32]]], &[], &[vec![[8; 32]]]);
    let body = BodyPutRequest { digest: [7; 32], total: 300, offset: 1, bytes: vec![2] };
    sheet.verb::<BodyPut>(&[body], &[], &[PieceReply { next: 2, done: false }]);
    let piece = BodyGetReply { total: 300, bytes: vec![2] };
    sheet.verb::<BodyGet>(&[BodyGetRequest { digest: [7; 32], offset: 1 }], &[], &[piece]);
    sheet.verb::<Elected>(&[ids::FENCE], &[], &[()]);
    sheet.verb::<StepDown>(&[7], &[], &[StepDownReply { stepped: true }]);
    sheet.verb::<Deposed>(&[8], &[], &[()]);
    let alone = AloneRequest {
        history: ids::HISTORY,
        epoch: 1_007,
        ballot: ids::FENCE.ballot,
        w: AT,
        q: Place::default(),
        list_n: 4,
    };
    sheet.verb::<CopyAlone>(&[alone], &[], &[()]);
    sheet.verb::<CopyAside>(&[()], &[], &[AsideReply { count: 300, newest: vec!["W-5-12".to_owned()] }]);
    sheet.verb::<BodyDamaged>(&[()], &[], &[DamagedReply { count: 300, first: vec!["ab".to_owned()] }]);
}

fn snapshots(sheet: &mut Sheet) {
    let put = SnapshotPutRequest { log: Log::W, claim: CLAIM, of: OF, offset: 300, bytes: vec![1] };
    let taken = [
        SnapshotPutReply::More(301),
        SnapshotPutReply::Taken(AT),
        SnapshotPutReply::Refused(Refusal::Stranger),
    ];
    sheet.verb::<CopySnapshotPut>(&[put], &[], &taken);
    let get = |from| SnapshotGetRequest { log: Log::Q, claim: CLAIM, from };
    let got = [
        SnapshotGetReply::Piece { of: OF, bytes: vec![1, 2] },
        SnapshotGetReply::Gone,
        SnapshotGetReply::Refused(Refusal::Stranger),
    ];
    sheet.verb::<CopySnapshotGet>(&[get(None), get(Some((OF, 300)))], &[], &got);
}
