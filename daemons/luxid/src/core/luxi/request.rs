//! The 25 methods of LUXI (`spec/luxi.md` §5) and Gantry's own (ADR 0007, 0008) as typed requests.

use super::answer::ParseFailure;
use super::args::Args;
use crate::core::query::{Filter, Kind, Query, TagKind};
use gantry_model::error::GanetiError;
use gantry_model::ids::{JobId, LeaseUuid, TaskId};
use gantry_model::job::{PRIORITY_MAX, PRIORITY_MIN};
use serde_json::{Map, Value};

/// The opcodes of one job, not checked yet.
pub type Opcodes = Vec<Map<String, Value>>;

/// Arguments of `QueryNodes` and its like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classic {
    /// Names or uuids; none = all.
    pub names: Vec<String>,
    /// Output fields.
    pub fields: Vec<String>,
    /// Refused when true.
    pub locking: bool,
}

/// A rule for `ReplaceFilter`; predicates and action are checked by the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterRule {
    /// None makes a new rule.
    pub uuid: Option<String>,
    /// 0 first.
    pub priority: u64,
    /// Predicates as given.
    pub predicates: Vec<Value>,
    /// Action as given.
    pub action: Value,
    /// Reason trail as given.
    pub reason: Vec<Value>,
}

/// A request. `Debug` shows no opcodes: they may hold secrets.
#[derive(Clone)]
#[allow(missing_docs, reason = "named as the methods; fields as in spec/luxi.md §5")]
pub enum Request {
    Query {
        kind: Kind,
        fields: Vec<String>,
        filter: Option<Filter>,
    },
    QueryFields {
        kind: Kind,
        fields: Vec<String>,
    },
    QueryNodes(Classic),
    QueryGroups(Classic),
    QueryNetworks(Classic),
    QueryInstances(Classic),
    QueryExports {
        nodes: Vec<String>,
        locking: bool,
    },
    QueryJobs {
        ids: Vec<JobId>,
        fields: Vec<String>,
    },
    QueryFilters {
        uuids: Vec<String>,
        fields: Vec<String>,
    },
    QueryClusterInfo,
    QueryConfigValues {
        fields: Vec<String>,
    },
    QueryTags {
        kind: TagKind,
        name: String,
    },
    SubmitJob(Opcodes),
    SubmitJobToDrainedQueue(Opcodes),
    SubmitManyJobs(Vec<Opcodes>),
    WaitForJobChange(WaitForJobChange),
    CancelJob {
        id: JobId,
        kill: bool,
    },
    ArchiveJob(JobId),
    /// Age in seconds, -1 = every finished job.
    AutoArchiveJobs {
        age_s: i64,
        timeout_s: u64,
    },
    ChangeJobPriority {
        id: JobId,
        priority: i32,
    },
    SetDrainFlag(bool),
    /// Epoch; None ends the pause.
    SetWatcherPause(Option<f64>),
    ReplaceFilter(FilterRule),
    DeleteFilter {
        uuid: String,
    },
    PickupJob(JobId),
    /// The specification, not checked yet.
    SubmitTask(Value),
    CancelTask(TaskId),
    RerunTasks(Vec<TaskId>),
    QueryTask(TaskId),
    WaitForTaskChange {
        id: TaskId,
        rev: u64,
        timeout_s: u64,
    },
    /// What is wanted, not checked yet.
    LeaseRequest(Value),
    WaitForLease {
        lease: LeaseUuid,
        state: Option<String>,
        timeout_s: u64,
    },
    LeaseRenew(LeaseUuid),
    LeaseRelease(LeaseUuid),
    /// Keys and opcodes of each job.
    SubmitKeyedJob(Vec<(Vec<String>, Opcodes)>),
    QueryMembers,
    QueryCrypto,
    ConfirmMaster,
    DropCandidate(String),
}

/// Arguments of `WaitForJobChange` (`spec/jobs.md` §4).
#[derive(Debug, Clone, PartialEq)]
pub struct WaitForJobChange {
    /// The job.
    pub id: JobId,
    /// Job fields.
    pub fields: Vec<String>,
    /// Values the client has; null at first.
    pub previous: Value,
    /// Highest log serial the client has.
    pub serial: Option<u64>,
    /// Seconds the client wants to wait; the server caps it.
    pub timeout_s: u64,
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// With field definitions and a status per value.
    Full,
    /// Values alone.
    Plain,
}

