//! A whole log in one process: one writer and the copies of three nodes with real files, wired by direct calls.
//! Calls fail at random; the writer is started again and again, on any node. What was once committed stays, and
//! at the end all logs are equal.

use super::follow::{empty, open};
use super::*;
use crate::core::Rules;
use crate::core::copy::{Append, Claim, Refusal};
use crate::core::list::List;
use crate::core::recover::{Answer, Choice, CopyState, choose};
use crate::core::row::{Position, Row, Term};
use crate::core::snapshot::{Feed, feed};
use crate::io::copy::Copy;
use crate::io::feed::Shipment;
use crate::io::log;
use crate::io::look::{AppendRefusal, Fetched, Look};
use crate::io::opened::Opened;
use crate::io::sql::Db;
use crate::io::writer::Writer;
use std::time::{Duration, Instant};

/// Pieces so small that rows are spooled and sent in several.
const BYTES: usize = 300;
/// The longest wait for what must come.
pub const SOON: Duration = Duration::from_secs(20);

/// A small generator, so that a failing history can be run again by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, of: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % of
    }
}

pub struct Node {
    n: u128,
    dir: TempDir,
    pub copy: Copy,
}

pub struct Cluster {
    log: LogKind,
    pub nodes: Vec<Node>,
    epoch: u64,
    /// Bytes of rows in one call.
    pub bytes: usize,
}

/// A writer at work: where, and how far each other copy is known to be.
pub struct Master {
    at: usize,
    pub writer: Writer,
    sent: Vec<Index>,
}

impl Cluster {
    /// `members` nodes; the first one founded the cluster, the others have empty copies which its list names.
    pub fn new(log: LogKind, members: u128) -> Cluster {
        let list = |n: u128| (1..=n).map(member).collect::<Vec<_>>();
        let made = |n: u128| {
            let dir = TempDir::new().unwrap();
            if n == 1 {
                create(dir.path(), log, &Birth { members: list(members), ..birth() }).unwrap();
            } else {
                Copy::make(dir.path(), log, &empty(n)).unwrap();
            }
            let copy = open(dir.path(), log);
            Node { n, dir, copy }
        };
        Cluster { log, nodes: (1..=members).map(made).collect(), epoch: 1, bytes: BYTES }
    }

    /// Where a node's files are.
    pub fn dir(&self, at: usize) -> &Path {
        self.nodes[at].dir.path()
    }

    /// Wins the next epoch for node `at` among `up` nodes; its ballot is the epoch's number.
    pub fn elect(&mut self, at: usize, up: &[usize]) -> bool {
        let looks: Vec<Look> = up.iter().map(|n| self.nodes[*n].copy.look().unwrap()).collect();
        self.epoch = looks.iter().map(|l| l.vote.promised.epoch).max().unwrap_or_default() + 1;
        let (cluster, history) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let ballot = [u8::try_from(self.epoch % 256).unwrap(); 16];
        let claim =
            Claim { cluster, history, term: Term { epoch: self.epoch, run: 0 }, ballot, nonce: [0; 16] };
        let promised = up.iter().filter(|n| self.nodes[**n].copy.promise(&claim).unwrap().is_ok()).count();
        up.contains(&at) && promised > self.nodes.len() / 2
    }

    /// Recovery of the log by node `at`, among `up` nodes, up to the start of its writer (P1.7).
    pub fn recover(&mut self, at: usize, up: &[usize]) -> Option<Master> {
        let mut opened = Opened::open(self.nodes[at].dir.path(), StartOptions::new(self.log)).unwrap();
        let others = || up.iter().copied().filter(|n| *n != at);
        let heard: Vec<Term> = others().map(|n| self.nodes[n].copy.look().unwrap().vote.promised).collect();
        let claim = opened.claim(&heard).unwrap();
        let own = opened.promise(&claim).unwrap().ok()?;
        let mut looks = vec![(at, own)];
        for n in others() {
            looks.extend(self.nodes[n].copy.promise(&claim).unwrap().ok().map(|look| (n, look)));
        }
        let answer = |(n, look): &(usize, Look)| Answer {
            member: member(self.nodes[*n].n),
            last: look.last,
            list: look.list.1.clone(),
            commit: look.applied,
            state: CopyState::Sound,
        };
        let answers: Vec<Answer> = looks.iter().map(answer).collect();
        let Choice::Ready { best } = choose(&member(self.nodes[at].n), &answers, Rules::ALL) else {
            return None;
        };
        let best = looks[best].0;
        if best != at {
            self.adopt(&mut opened, &claim, best)?;
        }
        let lead = opened.lead(&claim).unwrap();
        let sent = self.nodes.iter().map(|n| n.copy.look().unwrap().last.idx).collect();
        Some(Master { at, writer: lead.writer(), sent })
    }

