//! What comes into the queue and what goes out of it.

use super::attempt::Grant;
use super::keyed::KeyedJob;
use super::news::News;
use super::submit::NewJob;
use crate::core::mirror::PoolCounts;
use gantry_model::error::GanetiError;
use gantry_model::ids::{JobId, JobOwner, LeaseUuid, TaskId};
use gantry_model::job::{Class, Job, Report, Status};
use gantry_model::lease::{LeaseOwner, LeaseRequest};
use gantry_model::task::{Task, TaskSpec};
use gantry_model::time::Ts;
use gantry_proto::job::GoOp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Names a question until it is answered. The shell draws them; 0 is never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ask(pub u64);

/// Counts the batches of this run; the shell says which are committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// How to find a job's process again when its socket file is gone (P4.5). Stored with the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Start time in clock ticks since boot, as in `/proc/PID/stat`.
    pub start_time: u64,
    /// The boot both belong to.
    pub boot_id: String,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A client asks something.
    Asked(Ask, Request),
    /// A client no longer waits for its answer.
    Forget(Ask),
    /// A job's process listens and says so (P4.2).
    Ready(JobOwner, Process),
    /// The process of a start ended, or was ended, before anything was sent to it: nothing was done.
    StartFailed(JobOwner, String),
    /// A job reports.
    Reported(Box<Report>),
    /// The kernel says that the process of a start is gone (P4.5), and this is what its spool file holds.
    Dead(JobOwner, Option<Box<Report>>),
    /// How a kill went.
    Killed(Ask, JobOwner, KillResult),
    /// All batches up to this one are committed.
    Committed(Ticket),
    /// The copy of the configuration has reached this index of W.
    MirrorAt(u64),
    /// How many of users' jobs may run at once: the cluster's `max_running_jobs`.
    MaxRunning(usize),
    /// How many nodes can have VMs: what the number of the reconcilers' running jobs follows from.
    VmNodes(usize),
    /// wconfd granted a lease in the batch of this index of W.
    Granted {
        /// Which.
        lease: LeaseUuid,
        /// The index.
        index: u64,
        /// Its VMs.
        grant: Grant,
    },
    /// wconfd can't grant a lease as of this index of W.
    GrabWaits {
        /// Which.
        lease: LeaseUuid,
        /// The index.
        index: u64,
    },
    /// wconfd never grants this lease.
    GrabRefused {
        /// Which.
        lease: LeaseUuid,
        /// Because its uuid is over.
        stale: bool,
        /// What wconfd says.
        why: String,
    },
    /// A grant of a user's lease that nobody was told of is taken back in the batch of this index of W, since a VM of it does not
    /// live (answers [`Action::Grab`] and [`Action::ReturnLease`]).
    LeaseReturned {
        /// Which.
        lease: LeaseUuid,
        /// The index.
        index: u64,
    },
    /// wconfd has ended a lease, or had already (answers [`Action::EndLease`]).
    LeaseEnded(LeaseUuid),
    /// What the copy of the configuration shows of pools and leases.
    News(Box<News>),
    /// The time of [`super::Queue::due`] has come.
    Tick,
    /// No batch came for a while since [`super::Queue::waits_for_batch`]: what waits has one of its own.
    NoBatch,
    /// Jobs of an earlier run are adopted or dead, wconfd knows the owners: start jobs from now on (P4.7).
    Open,
}

/// See [`Event::Killed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillResult {
    /// The signal was sent.
    Sent,
    /// There was no process any more.
    AlreadyDead,
}

