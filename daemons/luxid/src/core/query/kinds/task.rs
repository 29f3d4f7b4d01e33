//! Tasks (ADR 0007). Rows come from luxid's own queue.

use super::mib;
use crate::core::mirror::Snapshot;
use crate::core::query::cell::Cell;
use crate::core::query::field::{Ctx, Field, FieldTable};
use crate::core::query::filter::Operand;
use crate::core::query::run::{Inputs, Mentions, OwnNeeds, Pick, Resource, TasksNeed};
use gantry_model::error::GanetiError;
use gantry_model::ids::TaskId;
use gantry_model::task::{Attempt, Task, TaskResult};
use gantry_model::time::Ts;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

pub(in crate::core::query) struct Tasks;

/// A task asked for, which may not exist.
pub(in crate::core::query) struct Row {
    id: TaskId,
    task: Option<Arc<Task>>,
    /// Why it waits, as the queue sees it now.
    waits: Option<String>,
}

type F = Field<Row>;

impl Resource for Tasks {
    type Row = Row;
    const KEY: &'static str = "id";
    const CONFIG: bool = false;
    const LATE: bool = true;

    fn fields() -> &'static FieldTable<Row> {
        static TABLE: LazyLock<FieldTable<Row>> = LazyLock::new(|| {
            FieldTable::own([spec(), course(), times(), usage()].into_iter().flatten().collect())
        });
        &TABLE
    }

    fn rows(_config: &Snapshot, _pick: &Pick) -> Result<Vec<Row>, GanetiError> {
        Ok(Vec::new())
    }

    fn late_rows(pick: &Pick, inputs: &mut Inputs) -> Vec<Row> {
        let tasks = std::mem::take(&mut inputs.tasks);
        let mut why = std::mem::take(&mut inputs.why);
        match pick {
            Pick::Named(names) => {
                let tasks: HashMap<TaskId, Arc<Task>> = tasks.into_iter().map(|t| (t.id, t)).collect();
                let row = |id| Row { id, task: tasks.get(&id).cloned(), waits: why.remove(&id) };
                ids(names).into_iter().map(row).collect()
            }
            Pick::All | Pick::Matching(_) => {
                let mut rows: Vec<Row> = tasks
                    .into_iter()
                    .map(|task| Row { id: task.id, waits: why.remove(&task.id), task: Some(task) })
                    .collect();
                rows.sort_by_key(|row| row.id);
                rows
            }
        }
    }

    fn needs(pick: &Pick, mentions: Mentions) -> OwnNeeds {
        let tasks = match pick {
            Pick::Named(names) => TasksNeed::Ids(ids(names)),
            Pick::All | Pick::Matching(_) => TasksNeed::All,
        };
        OwnNeeds { tasks, why: mentions.why, ..OwnNeeds::NOTHING }
    }

    fn is_name(operand: &Operand) -> bool {
        id(operand).is_some()
    }
}

fn id(operand: &Operand) -> Option<TaskId> {
    match operand {
        Operand::Text(text) => text.parse().ok(),
        Operand::Number(number) => u64::try_from(*number).ok().map(TaskId),
    }
}

/// Each id once, in the order given.
fn ids(names: &[Operand]) -> Vec<TaskId> {
    let mut seen = HashSet::new();
    names.iter().filter_map(id).filter(|id| seen.insert(*id)).collect()
}

fn of<'a>(row: &'a Row, get: impl FnOnce(&'a Task) -> Cell<'a>) -> Cell<'a> {
    row.task.as_deref().map_or(Cell::UNAVAIL, get)
}

fn attempt<'a>(row: &'a Row, get: impl FnOnce(&'a Attempt) -> Cell<'a>) -> Cell<'a> {
    of(row, |task| task.attempts.last().map_or(Cell::UNAVAIL, get))
}

fn result<'a>(row: &'a Row, get: impl FnOnce(&'a TaskResult) -> Cell<'a>) -> Cell<'a> {
    of(row, |task| task.result.as_ref().map_or(Cell::UNAVAIL, get))
}