    /// Fetches what the best copy has and puts it into the own log.
    fn adopt(&mut self, opened: &mut Opened, claim: &Claim, best: usize) -> Option<()> {
        let mut after = opened.look().unwrap().last;
        let mut from = after;
        loop {
            match self.nodes[best].copy.fetch(claim, from, self.bytes).unwrap().ok()? {
                Fetched::Rows(rows) => {
                    let Some(end) = rows.last() else { break };
                    from = end.position();
                    opened.spool(&rows).unwrap();
                }
                Fetched::Diverged => {
                    let sure = opened.sure().unwrap();
                    assert_ne!(sure, after, "what is applied is in the best log");
                    (after, from) = (sure, sure);
                }
                Fetched::Compacted(_) => {
                    let file = self.nodes[best].copy.snapshot_out(claim).unwrap().ok()?;
                    let here = carried(&file.path, opened.look().unwrap().vote.copy_id, self, best);
                    after = opened.adopt_snapshot(claim, &here).unwrap();
                    opened.unspool().unwrap();
                    from = after;
                }
            }
        }
        opened.adopt(claim, after).unwrap();
        Some(())
    }

    /// One call of the sender to one copy.
    pub fn feed(&mut self, master: &mut Master, n: usize) {
        let writer = &master.writer;
        let claim = writer.claim();
        let Shipment::Rows { prev, rows, commit } =
            writer.batch_after(master.sent[n], self.bytes, 5_000).unwrap()
        else {
            let file = writer.snapshot().unwrap();
            let here = self.nodes[n].dir.path().join("arrived");
            std::fs::copy(&file.path, &here).unwrap();
            if let Ok(last) = self.nodes[n].copy.snapshot_in(&claim, &here).unwrap() {
                master.sent[n] = last.idx;
            }
            return;
        };
        match self.nodes[n].copy.append(&Append { claim, prev, rows, commit }).unwrap() {
            Ok(idx) => {
                writer.confirm(member(self.nodes[n].n).copy_id, claim.term, idx);
                master.sent[n] = idx;
            }
            Err(AppendRefusal::Refusal(Refusal::Gap(last))) => {
                let base = Index(0);
                master.sent[n] = match feed(last.idx, prev.idx, base) {
                    Feed::After(idx) => idx,
                    Feed::Snapshot => Index(0),
                };
            }
            Err(AppendRefusal::Refusal(why)) => writer.depose(&why.to_string()),
            Err(AppendRefusal::Bodies(_)) => panic!("no bodies are named"),
        }
    }

    /// Feeds the copies that are up until `idx` is committed, or the writer has ended.
    pub fn until(&mut self, master: &mut Master, up: &[usize], idx: Index) -> bool {
        let begun = Instant::now();
        loop {
            for n in up.iter().copied().filter(|n| *n != master.at).collect::<Vec<_>>() {
                self.feed(master, n);
            }
            let progress = master.writer.progress().borrow().clone();
            if let Some(why) = progress.failed {
                println!("the writer has ended: {why}");
                return false;
            }
            if progress.committed >= idx {
                return true;
            }
            assert!(begun.elapsed() < SOON, "row {idx} is not committed");
            std::thread::yield_now();
        }
    }

    fn rows(&self, n: usize) -> Vec<Row> {
        let spec = self.log.log_file();
        let db = Db::open_read(spec, &spec.path(self.nodes[n].dir.path())).unwrap();
        let base = log::base(&db.conn, spec.name).unwrap();
        log::rows(&db.conn, spec.name, base.at.idx, 1 << 20, 1 << 30).unwrap()
    }

    pub fn objects(&self, n: usize) -> Vec<String> {
        let mut found = Vec::new();
        for spec in std::iter::once(self.log.log_file()).chain(self.log.projections()) {
            if spec.objects {
                let db = Db::open_read(spec, &spec.path(self.nodes[n].dir.path())).unwrap();
                crate::io::objects::load(&db.conn, spec, &mut found).unwrap();
            }
        }
        let mut names = names(&found);
        names.sort();
        names
    }
}

/// The file, brought beside the log of whoever takes it.
fn carried(path: &Path, to: Uuid, cluster: &Cluster, _from: usize) -> std::path::PathBuf {
    let node = cluster.nodes.iter().find(|n| member(n.n).copy_id == to).unwrap();
    let here = node.dir.path().join("arrived");
    std::fs::copy(path, &here).unwrap();
    here
}

