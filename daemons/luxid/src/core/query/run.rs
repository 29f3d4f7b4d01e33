//! The course of a query: bind it, select rows by the configuration, say what else is needed, filter again with
//! that, answer. One generic engine; what differs by kind is a [`Resource`].

use super::cell::{Cell, Pair};
use super::field::{Column, Ctx, FieldDef, FieldTable};
use super::filter::{Bound, Filter, Operand, Stage};
use super::live::LiveFacts;
use crate::core::mirror::Snapshot;
use gantry_model::config::Cluster;
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::{JobId, NodeUuid, TaskId};
use gantry_model::job::Job;
use gantry_model::lease::LeaseRequest;
use gantry_model::task::Task;
use gantry_proto::wconfd::LockRow;
use serde::ser::{SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Which jobs a query looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobsNeed {
    /// None.
    Nothing,
    /// These, from the live ones and the archive; those that don't exist are left out.
    Ids(Vec<JobId>),
    /// All live ones, ascending.
    Live,
    /// All live and archived ones, ascending.
    All,
}

/// Which tasks a query looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TasksNeed {
    /// None.
    #[default]
    Nothing,
    /// These; those that don't exist are left out.
    Ids(Vec<TaskId>),
    /// All that are kept.
    All,
}

/// What of luxid's own state, and of wconfd's, a query looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnNeeds {
    pub jobs: JobsNeed,
    pub locks: bool,
    pub tasks: TasksNeed,
    pub why: bool,
    pub requests: bool,
    pub waiting: bool,
    pub short: bool,
}

impl OwnNeeds {
    pub const NOTHING: Self = Self {
        jobs: JobsNeed::Nothing,
        locks: false,
        tasks: TasksNeed::Nothing,
        why: false,
        requests: false,
        waiting: false,
        short: false,
    };
}

/// Fields that cost something beyond their row, and are mentioned by the query.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mentions {
    pub archived: bool,
    pub why: bool,
    pub waiting: bool,
}

impl Mentions {
    fn of(fields: &[String], filter: Option<&Filter>) -> Self {
        let has = |name: &str| fields.iter().any(|f| f == name) || filter.is_some_and(|f| f.mentions(name));
        Self { archived: has("archived"), why: has("why"), waiting: has("waiting") }
    }
}

/// What the shell fetches before [`Plan::finish`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Nodes to ask for their facts; none for a query of configuration only.
    pub nodes: Vec<NodeUuid>,
    /// Jobs to look up.
    pub jobs: JobsNeed,
    /// Whether to ask wconfd for its lock rows.
    pub locks: bool,
    /// Tasks to look up.
    pub tasks: TasksNeed,
    /// Whether to find out why those tasks wait that do.
    pub why: bool,
    /// Whether to fetch the requests for leases.
    pub requests: bool,
    /// Whether to count who waits for each pool.
    pub waiting: bool,
    /// Whether to find out why pools lack slots.
    pub short: bool,
}

/// What the shell fetched.
#[derive(Debug, Default)]
pub struct Inputs {
    /// Answers of the nodes asked.
    pub live: LiveFacts,
    /// Jobs as wanted by [`JobsNeed`].
    pub jobs: Vec<Arc<Job>>,
    /// Lock rows.
    pub locks: Vec<LockRow>,
    /// Tasks as wanted by [`TasksNeed`].
    pub tasks: Vec<Arc<Task>>,
    /// Why tasks wait.
    pub why: HashMap<TaskId, String>,
    /// Requests for leases.
    pub requests: Vec<Arc<LeaseRequest>>,
}

/// Which objects a query is about.
#[derive(Debug, Clone)]
pub(super) enum Pick {
    /// All that the filter keeps.
    All,
    /// These, in this order; an unknown one is an error.
    Named(Vec<Operand>),
    /// Those whose name or uuid is among these (the classic queries).
    Matching(Vec<String>),
}

/// What differs by kind.
pub(super) trait Resource: Send + Sync + 'static {
    type Row: Send + Sync + 'static;
    /// Field of name lists; empty when the kind has none.
    const KEY: &'static str;
    /// Whether rows are made from the configuration.
    const CONFIG: bool = true;
    /// Whether rows are made from the shell's inputs.
    const LATE: bool = false;

    fn fields() -> &'static FieldTable<Self::Row>;

    /// The rows that the configuration has.
    fn rows(config: &Snapshot, pick: &Pick) -> Result<Vec<Self::Row>, GanetiError>;

    /// The rows that the shell's inputs have.
    fn late_rows(_pick: &Pick, _inputs: &mut Inputs) -> Vec<Self::Row> {
        Vec::new()
    }

    /// The node whose facts the live fields of a row come from.
    fn asks(_row: &Self::Row, _config: &Snapshot) -> Option<NodeUuid> {
        None
    }

    /// What else is needed.
    fn needs(_pick: &Pick, _mentions: Mentions) -> OwnNeeds {
        OwnNeeds::NOTHING
    }

    /// Whether a name list may hold this operand.
    fn is_name(operand: &Operand) -> bool {
        matches!(operand, Operand::Text(_))
    }
}

