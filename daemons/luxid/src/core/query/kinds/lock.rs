//! Locks (`spec/query.md` §5). Rows come from wconfd.

use crate::core::mirror::Snapshot;
use crate::core::query::cell::Cell;
use crate::core::query::field::{Field, FieldTable};
use crate::core::query::run::{Inputs, Mentions, OwnNeeds, Pick, Resource};
use gantry_model::error::GanetiError;
use gantry_model::ids::JobOwner;
use gantry_model::names::natural_cmp;
use gantry_proto::wconfd::{LockRow, Want};
use std::sync::LazyLock;

pub(in crate::core::query) struct Locks;

impl Resource for Locks {
    type Row = LockRow;
    const KEY: &'static str = "";
    const CONFIG: bool = false;
    const LATE: bool = true;

    fn fields() -> &'static FieldTable<LockRow> {
        static TABLE: LazyLock<FieldTable<LockRow>> = LazyLock::new(|| FieldTable::new(fields()));
        &TABLE
    }

    fn rows(_config: &Snapshot, _pick: &Pick) -> Result<Vec<LockRow>, GanetiError> {
        Ok(Vec::new())
    }

    fn late_rows(_pick: &Pick, inputs: &mut Inputs) -> Vec<LockRow> {
        let mut rows = std::mem::take(&mut inputs.locks);
        rows.sort_by(|a, b| natural_cmp(&a.name, &b.name));
        rows
    }

    fn needs(_pick: &Pick, _mentions: Mentions) -> OwnNeeds {
        OwnNeeds { locks: true, ..OwnNeeds::NOTHING }
    }
}

fn mode(want: Want) -> Cell<'static> {
    match want {
        Want::Shared => Cell::Str("shared"),
        Want::Exclusive => Cell::Str("exclusive"),
        // Never sent in a row; nobody owns a lock by releasing it.
        Want::Release => Cell::Null,
    }
}

/// Clients want the JSON text of the owner's id: for a job its number.
fn owner(owner: &JobOwner) -> Cell<'static> {
    Cell::Text(owner.job.to_string())
}

fn fields() -> Vec<Field<LockRow>> {
    type F = Field<LockRow>;
    vec![
        F::other("mode", "Mode", "How the lock is held: exclusive or shared; null when by nobody", |l, _| {
            l.mode.map_or(Cell::Null, mode)
        }),
        F::other("name", "Name", "Name of the lock", |l, _| Cell::Str(&l.name)),
        F::other("owner", "Owner", "Who holds the lock", |l, _| {
            Cell::List(l.owners.iter().map(owner).collect())
        }),
        F::other("pending", "Pending", "Who waits for the lock, and how they want it", |l, _| {
            let entry =
                |(want, who): &(Want, JobOwner)| Cell::List(vec![mode(*want), Cell::List(vec![owner(who)])]);
            Cell::List(l.pending.iter().map(entry).collect())
        }),
    ]
}