macro_rules! methods {
    ($($name:ident => $parse:expr,)+) => {
        /// Names of the methods.
        pub const METHODS: &[&str] = &[$(stringify!($name)),+];

        pub(super) fn parse_method(method: &str, args: Value) -> Result<Request, ParseFailure> {
            match method {
                $(stringify!($name) => {
                    let parse: fn(&mut Args) -> Result<Request, ParseFailure> = $parse;
                    let mut args = Args::new(stringify!($name), args)?;
                    let request = parse(&mut args)?;
                    args.end()?;
                    Ok(request)
                })+
                _ => Err(ParseFailure(format!(
                    "Unable to parse LUXI request method: Invalid string value for type LuxiReq: {}",
                    super::show::shown(&Value::from(method))
                ))),
            }
        }

        impl Request {
            /// Name of the method.
            #[must_use]
            pub fn method(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => stringify!($name),)+
                }
            }
        }
    };
}

methods! {
    Query => |a| Ok(Request::Query { kind: a.kind()?, fields: a.strings()?, filter: a.filter()? }),
    QueryFields => |a| Ok(Request::QueryFields { kind: a.kind()?, fields: a.strings_or_null()? }),
    QueryNodes => |a| Ok(Request::QueryNodes(a.classic()?)),
    QueryGroups => |a| Ok(Request::QueryGroups(a.classic()?)),
    QueryNetworks => |a| Ok(Request::QueryNetworks(a.classic()?)),
    QueryInstances => |a| Ok(Request::QueryInstances(a.classic()?)),
    QueryExports => |a| Ok(Request::QueryExports { nodes: a.strings()?, locking: a.boolean()? }),
    QueryJobs => |a| Ok(Request::QueryJobs { ids: a.job_ids_or_null()?, fields: a.strings()? }),
    QueryFilters => |a| Ok(Request::QueryFilters { uuids: a.strings_or_null()?, fields: a.strings()? }),
    QueryClusterInfo => |_| Ok(Request::QueryClusterInfo),
    QueryConfigValues => |a| Ok(Request::QueryConfigValues { fields: a.strings()? }),
    QueryTags => |a| Ok(Request::QueryTags { kind: a.tag_kind()?, name: a.string_or_null()? }),
    SubmitJob => |a| Ok(Request::SubmitJob(a.opcodes()?)),
    SubmitJobToDrainedQueue => |a| Ok(Request::SubmitJobToDrainedQueue(a.opcodes()?)),
    SubmitManyJobs => |a| Ok(Request::SubmitManyJobs(a.jobs()?)),
    WaitForJobChange => wait,
    CancelJob => |a| Ok(Request::CancelJob { id: a.job_id()?, kill: a.boolean_or_false()? }),
    ArchiveJob => |a| Ok(Request::ArchiveJob(a.job_id()?)),
    AutoArchiveJobs => |a| Ok(Request::AutoArchiveJobs { age_s: a.integer()?, timeout_s: a.seconds()? }),
    ChangeJobPriority => |a| Ok(Request::ChangeJobPriority { id: a.job_id()?, priority: priority(a)? }),
    SetDrainFlag => |a| Ok(Request::SetDrainFlag(a.boolean()?)),
    SetWatcherPause => |a| Ok(Request::SetWatcherPause(a.epoch_or_null()?)),
    ReplaceFilter => rule,
    DeleteFilter => |a| Ok(Request::DeleteFilter { uuid: a.string()? }),
    PickupJob => |a| Ok(Request::PickupJob(a.job_id()?)),
    SubmitTask => |a| Ok(Request::SubmitTask(a.any()?)),
    CancelTask => |a| Ok(Request::CancelTask(a.task_id()?)),
    RerunTasks => |a| Ok(Request::RerunTasks(a.task_ids()?)),
    QueryTask => |a| Ok(Request::QueryTask(a.task_id()?)),
    WaitForTaskChange => |a| {
        Ok(Request::WaitForTaskChange { id: a.task_id()?, rev: a.seconds()?, timeout_s: a.seconds()? })
    },
    LeaseRequest => |a| Ok(Request::LeaseRequest(a.any()?)),
    WaitForLease => |a| {
        Ok(Request::WaitForLease { lease: a.lease()?, state: a.optional_string()?, timeout_s: a.seconds()? })
    },
    LeaseRenew => |a| Ok(Request::LeaseRenew(a.lease()?)),
    LeaseRelease => |a| Ok(Request::LeaseRelease(a.lease()?)),
    SubmitKeyedJob => |a| Ok(Request::SubmitKeyedJob(a.keyed_jobs()?)),
    QueryMembers => |_| Ok(Request::QueryMembers),
    QueryCrypto => |_| Ok(Request::QueryCrypto),
    ConfirmMaster => |_| Ok(Request::ConfirmMaster),
    DropCandidate => |a| Ok(Request::DropCandidate(a.string()?)),
}

