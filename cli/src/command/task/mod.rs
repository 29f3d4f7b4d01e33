//! `gnt-task`: tests that run on leased machines.

mod fetch;
mod file;
mod info;
mod log;
mod wait;

use crate::error::{CliError, EXIT_FAILURE};
use crate::list::{JOINED, ListOptions, Listing, TableOptions};
use crate::output::text::plain;
use crate::session::Session;
use gantry_model::task::{Task as Record, TaskState};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Tests: what to run on a clean machine
#[derive(Debug, clap::Args)]
pub struct Family {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Submit a task and print its number
    #[command(after_help = SUBMIT_HELP)]
    Submit(file::Submit),
    /// List tasks
    #[command(after_help = "Example:\n  gnt-task list -F 'user == \"ann\" and status == \"pending\"'")]
    List {
        /// Numbers, or one filter
        tasks: Vec<String>,
        #[command(flatten)]
        list: ListOptions,
    },
    /// List the fields that 'list' can show
    ListFields {
        /// Only these
        fields: Vec<String>,
        #[command(flatten)]
        table: TableOptions,
    },
    /// Show tasks in full: attempts, steps, use, artifacts
    #[command(after_help = "Example:\n  gnt-task info 7")]
    Info {
        /// The tasks
        #[arg(required = true, value_parser = number)]
        tasks: Vec<u64>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what a task's steps wrote
    #[command(after_help = "Example:\n  gnt-task log -f 7")]
    Log(log::Log),
    /// Wait for the end of tasks; exits with 0 only if all succeeded
    #[command(after_help = "Example:\n  gnt-task wait 7 8")]
    Wait {
        /// The tasks
        #[arg(required = true, value_parser = number)]
        tasks: Vec<u64>,
    },
    /// Cancel tasks
    #[command(after_help = "Example:\n  gnt-task cancel 7")]
    Cancel {
        /// The tasks
        #[arg(required = true, value_parser = number)]
        tasks: Vec<u64>,
    },
    /// Submit finished tasks again; prints the new numbers
    #[command(after_help = "Example:\n  gnt-task rerun 7")]
    Rerun {
        /// The tasks
        #[arg(required = true, value_parser = number)]
        tasks: Vec<u64>,
    },
    /// Fetch what a finished task left: its out/ directory and what its steps wrote
    #[command(
        after_help = "Example:\n  gnt-task fetch 7 result\n\nMakes result/out/ (artifacts), result/step-N.stdout and step-N.stderr; step 0 is the compile step."
    )]
    Fetch {
        /// The task
        #[arg(value_parser = number)]
        task: u64,
        /// Where to; made if need be
        dir: PathBuf,
        /// Replace files that are there already
        #[arg(short, long)]
        force: bool,
    },
}

const SUBMIT_HELP: &str = "\
Example:
  gnt-task submit --wait hello.toml

hello.toml:
  pool = \"py\"
  input = [\"hello.py\"]  # default: all in the directory of this file
  execute = \"python3 hello.py\"

Instead of one command, [[execute]] tables with name, command, stdin, wall_s, cpu_s.
Other keys: name, user, compile, keep_going, limits (wall_s, cpu_s, memory_mib, pids, disk_mib, output_kib), env, \
priority, max_attempts, labels, key. \
A directory needs a task.toml in it.";

fn number(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("'{text}' is no task number"))
}

const DASH: fn(&Value, &jiff::tz::TimeZone) -> String =
    |value, _| if value.is_null() || value == "" { "-".to_owned() } else { plain(value) };

const SPENT: fn(&Value, &jiff::tz::TimeZone) -> String =
    |value, _| value.as_f64().map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2}s"));

/// For programs: numbers alone.
const PLAIN: Listing = Listing { overrides: &[("labels", JOINED)], ..LIST };

const LIST: Listing = Listing {
    what: "task",
    fields: &["id", "name", "pool", "status", "why", "slot", "attempts", "wall", "cpu", "memory"],
    key: "id",
    numeric: true,
    overrides: &[
        ("labels", JOINED),
        ("why", DASH),
        ("slot", DASH),
        ("name", DASH),
        ("wall", SPENT),
        ("cpu", SPENT),
    ],
};

