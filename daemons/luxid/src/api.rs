//! LUXI's methods, one function each (`spec/luxi.md` §5): from a request to the bytes of its answer.

mod lease;
mod task;

use crate::core::cluster_info::cluster_info;
use crate::core::luxi::{self, Opcodes, ParseFailure, Shape, WaitForJobChange};
use crate::core::query::{
    Inputs, JobFields, JobsNeed, Needs, Query, QueueFlags, TasksNeed, config_values, query_fields, tags,
};
use crate::core::queue::{self, Answer, NewJob};
use crate::io::actor::Inbox;
use crate::io::blob::Store;
use crate::io::crypto;
use crate::io::members::Copies;
use crate::io::nodes::Nodes;
use crate::io::view::View;
use crate::io::wconfd::Config;
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::JobId;
use gantry_model::job::{Job, LogEntry};
use gantry_model::lease::LeaseRequest;
use gantry_model::opcode::OP_ID;
use gantry_model::task::Task;
use gantry_model::time::Ts;
use gantry_rt::clock;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Longest wait of one `WaitForJobChange`, in seconds: clients give up after 180 (`spec/jobs.md` §4).
const WAIT_S_MAX: u64 = 89;
/// How long `CancelJob` waits for a job to end, in seconds (`spec/jobs.md` §8).
const CANCEL_S: u64 = 44;
/// Rows from which on writing an answer is left to a thread that may block.
const ROWS_INLINE_MAX: usize = 200;

/// What methods work with.
#[derive(Clone)]
pub struct Api {
    /// The queue.
    pub inbox: Inbox,
    /// Jobs as committed.
    pub view: View,
    /// The configuration as committed.
    pub config: Config,
    /// Live facts.
    pub nodes: Nodes,
    /// Bodies that tasks name.
    pub store: Store,
    /// Copies of the queue.
    pub copies: Copies,
}

/// What goes back to the client.
#[derive(Debug)]
pub enum Response {
    /// An answer; the connection stays.
    Answer(Vec<u8>),
    /// The request could not be understood; the connection is closed after this.
    Close(Vec<u8>),
}

type Result<T> = std::result::Result<T, GanetiError>;

/// Answers one message.
pub async fn respond(api: &Api, message: &[u8]) -> Response {
    let request = match luxi::parse(message) {
        Ok(request) => request,
        Err(failure) => return Response::Close(luxi::parse_failure(&failure)),
    };
    tracing::debug!(method = request.method(), "request");
    match answer(api, request).await {
        Ok(bytes) => Response::Answer(bytes),
        Err(failure) => Response::Close(luxi::parse_failure(&failure)),
    }
}