/// A query bound to the fields of its kind. Cheap to keep; knows no state.
pub struct Query(Box<dyn Bindable>);

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Query")
    }
}

impl Query {
    pub(super) fn new<R: Resource>(fields: &[String], filter: Option<&Filter>) -> Result<Self, GanetiError> {
        let mentions = Mentions::of(fields, filter);
        let names = filter.and_then(|f| f.names(R::KEY)).filter(|names| names.iter().all(R::is_name));
        let bound = match filter {
            Some(filter) => Some(Bound::new(filter, R::fields())?),
            None => None,
        };
        let (pick, filter) = match names {
            Some(names) => (Pick::Named(names), None),
            None => (Pick::All, bound.map(Arc::new)),
        };
        Ok(Self(Box::new(Select::<R> { columns: columns::<R>(fields).into(), filter, pick, mentions })))
    }

    /// A classic query (`spec/luxi.md` §5).
    pub(super) fn classic<R: Resource>(pick: Pick, fields: &[String]) -> Result<Self, GanetiError> {
        let unknown: Vec<&str> =
            fields.iter().filter(|f| R::fields().get(f).is_none()).map(String::as_str).collect();
        if !unknown.is_empty() {
            let text = format!("Unknown output fields selected: {}", unknown.join(", "));
            return Err(GanetiError::prereq(text, Ecode::WrongInput));
        }
        let mentions = Mentions::of(fields, None);
        Ok(Self(Box::new(Select::<R> { columns: columns::<R>(fields).into(), filter: None, pick, mentions })))
    }

    /// Selects rows as far as the configuration allows, and says what else is needed. Costs no I/O.
    ///
    /// # Errors
    /// Unknown names, a filter that compares different types, no configuration yet.
    pub fn plan(&self, config: &Arc<Snapshot>) -> Result<Plan, GanetiError> {
        self.0.plan(config)
    }
}

fn columns<R: Resource>(fields: &[String]) -> Vec<Column<R::Row>> {
    let column = |name: &String| match R::fields().get(name) {
        Some(field) => Column::Known(field),
        None => Column::Unknown(FieldDef::unknown(name)),
    };
    fields.iter().map(column).collect()
}

trait Bindable: Send + Sync {
    fn plan(&self, config: &Arc<Snapshot>) -> Result<Plan, GanetiError>;
}

struct Select<R: Resource> {
    columns: Arc<[Column<R::Row>]>,
    filter: Option<Arc<Bound<R::Row>>>,
    pick: Pick,
    mentions: Mentions,
}

impl<R: Resource> Bindable for Select<R> {
    fn plan(&self, config: &Arc<Snapshot>) -> Result<Plan, GanetiError> {
        let cluster = if R::CONFIG { Some(Arc::clone(config.cluster()?)) } else { None };
        let mut rows = R::rows(config, &self.pick)?;
        let nothing = LiveFacts::default();
        let ctx = Ctx { config, cluster: cluster.as_deref(), live: &nothing };
        let filter_is_live = self.filter.as_ref().is_some_and(|filter| filter.is_live());
        // Rows of the configuration are filtered for good unless the filter waits for live fields.
        let again = filter_is_live || R::LATE;
        if let Some(filter) = &self.filter {
            keep(&mut rows, filter, &ctx, if again { Stage::Config } else { Stage::Live })?;
        }
        let column_is_live = |column: &Column<R::Row>| matches!(column, Column::Known(field) if field.live);
        let live = filter_is_live || self.columns.iter().any(column_is_live);
        let nodes: BTreeSet<NodeUuid> =
            if live { rows.iter().filter_map(|row| R::asks(row, config)).collect() } else { BTreeSet::new() };
        let OwnNeeds { jobs, locks, tasks, why, requests, waiting, short } =
            R::needs(&self.pick, self.mentions);
        let filter = self.filter.clone().filter(|_| again);
        Ok(Plan {
            needs: Needs {
                nodes: nodes.into_iter().collect(),
                jobs,
                locks,
                tasks,
                why,
                requests,
                waiting,
                short,
            },
            rest: Box::new(Selected::<R> {
                config: Arc::clone(config),
                cluster,
                columns: Arc::clone(&self.columns),
                filter,
                pick: self.pick.clone(),
                rows,
            }),
        })
    }
}

