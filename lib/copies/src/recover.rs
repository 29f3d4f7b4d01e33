//! The start of a writer (P1.3, P1.7): promise on the own copy, promises of a majority of the best log's list, the best
//! log's rows, and the lead. It waits for others as long as it takes, saying for whom; nothing it does half-way harms,
//! since the next start takes a higher run.

use crate::bodies::Carrier;
use crate::error::CopiesError;
use crate::handle::{CopiesHandle, Parts, blocking};
use crate::heard;
use crate::link::{Link, LinkError};
use crate::{facts, wire};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use gantry_model::ids::NodeUuid;
use gantry_model::root::Root;
use gantry_proto::copies::{
    FETCH_BYTES_MAX, Facts, FetchReply, FetchRequest, PromiseReply, PromiseRequest, SnapshotGetReply,
    SnapshotGetRequest,
};
use gantry_proto::noded;
use gantry_store::core::Rules;
use gantry_store::core::copy::{Claim, Refusal};
use gantry_store::core::list::Member;
use gantry_store::core::recover::{Choice, choose, to_ask};
use gantry_store::core::row::{Batch, Position, Row, RowKind, Term};
use gantry_store::{LogKind, Opened, StartOptions, Started, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a promise may take: a flush, and 2 s for another's transaction.
const PROMISE_MS: u64 = 5_000;
/// How long a piece of rows or of a snapshot may take; the first of a snapshot is written meanwhile.
const FETCH_MS: u64 = 60_000;
/// Between two rounds of asking the silent.
const ROUND: Duration = Duration::from_millis(500);
/// How long the slow are waited for once a majority has promised: what they have more can then be taken over. Not longer,
/// since the cluster waits for its master.
const GRACE: Duration = Duration::from_millis(250);
/// Runs tried because others were heard of. Each start of a writer takes one, so a few are many.
const RUNS_MAX: usize = 100;

/// What a start needs.
pub struct Start<L> {
    /// The node's root: its logs, and its bodies.
    pub root: Root,
    /// How to start the store.
    pub options: StartOptions,
    /// This node.
    pub node: NodeUuid,
    /// The epoch that it won, by its role: a copy that is promised to another one is not led, and nothing is promised in
    /// that one's name.
    pub epoch: u64,
    /// The way to the others.
    pub link: Arc<L>,
    /// Ends waiting, and later the senders.
    pub stop: CancellationToken,
}

/// Recovers a log, leads it, and feeds its copies. Returns when the first row of the own term is committed, and the
/// objects are loaded. A log whose list is this copy alone asks nobody. `say` is told what is waited for.
///
/// # Errors
/// See [`CopiesError`]; the daemon exits and boot starts it anew.
pub async fn start<L: Link>(
    start: Start<L>,
    say: impl Fn(&str) + Send + Sync + 'static,
) -> Result<(Started, CopiesHandle<L>), CopiesError> {
    let (dir, options, log) = (start.root.lib(), start.options.clone(), start.options.log);
    let opened = blocking(move || Opened::open(&dir, options).map_err(CopiesError::from)).await?;
    let (opened, look) = on(opened, |opened| opened.look()).await?;
    let me = Member { node: start.node.0, copy_id: look.vote.copy_id };
    let (role, promised) = (Term { epoch: start.epoch, run: 0 }, look.vote.promised);
    if promised.epoch != role.epoch {
        crate::handle::tell_deposed(&*start.link, start.node, role, promised).await;
        return Err(CopiesError::OtherEpoch { role: role.epoch, promised: promised.epoch });
    }
    let recovery = Recovery { start: &start, say: &say, log, me };
    let recovered = recovery.recover(opened).await;
    if let Err(CopiesError::Deposed { term, why: Refusal::Promised(newer), .. }) = &recovered {
        crate::handle::tell_deposed(&*start.link, start.node, *term, *newer).await;
    }
    let (opened, claim) = recovered?;
    let lead = blocking(move || opened.lead(&claim).map_err(CopiesError::from)).await?;
    crash_point(log, "led");
    let Start { root, link, stop, .. } = start;
    let parts = Parts { link, root, log, me, claim, stop: stop.clone() };
    let handle = CopiesHandle::spawn(parts, lead.writer());
    say("waiting until a majority has the first row of this start");
    let loaded = tokio::select! {
        loaded = blocking(move || lead.loaded().map_err(CopiesError::from)) => loaded,
        why = handle.deposed() => Err(why),
        () = stop.cancelled() => Err(CopiesError::Stopped),
    };
    match loaded {
        Ok(started) => {
            crash_point(log, "committed");
            Ok((started, handle))
        }
        Err(why) => {
            handle.end();
            Err(why)
        }
    }
}

/// Where a test may end a start.
fn crash_point(log: LogKind, step: &str) {
    gantry_rt::crash::point(&format!("recover-{log:?}-{step}"));
}

struct Recovery<'a, L> {
    start: &'a Start<L>,
    say: &'a (dyn Fn(&str) + Send + Sync),
    log: LogKind,
    me: Member,
}

