//! The verbs on copies. Each is carried out whole on its log's thread, whoever waits for it; an answer leaves after the
//! flush, and after a master here was deposed by what it means (P1.9).

use super::log::{Seat, failure};
use super::snapshot::{Incoming, Outgoing};
use super::{Copies, bad, blocking};
use gantry_copies::{facts, wire};
use gantry_model::role::Role;
use gantry_proto::copies::{
    APPEND_ROWS_MAX, AppendReply, AppendRequest, BodyGetReply, BodyGetRequest, BodyPutRequest, DIGESTS_MAX,
    Digest, FETCH_BYTES_MAX, Facts, FetchReply, FetchRequest, Log, LookReply, MakeReply, MakeRequest,
    PromiseReply, PromiseRequest, Refusal, SnapshotGetReply, SnapshotGetRequest, SnapshotId,
    SnapshotPutReply, SnapshotPutRequest, TokenRequest,
};
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::PieceReply;
use gantry_store::core::Rules;
use gantry_store::core::copy::{self, Claim, MakeRefusal};
use gantry_store::{AppendRefusal, EmptyCopy, Fetched, LogKind, SnapshotFile};
use uuid::Uuid;

/// Name of a snapshot file on its way here; beside the log, so that its room is the log's.
fn incoming_name(log: LogKind) -> &'static str {
    match log {
        LogKind::W => "wconf.snapshot.part",
        LogKind::Q => "queue.snapshot.part",
    }
}

impl Copies {
    /// What one copy says of itself; None: there is none.
    pub(super) async fn facts(&self, log: Log) -> Result<Option<Facts>, Fail> {
        let thread = self.of(log).clone();
        if !blocking({
            let thread = thread.clone();
            move || Ok(thread.is_started() || thread.exists()?)
        })
        .await?
        {
            return Ok(None);
        }
        thread.run(|seat| Ok(seat.try_with(|copy| copy.look())?.map(|look| facts::facts(&look)))).await
    }

    /// What this node's copies say of themselves.
    ///
    /// # Errors
    /// The store's: a copy that can't be opened says nothing.
    pub async fn look(&self) -> Result<LookReply, Fail> {
        let mut copies = Vec::new();
        for log in [Log::W, Log::Q] {
            copies.extend(self.facts(log).await?.map(|facts| (log, facts)));
        }
        Ok(LookReply { node: self.node, master: self.roles.master(), copies })
    }

    /// Promises terms.
    ///
    /// # Errors
    /// `NotFound` without such a copy; the store's. Then nothing may be counted as promised.
    pub async fn promise(&self, request: PromiseRequest) -> Result<PromiseReply, Fail> {
        if request.claims.len() > 2 {
            return Err(bad("there are two logs"));
        }
        let mut answers = Vec::new();
        for (log, claim) in &request.claims {
            let wanted = wire::to_claim(claim);
            let answer = self.of(*log).run(move |seat| seat.with(|copy| copy.promise(&wanted))).await?;
            let answer = answer.map(|look| facts::facts(&look)).map_err(wire::refusal);
            let refused = answer.is_err();
            answers.push((*log, answer));
            if refused {
                break;
            }
            self.heard(claim.term.epoch).await?;
        }
        Ok(PromiseReply { answers })
    }

    /// Takes rows.
    ///
    /// # Errors
    /// `NotFound` without such a copy; the store's. Then nothing is confirmed.
    pub async fn append(&self, request: AppendRequest) -> Result<AppendReply, Fail> {
        if request.rows.len() > APPEND_ROWS_MAX {
            return Err(bad(format!("{APPEND_ROWS_MAX} rows at most")));
        }
        let (log, epoch) = (request.log, request.claim.term.epoch);
        if request.absent.len() > DIGESTS_MAX {
            return Err(Fail::new(Code::BadRequest, format!("{DIGESTS_MAX} absent bodies at most")));
        }
        let absent = request.absent.clone();
        let append = wire::to_append(request);
        let work = move |seat: &mut Seat| seat.with(|copy| copy.append_without(&append, &absent));
        let reply = self.of(log).run(work).await?;
        match reply {
            Ok(matched) => {
                self.heard(epoch).await?;
                Ok(AppendReply::Matched(matched.0))
            }
            Err(AppendRefusal::Refusal(why)) => Ok(AppendReply::Refused(wire::refusal(why))),
            Err(AppendRefusal::Bodies(mut missing)) => {
                missing.truncate(DIGESTS_MAX);
                Ok(AppendReply::Bodies(missing))
            }
        }
    }