async fn answer(api: &Api, request: luxi::Request) -> std::result::Result<Vec<u8>, ParseFailure> {
    use luxi::Request as R;
    if let Some(query) = request.query() {
        return Ok(match query {
            Ok((query, shape)) => rows(api, &query, shape).await.unwrap_or_else(|e| luxi::failure(&e)),
            Err(error) => luxi::failure(&error),
        });
    }
    Ok(match request {
        R::QueryFields { kind, fields } => luxi::answer(&query_fields(kind, &fields)),
        R::QueryClusterInfo => luxi::answer(&cluster_info(&api.config.snapshot())),
        R::QueryConfigValues { fields } => {
            luxi::answer(&config_values(&api.config.snapshot(), flags(api), &fields))
        }
        R::QueryTags { kind, name } => luxi::answer(&tags(&api.config.snapshot(), kind, &name)),
        R::SubmitJob(ops) => luxi::answer(&submit(api, prepare(ops)?, false).await),
        R::SubmitJobToDrainedQueue(ops) => luxi::answer(&submit(api, prepare(ops)?, true).await),
        R::SubmitManyJobs(jobs) => {
            let jobs = jobs.into_iter().map(prepare).collect::<std::result::Result<Vec<_>, _>>()?;
            luxi::answer(&submit_many(api, jobs).await)
        }
        R::WaitForJobChange(args) => luxi::answer(&wait_for_job_change(api, &args).await),
        R::CancelJob { id, kill } => luxi::answer(&cancel_job(api, id, kill).await),
        R::ArchiveJob(id) => luxi::answer(&archive_job(api, id).await),
        R::AutoArchiveJobs { age_s, timeout_s } => {
            luxi::answer(&auto_archive_jobs(api, age_s, timeout_s).await)
        }
        R::ChangeJobPriority { id, priority } => luxi::answer(&change_job_priority(api, id, priority).await),
        R::SetDrainFlag(flag) => luxi::answer(&set_drain_flag(api, flag).await),
        R::SetWatcherPause(until) => luxi::answer(&set_watcher_pause(api, until).await),
        R::ReplaceFilter(_) | R::DeleteFilter { .. } => {
            luxi::failure(&GanetiError::generic("job filter rules are not supported by this release"))
        }
        R::PickupJob(_) => luxi::failure(&GanetiError::generic("PickupJob is for internal use only")),
        R::SubmitTask(spec) => luxi::answer(&task::submit(api, spec).await),
        R::CancelTask(id) => luxi::answer(&task::cancel(api, id).await),
        R::RerunTasks(ids) => luxi::answer(&task::rerun(api, ids).await),
        R::QueryTask(id) => luxi::success(&task::query(api, id)),
        R::WaitForTaskChange { id, rev, timeout_s } => {
            luxi::answer(&task::wait(api, id, rev, timeout_s).await)
        }
        R::LeaseRequest(wish) => luxi::answer(&lease::request(api, wish).await),
        R::WaitForLease { lease, state, timeout_s } => {
            luxi::answer(&lease::wait(api, lease, state, timeout_s).await)
        }
        R::LeaseRenew(lease) => luxi::answer(&lease::renew(api, lease).await),
        R::LeaseRelease(lease) => luxi::answer(&lease::release(api, lease).await),
        R::SubmitKeyedJob(jobs) => luxi::answer(&task::submit_keyed(api, jobs).await),
        R::QueryMembers => luxi::answer(&api.copies.query(&api.config).await),
        R::QueryCrypto => luxi::answer(&crypto::query(&api.nodes, &api.config.snapshot()).await),
        R::ConfirmMaster => luxi::answer(&api.copies.confirm(&api.config).await.map(|()| true)),
        R::DropCandidate(name) => luxi::answer(&api.copies.drop_candidate(&api.config, &name).await),
        R::Query { .. }
        | R::QueryNodes(_)
        | R::QueryGroups(_)
        | R::QueryNetworks(_)
        | R::QueryInstances(_)
        | R::QueryExports { .. }
        | R::QueryJobs { .. }
        | R::QueryFilters { .. } => luxi::failure(&GanetiError::generic("this request is no query of rows")),
    })
}

// --- queries ---

async fn rows(api: &Api, query: &Query, shape: Shape) -> Result<Vec<u8>> {
    let config = api.config.snapshot();
    let plan = query.plan(&config)?;
    let needs = plan.needs().clone();
    let mut inputs = own_inputs(&api.view, &needs);
    if needs.locks {
        let rows = api.config.lock_rows().await;
        inputs.locks =
            rows.map_err(|why| GanetiError::generic(format!("can't ask wconfd for its locks: {why}")))?;
    }
    if !needs.nodes.is_empty() {
        inputs.live = api.nodes.facts(&config, &needs.nodes).await;
    }
    if needs.waiting {
        let length = |name: &str| (name.to_owned(), api.view.waiting(name) as u64);
        let lines = config.pools().iter().map(|(place, _)| length(&place.name)).collect();
        inputs.live = inputs.live.with_waiting(lines);
    }
    if needs.short {
        let why = |name: &str| Some((name.to_owned(), api.view.why_short(name)?));
        let short = config.pools().iter().filter_map(|(_, place)| why(&place.name)).collect();
        inputs.live = inputs.live.with_short(short);
    }
    let answer = plan.finish(inputs)?;
    let write = || match shape {
        Shape::Full => luxi::success(&answer.full()),
        Shape::Plain => luxi::success(&answer.plain()),
    };
    Ok(if answer.len() > ROWS_INLINE_MAX { tokio::task::block_in_place(write) } else { write() })
}