fn wait(args: &mut Args) -> Result<Request, ParseFailure> {
    Ok(Request::WaitForJobChange(WaitForJobChange {
        id: args.job_id()?,
        fields: args.strings()?,
        previous: args.any()?,
        // Clients that know no entry yet send null, or -1 as older ones did.
        serial: args.integer_or_null()?.and_then(|serial| u64::try_from(serial).ok()),
        timeout_s: args.seconds()?,
    }))
}

fn priority(args: &mut Args) -> Result<i32, ParseFailure> {
    let number = args.integer()?;
    let fits = i32::try_from(number).ok().filter(|p| (PRIORITY_MIN..=PRIORITY_MAX).contains(p));
    fits.ok_or_else(|| {
        args.failure(&format!("priority {number} is not from {PRIORITY_MIN} to {PRIORITY_MAX}"))
    })
}

fn rule(args: &mut Args) -> Result<Request, ParseFailure> {
    Ok(Request::ReplaceFilter(FilterRule {
        uuid: args.optional_string()?,
        priority: args.seconds()?,
        predicates: args.list()?,
        action: args.any()?,
        reason: args.list()?,
    }))
}

impl Request {
    /// The query that answers this request, and how its rows are written; None when it is no query of rows.
    #[must_use]
    pub fn query(&self) -> Option<Result<(Query, Shape), GanetiError>> {
        let classic = |kind, c: &Classic| Query::named(kind, &c.names, &c.fields, c.locking);
        let (query, shape) = match self {
            Self::Query { kind, fields, filter } => {
                (Query::full(*kind, fields, filter.as_ref()), Shape::Full)
            }
            Self::QueryNodes(args) => (classic(Kind::Node, args), Shape::Plain),
            Self::QueryGroups(args) => (classic(Kind::Group, args), Shape::Plain),
            Self::QueryNetworks(args) => (classic(Kind::Network, args), Shape::Plain),
            Self::QueryInstances(args) => (classic(Kind::Instance, args), Shape::Plain),
            Self::QueryExports { nodes, locking } => {
                let fields = ["node", "export"].map(str::to_owned);
                (Query::named(Kind::Export, nodes, &fields, *locking), Shape::Plain)
            }
            Self::QueryJobs { ids, fields } => (Query::jobs(ids, fields), Shape::Plain),
            Self::QueryFilters { uuids, fields } => {
                (Query::named(Kind::Filter, uuids, fields, false), Shape::Plain)
            }
            Self::QueryFields { .. }
            | Self::QueryClusterInfo
            | Self::QueryConfigValues { .. }
            | Self::QueryTags { .. }
            | Self::SubmitJob(_)
            | Self::SubmitJobToDrainedQueue(_)
            | Self::SubmitManyJobs(_)
            | Self::WaitForJobChange(_)
            | Self::CancelJob { .. }
            | Self::ArchiveJob(_)
            | Self::AutoArchiveJobs { .. }
            | Self::ChangeJobPriority { .. }
            | Self::SetDrainFlag(_)
            | Self::SetWatcherPause(_)
            | Self::ReplaceFilter(_)
            | Self::DeleteFilter { .. }
            | Self::PickupJob(_)
            | Self::SubmitTask(_)
            | Self::CancelTask(_)
            | Self::RerunTasks(_)
            | Self::QueryTask(_)
            | Self::WaitForTaskChange { .. }
            | Self::LeaseRequest(_)
            | Self::WaitForLease { .. }
            | Self::LeaseRenew(_)
            | Self::LeaseRelease(_)
            | Self::SubmitKeyedJob(_)
            | Self::QueryMembers
            | Self::QueryCrypto
            | Self::ConfirmMaster
            | Self::DropCandidate(_) => return None,
        };
        Some(query.map(|query| (query, shape)))
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.method())
    }
}