    /// Reads rows for a writer that recovers.
    ///
    /// # Errors
    /// `NotFound` without such a copy; the store's.
    pub async fn fetch(&self, request: FetchRequest) -> Result<FetchReply, Fail> {
        let (claim, after) = (wire::to_claim(&request.claim), wire::to_place(request.after));
        let most = usize::try_from(request.bytes_max.min(FETCH_BYTES_MAX)).unwrap_or(usize::MAX);
        let fetched = self.of(request.log).run(move |seat| seat.with(|copy| copy.fetch(&claim, after, most)));
        Ok(match fetched.await? {
            Ok(Fetched::Rows(rows)) => FetchReply::Rows(rows.into_iter().map(wire::row).collect()),
            Ok(Fetched::Compacted(base)) => FetchReply::Compacted(wire::place(base)),
            Ok(Fetched::Diverged) => FetchReply::Diverged,
            Err(why) => FetchReply::Refused(wire::refusal(why)),
        })
    }

    /// Makes empty copies with a new id instead of those the caller was told of, which go aside. Copies of the new id
    /// stay as they are. One of which not even the vote can be read is nobody's, and goes aside like none: it counts for
    /// nothing, so nobody is robbed of what it has promised.
    ///
    /// # Errors
    /// `Denied` on a master; the store's.
    pub async fn make(&self, request: MakeRequest) -> Result<MakeReply, Fail> {
        if self.roles.current().role == Role::Master {
            return Err(Fail::new(Code::Denied, "this node is a master: its copies are not made anew"));
        }
        let copy_id = request.copy_id;
        let mut wishes = Vec::new();
        for (log, claim) in &request.claims {
            let old = request.instead_of.iter().find(|(of, _)| of == log).map(|(_, copy_id)| *copy_id);
            wishes.push((*log, wire::to_claim(claim), old));
        }
        // First look at both, so that a late call touches neither.
        for really in [false, true] {
            for (log, claim, old) in wishes.clone() {
                let made = self.of(log).run(move |seat| make(seat, &claim, old, copy_id, really)).await?;
                match made {
                    Ok(()) => {}
                    Err(MakeRefusal::OtherCopy(found)) => return Ok(MakeReply::OtherCopy(log, found)),
                    Err(MakeRefusal::Refused(why)) => {
                        return Ok(MakeReply::Refused(log, wire::refusal(why)));
                    }
                }
            }
        }
        Ok(MakeReply::Made)
    }

    /// Gives a copy its next token.
    ///
    /// # Errors
    /// `NotFound` without such a copy; the store's.
    pub async fn token(&self, request: TokenRequest) -> Result<Option<Refusal>, Fail> {
        let claim = wire::to_claim(&request.claim);
        let (old, new) = (request.old, request.new);
        let stored = self.of(request.log).run(move |seat| seat.with(|copy| copy.set_token(&claim, old, new)));
        let stored = stored.await?;
        gantry_rt::crash::point(&format!("token-{:?}-stored", request.log));
        Ok(stored.err().map(wire::refusal))
    }

    /// Takes a piece of a snapshot; with the last one the copy takes it over.
    ///
    /// # Errors
    /// `BadRequest` for what is no such snapshot; `NotFound` without such a copy; the store's.
    pub async fn snapshot_put(&self, request: SnapshotPutRequest) -> Result<SnapshotPutReply, Fail> {
        let (log, epoch) = (request.log, request.claim.term.epoch);
        let reply = self.of(log).run(move |seat| take_snapshot(seat, &request)).await?;
        if let SnapshotPutReply::Taken(_) = reply {
            self.heard(epoch).await?;
        }
        Ok(reply)
    }

    /// A piece of a snapshot of the own copy.
    ///
    /// # Errors
    /// `NotFound` without such a copy; the store's.
    pub async fn snapshot_get(&self, request: SnapshotGetRequest) -> Result<SnapshotGetReply, Fail> {
        self.of(request.log).run(move |seat| give_snapshot(seat, &request)).await
    }

    /// Which bodies are not here.
    ///
    /// # Errors
    /// The disk's.
    pub async fn body_have(&self, wanted: Vec<Digest>) -> Result<Vec<Digest>, Fail> {
        let bodies = self.bodies.clone();
        blocking(move || bodies.have(&wanted)).await
    }