fn time(ts: Option<Ts>) -> Cell<'static> {
    ts.map_or(Cell::UNAVAIL, |ts| Cell::Float(ts.epoch()))
}

fn text(text: &str) -> Cell<'_> {
    if text.is_empty() { Cell::UNAVAIL } else { Cell::Str(text) }
}

fn spec() -> Vec<F> {
    vec![
        F::number("id", "Task", "Number of the task", |r, _| Cell::Uint(r.id.0)),
        F::text("name", "Name", "Its name", |r, _| of(r, |t| text(&t.spec.name))),
        F::text("pool", "Pool", "The pool of its VM", |r, _| of(r, |t| Cell::Str(&t.spec.pool))),
        F::text("user", "User", "Who submitted it", |r, _| of(r, |t| text(&t.spec.user))),
        F::number("priority", "Priority", "Lower is more urgent", |r, _| {
            of(r, |t| Cell::Int(i64::from(t.spec.priority)))
        }),
        F::other("labels", "Labels", "Its labels", |r, _| of(r, |t| Cell::Tags(&t.spec.labels))),
        F::text("key", "Key", "The key it was submitted with", |r, _| {
            of(r, |t| Cell::str_or_unavail(t.spec.key.as_deref()))
        }),
    ]
}

fn node<'a>(row: &'a Row, ctx: &Ctx<'a>) -> Cell<'a> {
    attempt(row, |attempt| {
        let node = attempt.vm.and_then(|vm| ctx.config.nodes().name(&vm.node));
        Cell::str_or_unavail(node.map(|name| &**name))
    })
}

fn why(row: &Row) -> Cell<'_> {
    of(row, |task| Cell::str_or_unavail(row.waits.as_deref().or(task.why.as_deref())))
}

fn course() -> Vec<F> {
    vec![
        F::number("state", "State", "Where it stands, as a number", |r, _| {
            of(r, |t| Cell::Uint(u64::from(u8::from(t.state))))
        }),
        F::text("status", "Status", "Where it stands", |r, _| of(r, |t| Cell::Str(t.state.as_str()))),
        F::text("why", "Why", "Why it waits, or ended as it did", |r, _| why(r)),
        F::number("attempts", "Attempts", "How many attempts were begun", |r, _| {
            of(r, |t| Cell::Uint(t.attempts.len() as u64))
        }),
        F::number("job", "Job", "Job of the newest attempt", |r, _| {
            attempt(r, |a| a.job.map_or(Cell::UNAVAIL, |job| Cell::Uint(job.0)))
        }),
        F::text("slot", "Slot", "Slot of the newest attempt", |r, _| attempt(r, |a| text(&a.slot_name))),
        F::text("node", "Node", "Node of the newest attempt", node),
    ]
}

fn times() -> Vec<F> {
    vec![
        F::time("submitted", "Submitted", "When it was submitted", |r, _| of(r, |t| time(Some(t.received)))),
        F::time("started", "Started", "When its first attempt began", |r, _| of(r, |t| time(t.start))),
        F::time("ended", "Ended", "When it ended", |r, _| of(r, |t| time(t.end))),
    ]
}

#[allow(clippy::cast_precision_loss, reason = "seconds for people; exact below 2^53 of the unit")]
fn usage() -> Vec<F> {
    vec![
        F::float("wall", "Wall", "Wall clock of all its steps, seconds", |r, _| {
            result(r, |s| Cell::Float(s.wall_ms as f64 / 1e3))
        }),
        F::float("cpu", "CPU", "CPU time that it used, seconds", |r, _| {
            result(r, |s| Cell::Float(s.cpu_us as f64 / 1e6))
        }),
        F::unit("memory", "Memory", "Highest memory that it used", |r, _| {
            result(r, |s| mib(s.memory_peak_bytes))
        }),
        F::number("exit", "Exit", "Exit code of the last step that ran, if it exited", |r, _| {
            result(r, |s| {
                let exit = s.steps.last().and_then(|step| step.exit);
                exit.map_or(Cell::UNAVAIL, |code| Cell::Int(i64::from(code)))
            })
        }),
    ]
}
