//! The watch over what must hold, whatever happens. It knows all; nothing in the cluster asks it.

use crate::disk::{Content, at};
use gantry_store::core::copy::Claim;
use gantry_store::core::row::{Index, Position, Row, Term};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use uuid::Uuid;

/// A log of a history: `--no-voting` starts another history.
pub type Line = (Uuid, usize);

/// What a promise broken looks like.
pub type Broken = String;

/// What has been promised so far.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    committed: BTreeMap<Line, Vec<Row>>,
    rows: BTreeMap<(usize, Term, Index), (Term, Row)>,
    committers: BTreeMap<(Line, Term), (usize, [u8; 16])>,
    gone: BTreeSet<(Line, Position)>,
}

/// What was committed decides what may still go wrong; the rest follows from how a state was reached.
impl Hash for Watch {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.committed.hash(state);
    }
}

impl Watch {
    /// How many rows of a line are committed.
    pub fn count(&self, line: Line) -> u64 {
        self.committed.get(&line).map_or(0, |rows| rows.len() as u64)
    }

    /// How many rows of each line are committed.
    pub fn lines(&self) -> impl Iterator<Item = (Line, u64)> {
        self.committed.iter().map(|(line, rows)| (*line, rows.len() as u64))
    }

    /// How many starts of writers have committed something.
    pub fn writers(&self) -> u64 {
        self.committers.len() as u64
    }

    /// The committed row at `idx`.
    pub fn at(&self, line: Line, idx: Index) -> Option<&Row> {
        at(Index(0), self.committed.get(&line)?, idx)
    }

    /// Every log that a node shows is the beginning of some writer's log: a row is the same wherever it
    /// stands, and so is the row before it.
    pub fn log(&mut self, log: usize, content: &Content) -> Result<(), Broken> {
        let mut before = Term::default();
        for row in content.all() {
            let seen = (before, row);
            match self.rows.get(&(log, row.term, row.idx)) {
                None => drop(self.rows.insert((log, row.term, row.idx), (before, row.clone()))),
                Some(known) if (known.0, &known.1) == seen => {}
                Some(known) => {
                    let (idx, term, prev) = (row.idx, row.term, known.0);
                    return Err(format!(
                        "two rows {idx} of term {term}, one after {before}, one after {prev}"
                    ));
                }
            }
            before = row.term;
        }
        Ok(())
    }

    /// Rows up to `to` are taken for committed by whoever holds `rows`, which begin after `base`.
    pub fn commit(&mut self, line: Line, base: Index, rows: &[Row], to: Index) -> Result<(), Broken> {
        let committed = self.committed.entry(line).or_default();
        for n in base.0 + 1..=to.0 {
            let row = at(base, rows, Index(n)).ok_or_else(|| format!("committed row {n} is missing"))?;
            match at(Index(0), committed, Index(n)) {
                None if self.gone.contains(&(line, row.position())) => {
                    return Err(format!("row {n} of term {} was cut for good and is committed", row.term));
                }
                None if committed.len() as u64 + 1 == n => committed.push(row.clone()),
                None => return Err(format!("row {n} is committed before row {}", committed.len() + 1)),
                Some(known) if known == row => {}
                Some(known) => {
                    let (was, is) = (known.term, row.term);
                    return Err(format!("committed row {n} of term {was} became one of {is}"));
                }
            }
        }
        Ok(())
    }

    /// One start of one writer commits under a term.
    pub fn committer(&mut self, line: Line, claim: &Claim, who: usize) -> Result<(), Broken> {
        let known = self.committers.entry((line, claim.term)).or_insert((who, claim.nonce));
        if *known == (who, claim.nonce) {
            Ok(())
        } else {
            Err(format!("two writers commit in {}", claim.term))
        }
    }

    /// A copy reports rows it deletes. Those that a committed row has replaced must never come back.
    pub fn cut(&mut self, line: Line, rows: &[Row]) -> Result<(), Broken> {
        for row in rows {
            match self.at(line, row.idx).map(|committed| committed == row) {
                Some(true) => {}
                Some(false) => drop(self.gone.insert((line, row.position()))),
                None => {}
            }
        }
        Ok(())
    }

    /// A writer serves: all that writers before it acknowledged is in its log. (It may hear late that its first
    /// row is committed, when a newer writer serves already.)
    pub fn serves(&self, line: Line, term: Term, content: &Content) -> Result<(), Broken> {
        let all: Vec<&Row> = content.all().collect();
        let committed = self.committed.get(&line).into_iter().flatten();
        let lost = committed.filter(|row| row.term <= term).find(|row| {
            let nth = usize::try_from(row.idx.0 - 1).expect("small");
            all.get(nth).copied() != Some(*row)
        });
        lost.map_or(Ok(()), |row| Err(format!("a later master lacks row {} of term {}", row.idx, row.term)))
    }

    /// A node goes on alone with a new history: what of its log was acknowledged stays so.
    pub fn alone(&mut self, old: Line, new: Line, content: &Content) {
        let known = self.committed.get(&old).map_or(&[][..], Vec::as_slice);
        let kept = known.iter().zip(content.all()).take_while(|(a, b)| a == b).map(|(a, _)| a.clone());
        let kept: Vec<Row> = kept.collect();
        self.committed.insert(new, kept);
    }
}
