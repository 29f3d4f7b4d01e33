//! Jobs (`spec/query.md` §5). Rows come from luxid's own queue and archive.

use crate::core::mirror::Snapshot;
use crate::core::query::cell::{Cell, OpPart};
use crate::core::query::field::{Ctx, Field, FieldTable};
use crate::core::query::filter::Operand;
use crate::core::query::live::LiveFacts;
use crate::core::query::run::{Inputs, JobsNeed, Mentions, OwnNeeds, Pick, Resource};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::JobId;
use gantry_model::job::Job;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

pub(in crate::core::query) struct Jobs;

/// A job asked for, which may not exist.
pub(in crate::core::query) struct Row {
    id: JobId,
    job: Option<Arc<Job>>,
}

type F = Field<Row>;

impl Resource for Jobs {
    type Row = Row;
    const KEY: &'static str = "id";
    const CONFIG: bool = false;
    const LATE: bool = true;

    fn fields() -> &'static FieldTable<Row> {
        static TABLE: LazyLock<FieldTable<Row>> =
            LazyLock::new(|| FieldTable::new([whole(), ops()].into_iter().flatten().collect()));
        &TABLE
    }

    fn rows(_config: &Snapshot, _pick: &Pick) -> Result<Vec<Row>, GanetiError> {
        Ok(Vec::new())
    }

    fn late_rows(pick: &Pick, inputs: &mut Inputs) -> Vec<Row> {
        let jobs = std::mem::take(&mut inputs.jobs);
        match pick {
            Pick::Named(names) => {
                let jobs: HashMap<JobId, Arc<Job>> = jobs.into_iter().map(|job| (job.id, job)).collect();
                ids(names).into_iter().map(|id| Row { id, job: jobs.get(&id).cloned() }).collect()
            }
            Pick::All | Pick::Matching(_) => {
                let mut rows: Vec<Row> =
                    jobs.into_iter().map(|job| Row { id: job.id, job: Some(job) }).collect();
                rows.sort_by_key(|row| row.id);
                rows
            }
        }
    }

    fn needs(pick: &Pick, mentions: Mentions) -> OwnNeeds {
        let jobs = match pick {
            Pick::Named(names) => JobsNeed::Ids(ids(names)),
            Pick::All | Pick::Matching(_) if mentions.archived => JobsNeed::All,
            Pick::All | Pick::Matching(_) => JobsNeed::Live,
        };
        OwnNeeds { jobs, ..OwnNeeds::NOTHING }
    }

    fn is_name(operand: &Operand) -> bool {
        id(operand).is_some()
    }
}

fn id(operand: &Operand) -> Option<JobId> {
    match operand {
        Operand::Text(text) => text.parse().ok(),
        Operand::Number(number) => u64::try_from(*number).ok().map(JobId),
    }
}

/// Each id once, in the order given.
fn ids(names: &[Operand]) -> Vec<JobId> {
    let mut seen = HashSet::new();
    names.iter().filter_map(id).filter(|id| seen.insert(*id)).collect()
}

/// Columns of one job, resolved once: what `WaitForJobChange` looks at again and again.
pub struct JobFields(Vec<&'static Field<Row>>);

impl std::fmt::Debug for JobFields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|field| &field.def.name)).finish()
    }
}

impl JobFields {
    /// The fields of these names.
    ///
    /// # Errors
    /// `OpPrereqError` (`wrong_input`) for a name that is no job field.
    pub fn new(names: &[String]) -> Result<Self, GanetiError> {
        let find = |name: &String| {
            let unknown =
                || GanetiError::prereq(format!("Unknown output fields selected: {name}"), Ecode::WrongInput);
            Jobs::fields().get(name).ok_or_else(unknown)
        };
        names.iter().map(find).collect::<Result<_, _>>().map(Self)
    }

    /// Their values in `job`, as JSON, in order.
    #[must_use]
    pub fn values(&self, job: &Arc<Job>) -> Vec<Value> {
        let (config, live) = (Snapshot::default(), LiveFacts::default());
        let ctx = Ctx { config: &config, cluster: None, live: &live };
        let row = Row { id: job.id, job: Some(Arc::clone(job)) };
        let value = |field: &&Field<Row>| serde_json::to_value(field.cell(&row, &ctx));
        self.0.iter().map(|field| value(field).unwrap_or(Value::Null)).collect()
    }
}

fn of<'a>(row: &'a Row, get: impl FnOnce(&'a Job) -> Cell<'a>) -> Cell<'a> {
    row.job.as_deref().map_or(Cell::UNAVAIL, get)
}

fn list(row: &Row, part: OpPart) -> Cell<'_> {
    of(row, |job| Cell::Ops(&job.ops, part))
}

fn whole() -> Vec<F> {
    vec![
        F::bool("archived", "Archived", "Whether the job lies in the archive", |r, _| {
            of(r, |j| Cell::Bool(j.archived))
        }),
        F::other("end_ts", "End", "When the job ended, as seconds and microseconds", |r, _| {
            of(r, |j| Cell::Time(j.end_timestamp))
        }),
        F::number("id", "ID", "Number of the job", |r, _| Cell::Uint(r.id.0)),
        F::number(
            "priority",
            "Priority",
            "Most urgent priority of its unfinished opcodes, 19 to -20",
            |r, _| of(r, |j| Cell::Int(i64::from(j.priority()))),
        ),
        F::other(
            "received_ts",
            "Received",
            "When the job was submitted, as seconds and microseconds",
            |r, _| of(r, |j| Cell::Time(Some(j.received_timestamp))),
        ),
        F::other(
            "start_ts",
            "Start",
            "When its first opcode was picked up, as seconds and microseconds",
            |r, _| of(r, |j| Cell::Time(j.start_timestamp)),
        ),
        F::text("status", "Status", "Where the job stands", |r, _| of(r, |j| Cell::Str(j.status().as_str()))),
    ]
}

fn ops() -> Vec<F> {
    vec![
        F::other("opend", "OpCode_end", "When each opcode ended", |r, _| list(r, OpPart::End)),
        F::other("opexec", "OpCode_exec", "When each opcode had its locks and began to work", |r, _| {
            list(r, OpPart::Exec)
        }),
        F::other("oplog", "OpCode_log", "What each opcode logged", |r, _| list(r, OpPart::Log)),
        F::other("oppriority", "OpCode_prio", "Priority of each opcode", |r, _| list(r, OpPart::Priority)),
        F::other("opresult", "OpCode_result", "Result of each opcode", |r, _| list(r, OpPart::Result)),
        F::other("ops", "OpCodes", "The opcodes with all their parameters", |r, _| list(r, OpPart::Input)),
        F::other("opstart", "OpCode_start", "When each opcode was picked up", |r, _| list(r, OpPart::Start)),
        F::other("opstatus", "OpCode_status", "Where each opcode stands", |r, _| list(r, OpPart::Status)),
        F::other("summary", "Summary", "One line for each opcode", |r, _| list(r, OpPart::Summary)),
    ]
}