/// What the nodes that promised say, and why others have not.
type Answers = BTreeMap<Uuid, Facts>;
type Silent = BTreeMap<Uuid, String>;

fn deposed(who: String, term: Term, why: Refusal) -> CopiesError {
    CopiesError::Deposed { who, term, why }
}

fn broken(who: String, what: &str) -> CopiesError {
    CopiesError::Broken { who, what: what.to_owned() }
}

/// Why promises of one term do not come together.
enum Round {
    /// Go on with the log of this copy.
    Ready(Member),
    /// A higher run of the own epoch was heard of: take the next.
    Higher(Term),
}

impl<L: Link> Recovery<'_, L> {
    /// Promises and rows; the own copy is then what the new term goes on from.
    async fn recover(&self, mut opened: Opened) -> Result<(Opened, Claim), CopiesError> {
        let mut heard_terms = Vec::new();
        for _ in 0..RUNS_MAX {
            let look;
            (opened, look) = on(opened, |opened| opened.look()).await?;
            heard_terms.extend([look.vote.promised, look.last.term]);
            let (claim, term);
            (opened, claim) = {
                let heard = heard_terms.clone();
                on(opened, move |opened| opened.claim(&heard)).await?
            };
            term = claim.term;
            let promised;
            (opened, promised) = on(opened, move |opened| opened.promise(&claim)).await?;
            let own = promised.map_err(|why| deposed("this node's own copy".to_owned(), term, why))?;
            crash_point(self.log, "promised");
            let mut answers = BTreeMap::from([(self.me.node, facts::facts(&own))]);
            match self.gather(&claim, &mut answers).await? {
                Round::Higher(heard) => heard_terms.push(heard),
                Round::Ready(best) => {
                    crash_point(self.log, "gathered");
                    if best != self.me {
                        opened = self.adopt(opened, &claim, best).await?;
                        crash_point(self.log, "adopted");
                    }
                    return Ok((opened, claim));
                }
            }
        }
        Err(CopiesError::Broken {
            who: "recovery".to_owned(),
            what: format!("{RUNS_MAX} runs were taken by others"),
        })
    }

    /// Asks everyone named in any list heard, until the promisers are a majority of the best log's list. Those who are
    /// slow are then waited for a moment more.
    async fn gather(&self, claim: &Claim, answers: &mut Answers) -> Result<Round, CopiesError> {
        let mut silent = Silent::new();
        let mut asked = BTreeSet::from([self.me.node]);
        let mut calls = FuturesUnordered::new();
        let mut grace = None;
        loop {
            let all = heard::answers(answers.iter().map(|(node, facts)| (NodeUuid(*node), facts)));
            let choice = choose(&self.me, &all, Rules::ALL);
            for member in to_ask(all.iter().map(|answer| &answer.list)) {
                if asked.insert(member.node) {
                    calls.push(self.ask(claim, member.node));
                }
            }
            match choice {
                Choice::Suspect => return Err(CopiesError::Suspect),
                Choice::Ready { best } if calls.is_empty() => return Ok(Round::Ready(all[best].member)),
                Choice::NotMember if calls.is_empty() => return Err(CopiesError::NotMember),
                Choice::Short { have, need } if calls.is_empty() => {
                    self.tell(have, need, &silent);
                    tokio::select! {
                        () = tokio::time::sleep(ROUND) => {}
                        () = self.start.stop.cancelled() => return Err(CopiesError::Stopped),
                    }
                    // When all have answered, some do not count: damaged, or of an old image. They may be mended.
                    let all: Vec<Uuid> = match silent.is_empty() {
                        true => asked.iter().copied().filter(|node| *node != self.me.node).collect(),
                        false => silent.keys().copied().collect(),
                    };
                    all.into_iter().for_each(|node| calls.push(self.ask(claim, node)));
                }
                Choice::Ready { .. } | Choice::NotMember | Choice::Short { .. } => {}
            }
            let ready = match choice {
                Choice::Ready { best } => Some(all[best].member),
                Choice::Short { .. } | Choice::NotMember | Choice::Suspect => None,
            };
            let until = *grace.get_or_insert_with(|| tokio::time::Instant::now() + GRACE);
            tokio::select! {
                Some((node, reply)) = calls.next() => {
                    if let Some(higher) = self.note(claim, (node, reply), answers, &mut silent)? {
                        return Ok(Round::Higher(higher));
                    }
                }
                () = tokio::time::sleep_until(until), if ready.is_some() => {
                    return Ok(Round::Ready(ready.unwrap_or(self.me)));
                }
                () = self.start.stop.cancelled() => return Err(CopiesError::Stopped),
            }
        }
    }

    fn tell(&self, have: usize, need: usize, silent: &Silent) {
        let name = |node: &Uuid| self.start.link.name(NodeUuid(*node));
        let silent: Vec<_> = silent.iter().map(|(node, why)| format!("{} ({why})", name(node))).collect();
        let silent = match silent.is_empty() {
            true => "all have answered, but some are damaged or not to be believed".to_owned(),
            false => silent.join(", "),
        };
        let text = format!("{have} of {need} copies needed have promised; {silent}");
        (self.say)(&text);
        tracing::info!(log = ?self.log, text, "recovery waits");
    }

    async fn ask(&self, claim: &Claim, node: Uuid) -> (Uuid, Result<PromiseReply, LinkError>) {
        let request = PromiseRequest { claims: vec![(wire::log(self.log), wire::claim(claim))] };
        let deadline = Duration::from_millis(PROMISE_MS);
        (node, self.start.link.call::<noded::CopyPromise>(NodeUuid(node), request, deadline).await)
    }

    /// Notes an answer. A higher run of the own epoch that this node has promised, if so.
    fn note(
        &self,
        claim: &Claim,
        (node, reply): (Uuid, Result<PromiseReply, LinkError>),
        answers: &mut Answers,
        silent: &mut Silent,
    ) -> Result<Option<Term>, CopiesError> {
        let answer = reply.map(|reply| reply.answers.into_iter().next().map(|(_, answer)| answer));
        let why = match answer {
            Ok(Some(Ok(facts))) => {
                silent.remove(&node);
                answers.insert(node, facts);
                return Ok(None);
            }
            Ok(Some(Err(why))) => match wire::to_refusal(why) {
                Refusal::Promised(term) | Refusal::OtherStart(term) if term.epoch == claim.term.epoch => {
                    return Ok(Some(term));
                }
                why @ (Refusal::Promised(_) | Refusal::OtherBallot(_)) => {
                    return Err(deposed(self.start.link.name(NodeUuid(node)), claim.term, why));
                }
                why => why.to_string(),
            },
            Ok(None) => "it has no such log".to_owned(),
            Err(why) => why.to_string(),
        };
        silent.insert(node, why);
        Ok(None)
    }

    /// Takes over the rows of the best copy after the last row that is surely common: the own applied one (P1.7d).
    async fn adopt(&self, mut opened: Opened, claim: &Claim, best: Member) -> Result<Opened, CopiesError> {
        let who = || self.start.link.name(NodeUuid(best.node));
        let claim = *claim;
        (self.say)(&format!("fetching rows from {}", who()));
        let mut after;
        (opened, after) = on(opened, |opened| opened.sure()).await?;
        let (mut first, mut count) = (after, 0);
        let (mut named, mut dropped) = (BTreeSet::new(), BTreeSet::new());
        loop {
            match self.fetch(&claim, best, after).await? {
                FetchReply::Rows(more) if more.is_empty() => break,
                FetchReply::Rows(more) => {
                    let rows: Vec<Row> = more.into_iter().map(wire::to_row).collect();
                    count += rows.len();
                    for row in rows.iter().filter(|row| row.kind == RowKind::Batch) {
                        let batch =
                            Batch::decode(&row.body).map_err(|why| broken(who(), &why.to_string()))?;
                        // A later row that names it again takes back what an earlier one dropped.
                        dropped.retain(|digest| !batch.bodies.contains(digest));
                        named.extend(batch.bodies);
                        dropped.extend(batch.dropped);
                    }
                    after = rows.last().map_or(after, Row::position);
                    (opened, ()) = on(opened, move |opened| opened.spool(&rows)).await?;
                }
                FetchReply::Compacted(_) if count == 0 => {
                    let path = self.fetch_snapshot(&claim, best).await?;
                    (opened, after) = on(opened, move |opened| opened.adopt_snapshot(&claim, &path)).await?;
                    (opened, after) = match self.fetch(&claim, best, after).await? {
                        // What the own log has after the snapshot is not the best copy's.
                        FetchReply::Diverged => on(opened, |opened| opened.sure()).await?,
                        _ => (opened, after),
                    };
                    first = after;
                }
                FetchReply::Compacted(_) => return Err(broken(who(), "it compacted while it was read")),
                FetchReply::Diverged => {
                    let what = format!("row {} is committed here and another one there", after.idx);
                    return Err(broken(who(), &what));
                }
                FetchReply::Refused(why) => return Err(deposed(who(), claim.term, wire::to_refusal(why))),
            }
        }
        // Before the own copy counts for these rows: it confirms them by having them (P1.4).
        named.retain(|digest| !dropped.contains(digest));
        let named: Vec<_> = named.into_iter().collect();
        let carrier = Carrier {
            link: &*self.start.link,
            root: &self.start.root,
            log: self.log,
            node: NodeUuid(best.node),
        };
        carrier.fetch(&named).await.map_err(|why| broken(who(), &why))?;
        tracing::info!(log = ?self.log, rows = count, from = who(), "rows taken over");
        Ok(on(opened, move |opened| opened.adopt(&claim, first)).await?.0)
    }

    async fn fetch(&self, claim: &Claim, best: Member, after: Position) -> Result<FetchReply, CopiesError> {
        let request = FetchRequest {
            log: wire::log(self.log),
            claim: wire::claim(claim),
            after: wire::place(after),
            bytes_max: FETCH_BYTES_MAX,
        };
        let (node, deadline) = (NodeUuid(best.node), Duration::from_millis(FETCH_MS));
        let reply = self.start.link.call::<noded::CopyFetch>(node, request, deadline).await;
        reply.map_err(|why| broken(self.start.link.name(node), &why.to_string()))
    }

    /// The best copy's snapshot, as a file beside the log.
    async fn fetch_snapshot(&self, claim: &Claim, best: Member) -> Result<PathBuf, CopiesError> {
        let who = || self.start.link.name(NodeUuid(best.node));
        (self.say)(&format!("fetching a snapshot from {}", who()));
        let path = self.start.root.lib().join(match self.log {
            LogKind::W => "wconf.snapshot.fetched",
            LogKind::Q => "queue.snapshot.fetched",
        });
        let told = |source| CopiesError::File { path: path.display().to_string(), source };
        let (mut file, mut crc, mut from, mut got) =
            (std::fs::File::create(&path).map_err(told)?, crc32fast::Hasher::new(), None, 0_u64);
        loop {
            let request = SnapshotGetRequest { log: wire::log(self.log), claim: wire::claim(claim), from };
            let deadline = Duration::from_millis(FETCH_MS);
            let call = self.start.link.call::<noded::CopySnapshotGet>(NodeUuid(best.node), request, deadline);
            let broken = |what: String| broken(who(), &what);
            match call.await.map_err(|why| broken(why.to_string()))? {
                SnapshotGetReply::Piece { of, bytes } => {
                    if bytes.is_empty() && got < of.bytes {
                        return Err(broken("its snapshot ends early".to_owned()));
                    }
                    crc.update(&bytes);
                    got += bytes.len() as u64;
                    from = Some((of, got));
                    (file, _) = blocking_file(file, bytes, got == of.bytes).await.map_err(told)?;
                    if got < of.bytes {
                        continue;
                    }
                    if crc.finalize() == of.crc && got == of.bytes {
                        return Ok(path);
                    }
                    return Err(broken("its snapshot was damaged on its way".to_owned()));
                }
                SnapshotGetReply::Gone => return Err(broken("its snapshot went away".to_owned())),
                SnapshotGetReply::Refused(why) => {
                    return Err(deposed(who(), claim.term, wire::to_refusal(why)));
                }
            }
        }
    }
}

/// Works on the own copy on a thread that may block.
async fn on<T: Send + 'static>(
    mut opened: Opened,
    work: impl FnOnce(&mut Opened) -> Result<T, StoreError> + Send + 'static,
) -> Result<(Opened, T), CopiesError> {
    blocking(move || {
        let done = work(&mut opened)?;
        Ok((opened, done))
    })
    .await
}

/// Writes a piece, and flushes after the last.
async fn blocking_file(
    mut file: std::fs::File,
    bytes: Vec<u8>,
    last: bool,
) -> std::io::Result<(std::fs::File, ())> {
    let written = tokio::task::spawn_blocking(move || {
        file.write_all(&bytes)?;
        if last {
            file.sync_all()?;
        }
        Ok((file, ()))
    });
    written.await.map_err(std::io::Error::other)?
}