fn key(n: u64) -> Batch {
    Batch::of(vec![put("node", &n.to_string(), n, "{}"), put("lease", &(n % 5).to_string(), n, "{}")])
}

#[test]
fn rows_are_committed_by_a_majority_and_applied_only_then() {
    for log in BOTH {
        let mut cluster = Cluster::new(log, 3);
        let mut master = cluster.recover(0, &[0, 1, 2]).unwrap();
        let first = Index(3);
        assert!(cluster.until(&mut master, &[0, 1], first));
        let idx = master.writer.append(key(1)).unwrap();
        let begun = Instant::now();
        while master.writer.members()[&member(1).copy_id].confirmed < idx {
            assert!(begun.elapsed() < SOON, "the own flush");
            std::thread::yield_now();
        }
        assert_eq!(master.writer.progress().borrow().committed, first, "one of three has it");
        assert_eq!(cluster.objects(0), ["cluster/c@1"], "flushed, not applied");
        assert!(cluster.until(&mut master, &[0, 2], idx));
        assert_eq!(cluster.objects(0), ["cluster/c@1", "lease/1@1", "node/1@1"]);
        master.writer.stop();
    }
}

#[test]
fn without_a_majority_batches_are_refused_before_they_are_queued() {
    let mut cluster = Cluster::new(LogKind::W, 2);
    let mut master = cluster.recover(0, &[0, 1]).unwrap();
    assert!(cluster.until(&mut master, &[0, 1], Index(3)));
    master.writer.set_quorum(Err("node2".into()));
    assert!(
        matches!(master.writer.append(key(1)), Err(StoreError::NoMajority { silent }) if silent == "node2")
    );
    // Taking the silent one out needs no other: the new list counts from the row on.
    let (_, list) = master.writer.list();
    let alone = List { n: list.n + 1, prev: list.n, members: vec![member(1)] };
    let idx = master.writer.append_list(alone).unwrap();
    assert_eq!(idx, Index(4), "the refused batch used up no index");
    assert!(cluster.until(&mut master, &[0], idx));
    master.writer.set_quorum(Ok(()));
    let idx = master.writer.append(key(2)).unwrap();
    master.writer.wait(idx).unwrap();
    master.writer.stop();
    let started = begin(cluster.nodes[0].dir.path(), LogKind::W);
    assert_eq!(started.members, [member(1)]);
    started.writer.stop();
}

#[test]
fn a_log_of_one_grows_to_three_and_a_suspect_does_not_count() {
    for log in BOTH {
        let mut cluster = Cluster::new(log, 1);
        let mut master = cluster.recover(0, &[0]).unwrap();
        for n in 2..=3 {
            let dir = TempDir::new().unwrap();
            Copy::make(dir.path(), log, &empty(n)).unwrap();
            let copy = open(dir.path(), log);
            cluster.nodes.push(Node { n, dir, copy });
            master.sent.push(Index(0));
        }
        for n in 2..=3u64 {
            let idx = master.writer.append(key(n)).unwrap();
            let up: Vec<usize> = (0..usize::try_from(n).unwrap()).collect();
            assert!(cluster.until(&mut master, &up, idx), "a learner is fed like a member");
            let (_, list) = master.writer.list();
            let members = (1..=u128::from(n)).map(member).collect();
            let row = master.writer.append_list(List { n: list.n + 1, prev: list.n, members }).unwrap();
            assert!(cluster.until(&mut master, &up, row));
        }
        master.writer.suspect(member(2).copy_id, "shows an old token");
        let idx = master.writer.append(key(9)).unwrap();
        for _ in 0..20 {
            cluster.feed(&mut master, 1);
        }
        assert!(master.writer.progress().borrow().committed < idx, "only itself and a suspect have it");
        assert!(cluster.until(&mut master, &[0, 2], idx));
        assert_eq!(
            master.writer.members()[&member(2).copy_id].suspect.as_deref(),
            Some("shows an old token")
        );
        master.writer.stop();
    }
}