/// What clients ask of the queue.
#[derive(Debug, Clone)]
pub enum Request {
    /// One job; the id is the answer.
    Submit {
        /// The job.
        job: NewJob,
        /// Whether a drained queue takes it all the same.
        into_drained: bool,
    },
    /// Several jobs, each taken or refused on its own.
    SubmitMany(Vec<NewJob>),
    /// Cancel, or kill.
    Cancel {
        /// Which.
        job: JobId,
        /// With SIGKILL.
        kill: bool,
    },
    /// New priority for the unfinished opcodes.
    SetPriority {
        /// Which.
        job: JobId,
        /// −20…19.
        priority: i32,
    },
    /// Put a finished job away.
    Archive(JobId),
    /// Put away the finished jobs of one stretch.
    ArchiveOld {
        /// Only those that ended before this; None = all.
        before: Option<Ts>,
        /// Start after this id.
        after: JobId,
    },
    /// Refuse new jobs, or take them again.
    SetDrained(bool),
    /// Keep the watcher quiet until then (seconds since 1970); None = no longer.
    SetWatcherPause(Option<f64>),
    /// A task; its id is the answer.
    SubmitTask {
        /// What is submitted.
        spec: Box<TaskSpec>,
        /// Why it can't be served, if so. Asked for again with its key a task is there all the same (C1).
        refusal: Option<GanetiError>,
    },
    /// Tasks that are over, once more.
    RerunTasks(Vec<TaskId>),
    /// Cancel a task.
    CancelTask(TaskId),
    /// As [`Request::Wait`], of a task.
    WaitTask {
        /// Which.
        task: TaskId,
        /// The revision known.
        rev: u64,
    },
    /// VMs for a user; the lease's uuid is the answer.
    RequestLease(Box<LeaseRequest>),
    /// As [`Request::Wait`], of a lease request. Who asks is taken to be still there.
    WaitLease {
        /// Which.
        lease: LeaseUuid,
        /// The revision known.
        rev: u64,
    },
    /// Withdraw a lease request, or end its lease.
    ReleaseLease(LeaseUuid),
    /// Jobs of the reconcilers.
    SubmitKeyed(Vec<KeyedJob>),
    /// Answer [`Answer::Changed`] once the job is shown in another revision than this (0 = none yet).
    Wait {
        /// Which.
        job: JobId,
        /// The revision known.
        rev: u64,
    },
}

impl Request {
    /// Whether it may change what is stored.
    #[must_use]
    pub fn changes(&self) -> bool {
        !matches!(self, Self::Wait { .. } | Self::WaitTask { .. } | Self::WaitLease { .. })
    }
}

/// What clients are answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The new job.
    Submitted(JobId),
    /// The new jobs, in the order asked for, or why one was refused.
    SubmittedMany(Vec<Result<JobId, GanetiError>>),
    /// The new task, or the one that has its key.
    TaskSubmitted(TaskId),
    /// The new tasks, in the order asked for, or why one was refused.
    TasksSubmitted(Vec<Result<TaskId, GanetiError>>),
    /// The lease's uuid.
    LeaseRequested(LeaseUuid),
    /// For each job its id and whether it is new, or why it was refused.
    KeyedSubmitted(Vec<Result<(JobId, bool), GanetiError>>),
    /// Whether it was done, and a sentence (`spec/jobs.md` §8).
    Told(bool, String),
    /// Whether it was archived.
    Archived(bool),
    /// One stretch of [`Request::ArchiveOld`].
    ArchivedOld {
        /// How many.
        archived: u64,
        /// Go on after this id; None = all were looked at.
        next: Option<JobId>,
        /// How many live jobs lie after it.
        left: u64,
    },
    /// The setting is stored.
    Set,
    /// It is shown in another revision, or was put away, or never was.
    Changed,
}

/// What shall happen outside.
#[derive(Debug, Clone)]
pub enum Action {
    /// Start a process for this start; give it [`super::READY_MS`] to say ready.
    Spawn {
        /// Which.
        owner: JobOwner,
        /// How many starts of this job failed in a row: wait a little when not 0.
        failed: u32,
        /// Which of its reports to look into.
        class: Class,
    },
    /// Connect to the process and tell it to go. Answered by [`Event::StartFailed`] when nothing could be sent.
    Go {
        /// Which.
        owner: JobOwner,
        /// Its opcodes, secrets put back.
        ops: Vec<GoOp>,
        /// Next log serial.
        next_serial: u64,
    },
    /// The start is not wanted: end the process, which was never told to go, and clean up after it.
    Abandon(JobOwner),
    /// Connect to a process of an earlier run and attach, or find it dead (P4.7).
    Adopt {
        /// Which.
        owner: JobOwner,
        /// Its process.
        process: Option<Process>,
        /// Which of its reports to look into.
        class: Class,
    },
    /// Tell the job that its report is stored.
    Confirm {
        /// Which.
        owner: JobOwner,
        /// Number of the report.
        number: u64,
        /// Highest log serial stored.
        log_serial: u64,
    },
    /// Ask the job to cancel itself.
    Cancel(JobOwner),
    /// Tell the job its new priority.
    SetPriority(JobOwner, i32),
    /// End the process with SIGKILL (P4.9); answered by [`Event::Killed`] when somebody asked.
    Kill {
        /// Which.
        owner: JobOwner,
        /// Its process.
        process: Option<Process>,
        /// Who wants to know.
        ask: Option<Ask>,
    },
    /// Ask wconfd for a lease, until it answers: [`Event::Granted`], [`Event::GrabWaits`], [`Event::GrabRefused`]. Of a user's lease
    /// granted the VMs are looked at first, and the grant is taken back when one does not live: [`Event::LeaseReturned`].
    Grab {
        /// Its uuid, which is stored.
        lease: LeaseUuid,
        /// For whom.
        owner: LeaseOwner,
        /// The pool's name.
        pool: String,
        /// How many VMs.
        count: u32,
        /// How long, ms.
        for_ms: u64,
        /// See [`gantry_model::lease::Lease::ttl_ms`].
        ttl_ms: Option<u64>,
    },
    /// Have wconfd end a lease, until it answers: [`Event::LeaseEnded`].
    EndLease {
        /// Which.
        lease: LeaseUuid,
        /// Why, for people.
        why: String,
    },
    /// Have wconfd take back a grant that nobody was told of and that a lost VM has broken, until it answers:
    /// [`Event::LeaseReturned`], [`Event::GrabRefused`].
    ReturnLease(LeaseUuid),
    /// Have wconfd forget an ended lease, until it answers.
    ForgetLease(LeaseUuid),
    /// Tell wconfd that the owner is dead, until it answers (P4.6).
    OwnerGone(JobOwner),
    /// Tell wconfd, some time, that the owner's end is stored: it forgets what it keeps of its batches, and frees what the job did not.
    OwnerLeft(JobOwner),
    /// The outcome of this start is stored: delete its spool file and its socket.
    Clean(JobOwner),
    /// The start is not the current one: delete its spool file if it never began, else move it aside.
    Discard(JobOwner),
}