/// What a query needs of luxid's own state.
fn own_inputs(view: &View, needs: &Needs) -> Inputs {
    let tasks = tasks(view, &needs.tasks);
    let waits = |task: &Arc<Task>| {
        let why = view.why_waiting(task.id);
        (!why.is_empty()).then_some((task.id, why))
    };
    let why = if needs.why { tasks.iter().filter_map(waits).collect() } else { HashMap::new() };
    let requests = if needs.requests { requests(view) } else { Vec::new() };
    Inputs { jobs: jobs(view, needs.jobs.clone()), tasks, why, requests, ..Inputs::default() }
}

fn tasks(view: &View, need: &TasksNeed) -> Vec<Arc<Task>> {
    match need {
        TasksNeed::Nothing => Vec::new(),
        TasksNeed::Ids(ids) => ids.iter().filter_map(|id| view.task(*id)).map(|(_, task)| task).collect(),
        TasksNeed::All => view.tasks().into_iter().map(|(_, task)| task).collect(),
    }
}

/// The requests for leases; those that wait say why.
fn requests(view: &View) -> Vec<Arc<LeaseRequest>> {
    let with_why = |request: Arc<LeaseRequest>| {
        let why = view.why_request_waits(request.uuid);
        if why.is_empty() { request } else { Arc::new(LeaseRequest { why: Some(why), ..(*request).clone() }) }
    };
    view.requests().into_iter().map(with_why).collect()
}

fn jobs(view: &View, need: JobsNeed) -> Vec<Arc<Job>> {
    match need {
        JobsNeed::Nothing => Vec::new(),
        JobsNeed::Ids(ids) => ids.into_iter().filter_map(|id| view.job(id)).map(|(_, job)| job).collect(),
        JobsNeed::Live => view.live(),
        JobsNeed::All => view.all(),
    }
}

fn flags(api: &Api) -> QueueFlags {
    let now = clock::now().epoch();
    QueueFlags { drained: api.view.drained(), watcher_pause: api.view.watcher_pause(), now }
}

// --- jobs ---

/// Refuses opcodes that luxid alone submits.
fn not_ours(ops: &Opcodes) -> Result<()> {
    if ops.iter().any(|op| op.get(OP_ID).and_then(Value::as_str) == Some(queue::OP_TASK_RUN)) {
        let text = "OP_TASK_RUN is submitted by luxid alone; use SubmitTask";
        return Err(GanetiError::prereq(text, Ecode::WrongInput));
    }
    Ok(())
}

fn prepare(ops: Opcodes) -> std::result::Result<NewJob, ParseFailure> {
    not_ours(&ops).map_err(|error| ParseFailure(error.to_string()))?;
    queue::prepare(ops).map_err(|error| ParseFailure(error.to_string()))
}

async fn submit(api: &Api, job: NewJob, into_drained: bool) -> Result<JobId> {
    match api.inbox.ask(queue::Request::Submit { job, into_drained }).await? {
        Answer::Submitted(id) => Ok(id),
        other => Err(strange(&other)),
    }
}

async fn submit_many(api: &Api, jobs: Vec<NewJob>) -> Result<Vec<Value>> {
    match api.inbox.ask(queue::Request::SubmitMany(jobs)).await? {
        Answer::SubmittedMany(answers) => {
            let one = |answer: std::result::Result<JobId, GanetiError>| match answer {
                Ok(id) => json!([true, id]),
                Err(error) => json!([false, refusal(&error)]),
            };
            Ok(answers.into_iter().map(one).collect())
        }
        other => Err(strange(&other)),
    }
}