/// Runs one command.
///
/// # Errors
/// The command's.
pub async fn run(mut session: Session, family: Family) -> Result<(), CliError> {
    let session = &mut session;
    match family.command {
        Task::Submit(submit) => file::run(session, submit).await,
        Task::List { tasks, list } => self::list(session, tasks, &list).await,
        Task::ListFields { fields, table } => session.list_fields("task", &fields, &table).await,
        Task::Info { tasks, json } => info::run(session, &tasks, json).await,
        Task::Log(log) => log::run(session, &log).await,
        Task::Wait { tasks } => wait::run(session, &tasks).await,
        Task::Cancel { tasks } => cancel(session, &tasks).await,
        Task::Rerun { tasks } => rerun(session, &tasks).await,
        Task::Fetch { task, dir, force } => fetch::run(session, task, &dir, force).await,
    }
}

/// Lists tasks; those asked for that do not exist are told and make the command fail.
async fn list(session: &mut Session, mut tasks: Vec<String>, list: &ListOptions) -> Result<(), CliError> {
    let listing = if list.is_human() { &LIST } else { &PLAIN };
    let named = !list.forces_filter() && tasks.iter().all(|task| task.parse::<u64>().is_ok());
    if tasks.is_empty() || !named {
        return session.list(listing, list, &tasks).await;
    }
    let filter = crate::filter::from_args(&tasks, false, LIST.key, LIST.numeric)?;
    let rows = session.rows("task", &["id", "status"], filter).await?;
    let gone = |task: &String| {
        let id = task.parse::<u64>().ok();
        rows.iter().all(|row| row["id"].as_u64() != id || row["status"].is_null())
    };
    let missing: Vec<String> = tasks.extract_if(.., |task| gone(task)).collect();
    if !tasks.is_empty() {
        session.list(listing, list, &tasks).await?;
    }
    for task in &missing {
        session.screen.note(&format!("Task {task} does not exist"));
    }
    if missing.is_empty() { Ok(()) } else { Err(CliError::Told(EXIT_FAILURE)) }
}

/// A task and its revision; none if there is none of that number.
async fn query(session: &mut Session, task: u64) -> Result<Option<(Record, u64, Value)>, CliError> {
    read(session.call("QueryTask", json!([task])).await?)
}

/// A task as LUXI answers it.
fn read(answer: Value) -> Result<Option<(Record, u64, Value)>, CliError> {
    if answer.is_null() {
        return Ok(None);
    }
    let rev = answer["rev"].as_u64().unwrap_or(0);
    let task = Record::deserialize_from(&answer)?;
    Ok(Some((task, rev, answer)))
}

trait FromAnswer: Sized {
    fn deserialize_from(answer: &Value) -> Result<Self, CliError>;
}

impl FromAnswer for Record {
    fn deserialize_from(answer: &Value) -> Result<Self, CliError> {
        serde::Deserialize::deserialize(answer)
            .map_err(|error| CliError::Protocol(format!("the answer is no task: {error}")))
    }
}

fn not_found(session: &Session, task: u64) -> CliError {
    CliError::plain(format!("Task {task} does not exist; look with \"{}\"", session.typed("task", "list")))
}

/// `Task 7 run-failed: step 2: memory limit`.
fn state_line(task: &Record) -> String {
    let name = if task.spec.name.is_empty() { String::new() } else { format!(" ({})", task.spec.name) };
    let why = task.why.as_deref().map_or_else(String::new, |why| format!(": {why}"));
    crate::output::text::safe(&format!("Task {}{name} {}{why}", task.id, task.state.as_str()))
}

async fn cancel(session: &mut Session, tasks: &[u64]) -> Result<(), CliError> {
    let mut all = true;
    for task in tasks {
        let answer = session.call("CancelTask", json!([task])).await?;
        all &= answer[0] == true;
        session.screen.line(&plain(&answer[1]))?;
    }
    if all { Ok(()) } else { Err(CliError::Told(EXIT_FAILURE)) }
}

async fn rerun(session: &mut Session, tasks: &[u64]) -> Result<(), CliError> {
    let answer = session.luxi().await?.call_once("RerunTasks", json!([tasks])).await?;
    let mut all = true;
    for (task, answer) in tasks.iter().zip(answer.as_array().into_iter().flatten()) {
        if answer[0] == true {
            session.screen.line(&format!("TaskID: {} (task {task} again)", plain(&answer[1])))?;
        } else {
            all = false;
            session.screen.note(&format!("Task {task} is not run again: {}", plain(&answer[1])));
        }
    }
    if all { Ok(()) } else { Err(CliError::Told(EXIT_FAILURE)) }
}

/// Whether a state is one of an unhappy end.
fn failed(state: TaskState) -> bool {
    state.is_final() && state != TaskState::Success
}