/// A change of what clients may see.
#[derive(Debug, Clone)]
pub enum Shown {
    /// A live job in a new revision.
    Job {
        /// Its revision, rising.
        rev: u64,
        /// The job.
        job: Arc<Job>,
    },
    /// A job went into the archive.
    Archived(Arc<Job>),
    /// A job left the archive for good.
    ArchiveGone(JobId),
    /// The drain flag.
    Drained(bool),
    /// Until when the watcher pauses.
    WatcherPause(Option<f64>),
    /// A task in a new revision.
    Task {
        /// Its revision, rising.
        rev: u64,
        /// The task.
        task: Arc<Task>,
    },
    /// A final task was removed.
    TaskGone(TaskId),
    /// A lease request in a new revision.
    Request {
        /// Its revision, rising.
        rev: u64,
        /// The request.
        request: Arc<LeaseRequest>,
    },
    /// A request that is over was removed.
    RequestGone(LeaseUuid),
    /// What a pool has; None: there is no such pool any more.
    Stock(String, Option<Stock>),
}

/// What the copy of the configuration says of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stock {
    /// False while it is draining.
    pub active: bool,
    /// Its slots.
    pub counts: PoolCounts,
}

/// A change of queue.data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// See [`super::kind`].
    pub kind: &'static str,
    /// Key within the kind.
    pub key: String,
    /// Revision of the object.
    pub rev: u64,
    /// Digests of the bodies it names: a copy must have them before it counts as having the change (P1.13).
    pub bodies: Vec<String>,
    /// JSON; None removes. A removal belongs to the change before it: a batch is not cut between them.
    pub body: Option<Vec<u8>>,
}

/// What a step leads to. The batch is to be appended before anything else is done; everything else may
/// be done at once, for what rests on the batch comes out of a later [`Event::Committed`].
#[derive(Debug, Default)]
pub struct Effects {
    /// Changes to append as one batch, and the ticket under which its commit is reported. None: nothing.
    pub batch: Option<(Ticket, Vec<Change>)>,
    /// What clients may see from now on.
    pub shown: Vec<Shown>,
    /// Answers, after [`Effects::shown`].
    pub replies: Vec<(Ask, Result<Answer, GanetiError>)>,
    /// What to do.
    pub actions: Vec<Action>,
}

/// Numbers for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes started in this run.
    pub starts: u64,
    /// Deaths of processes that had been told to go.
    pub deaths: u64,
    /// Jobs with a process.
    pub running: u64,
    /// Jobs that wait for nothing but a place.
    pub ready: u64,
    /// Jobs that are not archived.
    pub live: u64,
    /// Tasks that are not final.
    pub tasks: u64,
    /// Lease requests that are not over.
    pub requests: u64,
    /// Leases whose end wconfd has not confirmed.
    pub ending: u64,
}

/// The status words in Ganeti's order, for the metrics.
pub const STATUSES: [Status; 7] = [
    Status::Queued,
    Status::Waiting,
    Status::Canceling,
    Status::Running,
    Status::Canceled,
    Status::Success,
    Status::Error,
];