/// A refusal in words: `JobQueueFull` has no arguments that could say it.
fn refusal(error: &GanetiError) -> String {
    if error.class != "JobQueueFull" {
        return error.to_string();
    }
    let most = queue::LIVE_JOBS_MAX;
    format!(
        "the job queue is full: {most} jobs are not archived; archive finished ones (gnt-job autoarchive) or wait"
    )
}

async fn wait_for_job_change(api: &Api, args: &WaitForJobChange) -> Result<Value> {
    let fields = JobFields::new(&args.fields)?;
    let until = Instant::now() + Duration::from_secs(args.timeout_s.min(WAIT_S_MAX));
    let known = args.serial.unwrap_or(0);
    loop {
        let lost = || GanetiError::new("JobLost", "Can't load job file");
        let (rev, job) = api.view.job(args.id).ok_or_else(lost)?;
        let values = Value::Array(fields.values(&job));
        let log: Vec<&LogEntry> =
            job.ops.iter().flat_map(|op| &op.log).filter(|line| line.0 > known).collect();
        let news = values != args.previous || !log.is_empty();
        let answer = json!([values, log]);
        if news || job.status().is_final() {
            return Ok(answer);
        }
        let change = api.inbox.ask(queue::Request::Wait { job: args.id, rev });
        match timeout_at(until, change).await {
            Ok(changed) => drop(changed?),
            Err(_) => return Ok(answer),
        }
    }
}

async fn cancel_job(api: &Api, id: JobId, kill: bool) -> Result<(bool, String)> {
    let ask = api.inbox.ask(queue::Request::Cancel { job: id, kill });
    match timeout(Duration::from_secs(CANCEL_S), ask).await {
        Ok(answer) => told(answer?),
        Err(_) => {
            let status = api.view.job(id).map_or("unknown", |(_, job)| job.status().as_str());
            Ok((false, format!("Job could not be canceled, status {status}")))
        }
    }
}

async fn change_job_priority(api: &Api, id: JobId, priority: i32) -> Result<(bool, String)> {
    told(api.inbox.ask(queue::Request::SetPriority { job: id, priority }).await?)
}

fn told(answer: Answer) -> Result<(bool, String)> {
    match answer {
        Answer::Told(done, text) => Ok((done, text)),
        other => Err(strange(&other)),
    }
}

async fn archive_job(api: &Api, id: JobId) -> Result<bool> {
    match api.inbox.ask(queue::Request::Archive(id)).await? {
        Answer::Archived(done) => Ok(done),
        other => Err(strange(&other)),
    }
}

async fn auto_archive_jobs(api: &Api, age_s: i64, timeout_s: u64) -> Result<(u64, u64)> {
    let until = Instant::now() + Duration::from_secs(timeout_s.min(WAIT_S_MAX));
    let now = clock::now();
    let before = u64::try_from(age_s).ok().map(|age| Ts(now.0.saturating_sub(age), now.1));
    let (mut total, mut after) = (0, JobId(0));
    loop {
        match api.inbox.ask(queue::Request::ArchiveOld { before, after }).await? {
            Answer::ArchivedOld { archived, next, left } => {
                total += archived;
                match next {
                    Some(id) if Instant::now() < until => after = id,
                    Some(_) | None => return Ok((total, left)),
                }
            }
            other => return Err(strange(&other)),
        }
    }
}

// --- settings ---

async fn set_drain_flag(api: &Api, flag: bool) -> Result<bool> {
    api.inbox.ask(queue::Request::SetDrained(flag)).await?;
    Ok(true)
}

async fn set_watcher_pause(api: &Api, until: Option<f64>) -> Result<Value> {
    api.inbox.ask(queue::Request::SetWatcherPause(until)).await?;
    Ok(json!(until))
}

/// The queue answered another question: a bug.
fn strange(answer: &Answer) -> GanetiError {
    tracing::error!(?answer, "the queue answered something else");
    GanetiError::generic("the queue gave no fitting answer; this is a bug in luxid")
}
