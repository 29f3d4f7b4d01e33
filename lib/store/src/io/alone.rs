//! `--no-voting` (P1.12): a log goes on in a new history, with its own copy as the only member. Nobody is asked; what
//! others may have is lost to it, and they are strangers to it from then on.

use super::files::LogKind;
use super::flushed::Flushed;
use super::log;
use super::objects;
use super::sql::{Db, failed};
use crate::core::copy::{Ballot, Refusal, Vote};
use crate::core::list::{List, Member};
use crate::core::row::{Position, Row, RowKind, Term};
use crate::error::StoreError;
use std::path::Path;
use uuid::Uuid;

/// How a log goes on alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alone {
    /// The new history.
    pub history: Uuid,
    /// An epoch far above all heard of.
    pub epoch: u64,
    /// Its ballot.
    pub ballot: Ballot,
    /// The node that holds the copy.
    pub node: Uuid,
    /// The number of its list, the same in both logs and above what either has.
    pub list_n: u64,
    /// The end of the log as the operator was told of it.
    pub last: Position,
}

/// Begins the new history in the log file, then in the marks of its objects. Durable when it returns; repeated: the
/// same. No [`super::copy::Copy`] and no writer may have the log open. Blocks.
///
/// A crash in between leaves marks of the old history, with which nothing starts: the command is repeated then.
///
/// # Errors
/// [`StoreError::Refused`] when a higher epoch is promised or the log has grown since it was looked at.
pub fn go_alone(dir: &Path, log: LogKind, how: &Alone) -> Result<(), StoreError> {
    let spec = log.log_file();
    let mut db = Db::open(spec, &spec.path(dir))?;
    db.checkpoint()?;
    begin(&mut db, how)?;
    gantry_crash::point(&format!("alone-{log:?}-begun"));
    for spec in log.projections() {
        let mut db = Db::open(spec, &spec.path(dir))?;
        let tx = db.begin()?;
        mark(&tx, spec, how.history)?;
        tx.commit().map_err(failed(spec.name, "commit"))?;
        db.checkpoint()?;
        gantry_crash::point(&format!("alone-{}", spec.name));
    }
    Ok(())
}

fn begin(db: &mut Db, how: &Alone) -> Result<(), StoreError> {
    let (spec, file) = (db.spec, db.spec.name);
    let term = Term { epoch: how.epoch, run: 0 };
    let (tx, flushed) = db.begin_marked()?;
    let vote = log::vote(&tx, file)?;
    if (vote.history, vote.promised.epoch, vote.ballot) == (how.history, how.epoch, how.ballot) {
        return Ok(());
    }
    let base = log::base(&tx, file)?;
    let last = log::last(&tx, file, &base)?;
    let refuse = |why| Err(StoreError::Refused { term, why });
    if vote.promised.epoch >= how.epoch || i64::try_from(how.epoch).is_err() {
        return refuse(Refusal::Promised(vote.promised));
    }
    if last != how.last {
        return refuse(Refusal::Gap(last));
    }
    let before = log::newest_list(&tx, file, &base)?.1.n;
    let members = vec![Member { node: how.node, copy_id: vote.copy_id }];
    let list = List { n: how.list_n.max(before + 1), prev: before, members };
    let body = serde_json::to_vec(&list).expect("a list is plain data");
    log::insert(&tx, file, &Row { idx: last.idx.next(), term, kind: RowKind::List, body })?;
    let vote = Vote { promised: term, ballot: how.ballot, nonce: [0; 16], history: how.history, ..vote };
    log::put_vote(&tx, file, &vote)?;
    if spec.objects {
        mark(&tx, &spec, how.history)?;
    }
    tx.commit().map_err(failed(file, "commit"))?;
    flushed.note(Flushed { promised: term, last: last.idx.next() });
    Ok(())
}

fn mark(tx: &rusqlite::Connection, spec: &super::files::FileSpec, history: Uuid) -> Result<(), StoreError> {
    let mark = objects::applied(tx, spec)?;
    objects::set_applied(tx, spec, &objects::Applied { history, ..mark })
}
