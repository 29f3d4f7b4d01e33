//! `gnt-job`: what runs and ran.

use crate::error::{CliError, EXIT_FAILURE};
use crate::job::Feedback;
use crate::list::{ListOptions, Listing, TableOptions};
use crate::output::info::Info;
use crate::output::table::Override;
use crate::output::text::{comma_list, plain};
use crate::output::time::{between, from_ts, parse_span};
use crate::params::any_priority;
use crate::session::Session;
use gantry_model::opcode::OP_ID;
use serde_json::{Value, json};

/// Seconds that archiving may take per call: as long as LUXI allows.
const ARCHIVE_S: u64 = 89;

/// What runs and ran
#[derive(Debug, clap::Args)]
pub struct Family {
    #[command(subcommand)]
    command: Job,
}

#[derive(Debug, clap::Subcommand)]
enum Job {
    /// List jobs
    List {
        /// Numbers, or one filter
        jobs: Vec<String>,
        #[command(flatten)]
        states: States,
        /// Archived jobs too
        #[arg(long)]
        archived: bool,
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
    /// Show jobs in full
    Info {
        /// The jobs
        #[arg(required = true, value_parser = number)]
        jobs: Vec<u64>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Follow a job's log to its end
    Watch {
        /// The job
        #[arg(value_parser = number)]
        job: u64,
    },
    /// Wait for a job's end
    Wait {
        /// The job
        #[arg(value_parser = number)]
        job: u64,
    },
    /// Cancel jobs
    Cancel {
        /// The jobs
        #[arg(value_parser = number)]
        jobs: Vec<u64>,
        #[command(flatten)]
        chosen: Chosen,
        /// End a job that is at work, at once
        #[arg(long)]
        kill: bool,
        /// Needed with --kill
        #[arg(long)]
        yes_do_it: bool,
    },
    /// Change the priority of jobs
    ChangePriority {
        /// The jobs
        #[arg(value_parser = number)]
        jobs: Vec<u64>,
        /// low, normal, high, or a number from -20 (most urgent) to 19
        #[arg(long, value_name = "PRIORITY", value_parser = any_priority, allow_hyphen_values = true)]
        priority: i64,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Archive finished jobs
    Archive {
        /// The jobs
        #[arg(required = true, value_parser = number)]
        jobs: Vec<u64>,
    },
    /// Archive all jobs that finished long ago
    Autoarchive {
        /// How long ago: seconds, or a number with s, m, h, d or w; 'all' for every finished job
        age: String,
    },
}

/// Which states `list` shows.
#[derive(Debug, clap::Args)]
struct States {
    /// Only jobs that have not begun
    #[arg(long)]
    pending: bool,
    /// Only jobs at work
    #[arg(long)]
    running: bool,
    /// Only jobs that failed
    #[arg(long)]
    error: bool,
    /// Only jobs that have ended
    #[arg(long)]
    finished: bool,
}

impl States {
    /// The words of the chosen states; none = no choice.
    fn words(&self) -> Vec<&'static str> {
        let mut words = Vec::new();
        for (chosen, more) in [
            (self.pending, &["queued", "waiting"][..]),
            (self.running, &["running"]),
            (self.error, &["error"]),
            (self.finished, &["canceled", "success", "error"]),
        ] {
            words.extend(more.iter().filter(|w| chosen && !words.contains(*w)).collect::<Vec<_>>());
        }
        words
    }
}

/// Jobs chosen by their state instead of their number.
#[derive(Debug, clap::Args)]
struct Chosen {
    /// All jobs that are queued or wait for locks
    #[arg(long)]
    pending: bool,
    /// All queued jobs
    #[arg(long)]
    queued: bool,
    /// All jobs that wait for locks
    #[arg(long)]
    waiting: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl Chosen {
    fn words(&self) -> Vec<&'static str> {
        let all = [("queued", self.pending || self.queued), ("waiting", self.pending || self.waiting)];
        all.into_iter().filter(|(_, chosen)| *chosen).map(|(word, _)| word).collect()
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("'{text}' is no job number"))
}

const TIME: fn(&Value, &jiff::tz::TimeZone) -> String = |value, zone| from_ts(value, zone);
const TIMES: fn(&Value, &jiff::tz::TimeZone) -> String = |value, zone| {
    value.as_array().map_or_else(
        || plain(value),
        |all| all.iter().map(|t| from_ts(t, zone)).collect::<Vec<_>>().join(","),
    )
};
const JOINED: fn(&Value, &jiff::tz::TimeZone) -> String = |value, _| comma_list(value);
const OVERRIDES: &[Override] = &[
    ("summary", JOINED),
    ("received_ts", TIME),
    ("start_ts", TIME),
    ("end_ts", TIME),
    ("opstart", TIMES),
    ("opexec", TIMES),
    ("opend", TIMES),
];

const LIST: Listing = Listing {
    what: "job",
    fields: &["id", "status", "summary"],
    key: "id",
    numeric: true,
    overrides: OVERRIDES,
};

const LIST_ARCHIVED: Listing = Listing { fields: &["id", "status", "summary", "archived"], ..LIST };

/// Runs one command.
///
/// # Errors
/// The command's.
pub async fn run(mut session: Session, family: Family) -> Result<(), CliError> {
    let session = &mut session;
    match family.command {
        Job::List { jobs, states, archived, list } => {
            let listing = if archived { &LIST_ARCHIVED } else { &LIST };
            match states.words().as_slice() {
                [] => session.list(listing, &list, &jobs).await,
                _ if !jobs.is_empty() => Err(CliError::Usage(
                    "give either jobs or states (--pending, --running, ...), not both".to_owned(),
                )),
                words => session.list_filtered(listing, &list, by_state(words)).await,
            }
        }
        Job::ListFields { fields, table } => session.list_fields("job", &fields, &table).await,
        Job::Info { jobs, json } => info(session, &jobs, json).await,
        Job::Watch { job } => {
            let title = format!("Output from job {job} follows");
            session.screen.line(&title)?;
            session.screen.line(&"-".repeat(title.len()))?;
            ended(session, job, Feedback::Print).await
        }
        Job::Wait { job } => ended(session, job, Feedback::Silent).await,
        Job::Cancel { jobs, chosen, kill, yes_do_it } => {
            if kill && !yes_do_it && !chosen.force {
                return Err(CliError::Usage(
                    "--kill ends jobs in the middle of their work; give --yes-do-it too if you are sure"
                        .to_owned(),
                ));
            }
            let jobs = choose(session, jobs, &chosen, "Cancel").await?;
            each(session, &jobs, |job| ("CancelJob", json!([job, kill]))).await
        }
        Job::ChangePriority { jobs, priority, chosen } => {
            let jobs = choose(session, jobs, &chosen, "Change the priority of").await?;
            each(session, &jobs, |job| ("ChangeJobPriority", json!([job, priority]))).await
        }
        Job::Archive { jobs } => archive(session, &jobs).await,
        Job::Autoarchive { age } => autoarchive(session, &age).await,
    }
}

fn by_state(words: &[&str]) -> Value {
    let one = |word: &&str| json!(["==", "status", word]);
    Value::Array([json!("|")].into_iter().chain(words.iter().map(one)).collect())
}

/// Follows a job and prints its error, as `watch` and `wait` do.
async fn ended(session: &mut Session, job: u64, feedback: Feedback) -> Result<(), CliError> {
    match session.follow(job, feedback).await {
        Ok(_) => Ok(()),
        Err(error @ CliError::Ganeti(_)) => {
            session.screen.note(&format!("Job {job} failed: {error}"));
            Err(CliError::Told(error.exit_code()))
        }
        Err(error) => Err(error),
    }
}

/// The jobs named, or those in the chosen states after asking.
async fn choose(
    session: &mut Session,
    jobs: Vec<u64>,
    chosen: &Chosen,
    action: &str,
) -> Result<Vec<u64>, CliError> {
    let words = chosen.words();
    match (jobs.is_empty(), words.is_empty()) {
        (true, true) => Err(CliError::Usage(
            "no job given; name some, or choose them with --pending, --queued or --waiting".to_owned(),
        )),
        (false, false) => Err(CliError::Usage(
            "give either jobs or a state (--pending, --queued, --waiting), not both".to_owned(),
        )),
        (false, true) => Ok(jobs),
        (true, false) => {
            let answer = session.call("Query", json!(["job", ["id", "summary"], by_state(&words)])).await?;
            let rows = answer["data"].as_array().cloned().unwrap_or_default();
            let found: Vec<u64> = rows.iter().filter_map(|row| row[0][1].as_u64()).collect();
            if found.is_empty() || chosen.force {
                return Ok(found);
            }
            for row in &rows {
                session.screen.note(&format!("  {}  {}", plain(&row[0][1]), comma_list(&row[1][1])));
            }
            let question = format!("{action} these {} jobs?", found.len());
            if session.confirm(&question, "--force")? { Ok(found) } else { Err(CliError::Told(EXIT_FAILURE)) }
        }
    }
}

/// Calls a method that answers `[done, text]` for each job and prints the texts.
async fn each(
    session: &mut Session,
    jobs: &[u64],
    request: impl Fn(u64) -> (&'static str, Value),
) -> Result<(), CliError> {
    let mut all = true;
    for job in jobs {
        let (method, args) = request(*job);
        let answer = session.call(method, args).await?;
        all &= answer[0] == true;
        session.screen.line(&plain(&answer[1]))?;
    }
    if all { Ok(()) } else { Err(CliError::Told(EXIT_FAILURE)) }
}

async fn archive(session: &mut Session, jobs: &[u64]) -> Result<(), CliError> {
    let mut all = true;
    for job in jobs {
        if session.call("ArchiveJob", json!([job])).await? != true {
            all = false;
            session.screen.note(&format!(
                "Failed to archive job with ID '{job}': it is not finished, or does not exist"
            ));
        }
    }
    if all { Ok(()) } else { Err(CliError::Told(EXIT_FAILURE)) }
}

async fn autoarchive(session: &mut Session, age: &str) -> Result<(), CliError> {
    let seconds = if age == "all" { json!(-1) } else { json!(parse_span(age).map_err(CliError::Usage)?) };
    let answer = session.call("AutoArchiveJobs", json!([seconds, ARCHIVE_S])).await?;
    session.screen.line(&format!("Archived {} jobs, {} unchecked left", plain(&answer[0]), plain(&answer[1])))
}

const INFO_FIELDS: [&str; 12] = [
    "id",
    "status",
    "ops",
    "opresult",
    "opstatus",
    "oplog",
    "opstart",
    "opexec",
    "opend",
    "received_ts",
    "start_ts",
    "end_ts",
];

async fn info(session: &mut Session, jobs: &[u64], json: bool) -> Result<(), CliError> {
    let by_id: Vec<Value> = jobs.iter().map(|job| json!(["==", "id", job])).collect();
    let filter: Value = [json!("|")].into_iter().chain(by_id).collect();
    let answer = session.call("Query", json!(["job", INFO_FIELDS, filter])).await?;
    let rows = answer["data"].as_array().cloned().unwrap_or_default();
    let mut missing = false;
    let mut shown = Vec::new();
    for row in rows {
        let values: Vec<Value> = row.as_array().into_iter().flatten().map(|cell| cell[1].clone()).collect();
        if row[1][0] == 0 {
            shown.push(Value::Array(values));
        } else {
            missing = true;
            session.screen.note(&format!("Job ID {} not found", plain(&row[0][1])));
        }
    }
    if json {
        session.screen.line(&super::node::named_rows(&INFO_FIELDS, &shown).to_string())?;
    } else if !shown.is_empty() {
        let all = shown.iter().map(|job| job_info(job, &session.zone)).collect();
        session.screen.raw(&Info::List(all).render())?;
    }
    if missing { Err(CliError::Told(EXIT_FAILURE)) } else { Ok(()) }
}

fn job_info(row: &Value, zone: &jiff::tz::TimeZone) -> Info {
    let (received, start, end) = (&row[9], &row[10], &row[11]);
    let delta = |from: &Value, to: &Value| {
        between(from, to).map_or_else(String::new, |d| format!(" (delta {d:.6}s)"))
    };
    let stage = |at: &Value, from: &Value| match at {
        Value::Null => Info::text("unknown (None)"),
        at => Info::text(format!("{}{}", from_ts(at, zone), delta(from, at))),
    };
    let total = between(received, end).map_or_else(|| "N/A".to_owned(), |d| format!("{d:.6} seconds"));
    let count = row[2].as_array().map_or(0, Vec::len);
    Info::named([
        ("Job ID", Info::text(plain(&row[0]))),
        ("Status", Info::text(plain(&row[1]))),
        ("Received", Info::text(from_ts(received, zone))),
        ("Processing start", stage(start, received)),
        ("Processing end", stage(end, start)),
        ("Total processing time", Info::text(total)),
        ("Opcodes", Info::List((0..count).map(|at| opcode_info(row, at, zone)).collect())),
    ])
}

fn opcode_info(row: &Value, at: usize, zone: &jiff::tz::TimeZone) -> Info {
    let mut input = row[2][at].as_object().cloned().unwrap_or_default();
    let id = input.remove(OP_ID).unwrap_or(Value::Null);
    let time = |field: usize| Info::text(from_ts(&row[field][at], zone));
    let log = row[5][at].as_array().into_iter().flatten();
    Info::named([
        ("Opcode", Info::text(plain(&id))),
        ("Status", Info::text(plain(&row[4][at]))),
        ("Processing start", time(6)),
        ("Execution start", time(7)),
        ("Processing end", time(8)),
        ("Input fields", Info::from(&input)),
        ("Result", Info::from(&row[3][at])),
        ("Execution log", Info::List(log.map(|entry| log_info(entry, zone)).collect())),
    ])
}

fn log_info(entry: &Value, zone: &jiff::tz::TimeZone) -> Info {
    let content = format!("{}: {} {}", plain(&entry[0]), plain(&entry[2]), plain(&entry[3]));
    Info::named([("Time", Info::text(from_ts(&entry[1], zone))), ("Content", Info::text(content))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_shown_in_full() {
        let row = json!([
            7, "success", [{"OP_ID": "OP_TEST_DELAY", "duration": 1.5, "on_nodes": []}], [null], ["success"],
            [[[1, [10, 5], "message", "hello"]]], [[10, 0]], [[10, 1]], [[12, 0]], [9, 0], [10, 0], [12, 250_000]
        ]);
        let want = "\
- Job ID: 7
  Status: success
  Received: 1970-01-01 00:00:09.000000
  Processing start: 1970-01-01 00:00:10.000000 (delta 1.000000s)
  Processing end: 1970-01-01 00:00:12.250000 (delta 2.250000s)
  Total processing time: 3.250000 seconds
  Opcodes: 
    - Opcode: OP_TEST_DELAY
      Status: success
      Processing start: 1970-01-01 00:00:10.000000
      Execution start: 1970-01-01 00:00:10.000001
      Processing end: 1970-01-01 00:00:12.000000
      Input fields: 
        duration: 1.5
        on_nodes: 
      Result: None
      Execution log: 
        - Time: 1970-01-01 00:00:10.000005
          Content: 1: message hello
";
        assert_eq!(Info::List(vec![job_info(&row, &jiff::tz::TimeZone::UTC)]).render(), want);
    }

    #[test]
    fn a_queued_job_has_no_times_yet() {
        let row = json!([7, "queued", [{"OP_ID": "X"}], [null], ["queued"], [[]], [null], [null], [null], [9, 0], null, null]);
        let text = Info::List(vec![job_info(&row, &jiff::tz::TimeZone::UTC)]).render();
        assert!(
            text.contains("Processing start: unknown (None)\n") && text.contains("time: N/A\n"),
            "{text}"
        );
    }

    #[test]
    fn states_are_chosen_by_words() {
        let states = States { pending: true, running: false, error: true, finished: true };
        assert_eq!(states.words(), ["queued", "waiting", "error", "canceled", "success"]);
        assert_eq!(by_state(&["a"]), json!(["|", ["==", "status", "a"]]));
    }
}