    /// A piece of a body.
    ///
    /// # Errors
    /// `NotFound` when it is not here; the disk's.
    pub async fn body_get(&self, request: BodyGetRequest) -> Result<BodyGetReply, Fail> {
        let bodies = self.bodies.clone();
        blocking(move || bodies.get(&request)).await
    }

    /// Takes a piece of a body.
    ///
    /// # Errors
    /// `BadRequest` for what is no such body; `Busy` for lack of room; the disk's.
    pub async fn body_put(&self, request: BodyPutRequest) -> Result<PieceReply, Fail> {
        let bodies = self.bodies.clone();
        blocking(move || bodies.put(&request)).await
    }
}

fn make(
    seat: &mut Seat,
    claim: &Claim,
    instead_of: Option<Uuid>,
    copy_id: Uuid,
    really: bool,
) -> Result<Result<(), MakeRefusal>, Fail> {
    let here = seat.try_with(|copy| copy.look())?.and_then(|look| look.readable_vote().cloned());
    let instead_of = instead_of.filter(|copy_id| !copy_id.is_nil());
    let vote = match copy::make(here.as_ref(), claim, instead_of, copy_id, Rules::ALL) {
        Ok(vote) => vote,
        Err(why) => return Ok(Err(why)),
    };
    if !really || here.is_some_and(|here| here == vote) {
        return Ok(Ok(()));
    }
    seat.close();
    let empty = EmptyCopy { cluster: vote.cluster, history: vote.history, copy_id: vote.copy_id };
    gantry_store::Copy::make(&seat.dir, seat.log, &empty).map_err(|why| failure(&why))?;
    // A crash before this leaves a copy that has promised nothing: the request is repeated, or its writer connects.
    Ok(seat.with(|copy| copy.promise(claim))?.map(|_| ()).map_err(MakeRefusal::from))
}

fn take_snapshot(seat: &mut Seat, request: &SnapshotPutRequest) -> Result<SnapshotPutReply, Fail> {
    if request.offset == 0
        && !seat.incoming.as_ref().is_some_and(|known| known.is(&request.of, &request.claim.nonce))
    {
        // Asked before a byte is kept: an old writer's snapshot takes no room here.
        let claim = wire::to_claim(&request.claim);
        if let Err(why) = seat.with(|copy| copy.promise(&claim))? {
            return Ok(SnapshotPutReply::Refused(wire::refusal(why)));
        }
        let path = seat.dir.join(incoming_name(seat.log));
        seat.incoming = Some(Incoming::create(path, request.of, request.claim.nonce)?);
    }
    let Some(incoming) = seat.incoming.as_mut().filter(|one| one.is(&request.of, &request.claim.nonce))
    else {
        return Ok(SnapshotPutReply::More(0));
    };
    let whole = match incoming.take(request.offset, &request.bytes) {
        Ok(whole) => whole,
        Err(why) => {
            seat.incoming = None;
            return Err(why);
        }
    };
    if !whole {
        return Ok(SnapshotPutReply::More(incoming.next()));
    }
    let path = incoming.path().to_owned();
    seat.incoming = None;
    let claim = wire::to_claim(&request.claim);
    let taken = seat.with(|copy| copy.snapshot_in(&claim, &path));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "a snapshot taken over stays until the next one");
        }
        Ok(()) | Err(_) => {}
    }
    Ok(match taken? {
        Ok(at) => SnapshotPutReply::Taken(wire::place(at)),
        Err(why) => SnapshotPutReply::Refused(wire::refusal(why)),
    })
}

fn give_snapshot(seat: &mut Seat, request: &SnapshotGetRequest) -> Result<SnapshotGetReply, Fail> {
    let (wanted, offset) = match request.from {
        Some((of, offset)) => (Some(of), offset),
        None => (None, 0),
    };
    if wanted.is_none() {
        seat.outgoing = None;
        let claim = wire::to_claim(&request.claim);
        match seat.with(|copy| copy.snapshot_out(&claim))? {
            Ok(SnapshotFile { path, bytes, at, crc }) => {
                let of = SnapshotId { at: wire::place(at), bytes, crc };
                seat.outgoing = Some(Outgoing::new(path, of));
            }
            Err(why) => return Ok(SnapshotGetReply::Refused(wire::refusal(why))),
        }
    }
    match &seat.outgoing {
        Some(outgoing) if wanted.is_none_or(|wanted| wanted == outgoing.of()) => {
            Ok(SnapshotGetReply::Piece { of: outgoing.of(), bytes: outgoing.piece(offset)? })
        }
        Some(_) | None => Ok(SnapshotGetReply::Gone),
    }
}
