//! `gnt-job`: what runs and ran.

mod info;

use crate::error::{CliError, EXIT_FAILURE};
use crate::job::Feedback;
use crate::list::{ListOptions, Listing, TableOptions};
use crate::output::table::Override;
use crate::output::text::{comma_list, plain};
use crate::output::time::{from_ts, parse_span};
use crate::params::any_priority;
use crate::session::Session;
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
        Job::Info { jobs, json } => info::run(session, &jobs, json).await,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_chosen_by_words() {
        let states = States { pending: true, running: false, error: true, finished: true };
        assert_eq!(states.words(), ["queued", "waiting", "error", "canceled", "success"]);
        assert_eq!(by_state(&["a"]), json!(["|", ["==", "status", "a"]]));
    }
}