fn keep<R>(rows: &mut Vec<R>, filter: &Bound<R>, ctx: &Ctx<'_>, stage: Stage) -> Result<(), GanetiError> {
    let mut failed = None;
    rows.retain(|row| {
        let ctx = Ctx { ..*ctx };
        match filter.keeps(row, &ctx, stage) {
            Ok(keeps) => keeps && failed.is_none(),
            Err(error) => {
                failed.get_or_insert(error);
                false
            }
        }
    });
    failed.map_or(Ok(()), Err)
}

/// A query half done: rows are selected, what comes from elsewhere is still missing. Owns all it needs, so
/// that the shell may hold it across its waits.
pub struct Plan {
    needs: Needs,
    rest: Box<dyn Finish>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("needs", &self.needs).finish_non_exhaustive()
    }
}

impl Plan {
    /// What to fetch.
    #[must_use]
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// The answer, with what was fetched.
    ///
    /// # Errors
    /// A filter that compares different types.
    pub fn finish(self, inputs: Inputs) -> Result<Answer, GanetiError> {
        self.rest.finish(inputs)
    }
}

trait Finish: Send {
    fn finish(self: Box<Self>, inputs: Inputs) -> Result<Answer, GanetiError>;
}

struct Selected<R: Resource> {
    config: Arc<Snapshot>,
    cluster: Option<Arc<Cluster>>,
    columns: Arc<[Column<R::Row>]>,
    filter: Option<Arc<Bound<R::Row>>>,
    pick: Pick,
    rows: Vec<R::Row>,
}

impl<R: Resource> Finish for Selected<R> {
    fn finish(mut self: Box<Self>, mut inputs: Inputs) -> Result<Answer, GanetiError> {
        self.rows.append(&mut R::late_rows(&self.pick, &mut inputs));
        if let Some(filter) = &self.filter {
            let ctx = Ctx { config: &self.config, cluster: self.cluster.as_deref(), live: &inputs.live };
            keep(&mut self.rows, filter, &ctx, Stage::Live)?;
        }
        let Self { config, cluster, columns, rows, .. } = *self;
        Ok(Answer(Box::new(Rows::<R> { config, cluster, columns, rows, live: inputs.live })))
    }
}

/// The rows of an answer and what their values are read from. Values are read while it is written.
pub struct Answer(Box<dyn Grid>);

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("rows", &self.0.rows()).finish()
    }
}

impl Answer {
    /// `{"fields": […], "data": [[[status, value]…]…]}`: the result of `Query`.
    #[must_use]
    pub fn full(&self) -> Full<'_> {
        Full(&*self.0)
    }

    /// `[[value…]…]`: the result of the classic queries.
    #[must_use]
    pub fn plain(&self) -> PlainRows<'_> {
        PlainRows(&*self.0)
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.rows()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.rows() == 0
    }
}

trait Grid: Send + Sync {
    fn columns(&self) -> Vec<&FieldDef>;
    fn rows(&self) -> usize;
    fn cell(&self, row: usize, column: usize) -> Cell<'_>;
}

struct Rows<R: Resource> {
    config: Arc<Snapshot>,
    cluster: Option<Arc<Cluster>>,
    columns: Arc<[Column<R::Row>]>,
    rows: Vec<R::Row>,
    live: LiveFacts,
}

impl<R: Resource> Grid for Rows<R> {
    fn columns(&self) -> Vec<&FieldDef> {
        self.columns.iter().map(Column::def).collect()
    }

    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn cell(&self, row: usize, column: usize) -> Cell<'_> {
        let ctx = Ctx { config: &self.config, cluster: self.cluster.as_deref(), live: &self.live };
        self.columns[column].cell(&self.rows[row], &ctx)
    }
}

/// See [`Answer::full`].
pub struct Full<'a>(&'a dyn Grid);

/// See [`Answer::plain`].
pub struct PlainRows<'a>(&'a dyn Grid);

impl Serialize for Full<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let fields = self.0.columns();
        let mut object = to.serialize_struct("Full", 2)?;
        object.serialize_field("fields", &fields)?;
        object.serialize_field("data", &Data { grid: self.0, columns: fields.len(), full: true })?;
        object.end()
    }
}

impl Serialize for PlainRows<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Data { grid: self.0, columns: self.0.columns().len(), full: false }.serialize(to)
    }
}

#[derive(Clone, Copy)]
struct Data<'a> {
    grid: &'a dyn Grid,
    columns: usize,
    full: bool,
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let rows = self.grid.rows();
        let mut list = to.serialize_seq(Some(rows))?;
        for row in 0..rows {
            list.serialize_element(&Line { data: *self, row })?;
        }
        list.end()
    }
}

struct Line<'a> {
    data: Data<'a>,
    row: usize,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut line = to.serialize_seq(Some(self.data.columns))?;
        for column in 0..self.data.columns {
            let cell = self.data.grid.cell(self.row, column);
            if self.data.full {
                line.serialize_element(&Pair(cell))?;
            } else {
                line.serialize_element(&cell)?;
            }
        }
        line.end()
    }
}