#[test]
fn a_writer_that_others_have_left_behind_stops_and_undoes_nothing() {
    for log in BOTH {
        let mut cluster = Cluster::new(log, 3);
        let mut old = cluster.recover(0, &[0, 1, 2]).unwrap();
        let idx = old.writer.append(key(1)).unwrap();
        assert!(cluster.until(&mut old, &[0, 1, 2], idx));
        let lost = old.writer.append(key(666)).unwrap();
        assert!(cluster.elect(1, &[1, 2]));
        let mut new = cluster.recover(1, &[1, 2]).unwrap();
        let idx = new.writer.append(key(2)).unwrap();
        // The new writer's rows reach the old master's node while the old writer lives.
        assert!(cluster.until(&mut new, &[0, 1, 2], idx));
        old.writer.append(key(667)).unwrap();
        assert!(old.writer.wait(lost).is_err());
        assert!(old.writer.progress().borrow().failed.is_some());
        old.writer.stop();
        cluster.feed(&mut new, 0);
        assert_eq!(cluster.objects(0), cluster.objects(1));
        assert!(!cluster.objects(0).contains(&"node/666@666".to_owned()));
        assert!(cluster.nodes[0].dir.path().join("aside").exists(), "what had to go is kept");
        new.writer.stop();
    }
}

#[test]
fn whatever_fails_committed_rows_stay_and_all_logs_become_equal() {
    for seed in 0..6 {
        let log = if seed % 2 == 0 { LogKind::W } else { LogKind::Q };
        history(log, seed);
    }
}

/// One random history: elections, restarts of writers, deaf copies, copies closed and opened again.
fn history(log: LogKind, seed: u64) {
    let mut dice = Dice(seed);
    let mut cluster = Cluster::new(log, 3);
    let mut committed: Vec<(Position, u64)> = Vec::new();
    let mut counter = 0;
    for round in 0..12 {
        let at = usize::try_from(dice.roll(3)).unwrap();
        let mut up: Vec<usize> = (0..3).filter(|n| *n == at || dice.roll(4) > 0).collect();
        if dice.roll(3) > 0 || round == 0 {
            // Another ballot; without it the node that won the last one starts its writer again.
            let founded = if round == 0 { 0 } else { at };
            up = if round == 0 { vec![0, 1, 2] } else { up };
            if !cluster.elect(founded, &up) {
                continue;
            }
            run(&mut cluster, founded, &up, &mut dice, &mut committed, &mut counter);
        } else {
            run(&mut cluster, at, &up, &mut dice, &mut committed, &mut counter);
        }
        let n = usize::try_from(dice.roll(3)).unwrap();
        cluster.nodes[n].copy = open(cluster.nodes[n].dir.path(), log);
    }
    assert!(cluster.elect(2, &[0, 1, 2]));
    let mut last = cluster.recover(2, &[0, 1, 2]).unwrap();
    let idx = last.writer.append(key(1_000_000)).unwrap();
    assert!(cluster.until(&mut last, &[0, 1, 2], idx));
    for n in [0, 1] {
        while last.sent[n] < idx {
            cluster.feed(&mut last, n);
        }
        // A call without rows carries the commit.
        cluster.feed(&mut last, n);
    }
    last.writer.stop();
    let rows = cluster.rows(2);
    assert_eq!(rows, cluster.rows(0), "seed {seed}");
    assert_eq!(rows, cluster.rows(1), "seed {seed}");
    for (at, n) in &committed {
        let row = rows
            .iter()
            .find(|r| r.position() == *at)
            .unwrap_or_else(|| panic!("seed {seed}: {at:?} is lost"));
        assert_eq!(Batch::decode(&row.body).unwrap(), key(*n), "seed {seed}");
    }
    assert!(committed.len() > 10, "seed {seed}: a history in which little happens");
    assert_eq!([cluster.objects(0), cluster.objects(1)], [cluster.objects(2), cluster.objects(2)]);
}

fn run(
    cluster: &mut Cluster,
    at: usize,
    up: &[usize],
    dice: &mut Dice,
    committed: &mut Vec<(Position, u64)>,
    counter: &mut u64,
) {
    let Some(mut master) = cluster.recover(at, up) else { return };
    let mut mine: Vec<(Index, u64)> = Vec::new();
    for _ in 0..30 {
        match dice.roll(4) {
            0 | 1 => {
                *counter += 1;
                if let Ok(idx) = master.writer.append(key(*counter)) {
                    mine.push((idx, *counter));
                }
            }
            _ => {
                let n = usize::try_from(dice.roll(3)).unwrap();
                if n != at && up.contains(&n) {
                    cluster.feed(&mut master, n);
                }
            }
        }
    }
    let last = mine.last().map(|(idx, _)| *idx);
    if up.len() > 1
        && dice.roll(2) == 0
        && let Some(last) = last
    {
        cluster.until(&mut master, up, last);
    }
    let done = master.writer.progress().borrow().committed;
    let term = master.writer.claim().term;
    committed.extend(
        mine.iter().filter(|(idx, _)| *idx <= done).map(|(idx, n)| (Position { term, idx: *idx }, *n)),
    );
    master.writer.stop();
}
