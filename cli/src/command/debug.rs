//! `gnt-debug`: test jobs, locks, and ConfD.

use crate::command::confd::{self, Confd};
use crate::error::CliError;
use crate::list::{ListOptions, Listing};
use crate::opcode::SubmitOptions;
use crate::output::table::Override;
use crate::output::text::{comma_list, plain};
use crate::session::Session;
use serde_json::{Value, json};
use std::time::Duration;

/// Test jobs, locks, and ConfD
#[derive(Debug, clap::Args)]
pub struct Family {
    #[command(subcommand)]
    command: Debug,
}

#[derive(Debug, clap::Subcommand)]
enum Debug {
    Confd(Confd),
    /// Run a job that only waits
    Delay(Delay),
    /// List the locks that are held or waited for
    Locks {
        /// Print the list again after so many seconds, until Ctrl-C
        #[arg(long, value_name = "SECONDS")]
        interval: Option<u64>,
        #[command(flatten)]
        list: ListOptions,
    },
}

#[derive(Debug, clap::Args)]
struct Delay {
    /// Seconds to wait, such as 1.5
    #[arg(value_parser = seconds)]
    duration: f64,
    /// Do not wait on the master
    #[arg(long)]
    no_master: bool,
    /// Wait on this node too; may be given several times
    #[arg(short = 'n', value_name = "NODE")]
    on_nodes: Vec<String>,
    /// Wait so many times more
    #[arg(short, long, default_value_t = 0, value_name = "TIMES")]
    repeat: u32,
    /// Let the wait be ended early through the socket that the job's log names
    #[arg(short, long)]
    interruptible: bool,
    /// Take the locks of the nodes meanwhile
    #[arg(short = 'l', long)]
    locks: bool,
    #[command(flatten)]
    job: SubmitOptions,
}

fn seconds(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|s| s.is_finite() && *s >= 0.0);
    value.ok_or_else(|| format!("'{text}' is no number of seconds"))
}

const PENDING: fn(&Value, &jiff::tz::TimeZone) -> String = |value, _| {
    let one = |request: &Value| format!("{}:{}", plain(&request[0]), comma_list(&request[1]));
    dashed(value, |list| list.iter().map(one).collect::<Vec<_>>().join(", "))
};
const OWNERS: fn(&Value, &jiff::tz::TimeZone) -> String = |value, _| dashed(value, |_| comma_list(value));
const MODE: fn(&Value, &jiff::tz::TimeZone) -> String = |value, _| value.as_str().unwrap_or("-").to_owned();
const OVERRIDES: &[Override] = &[("mode", MODE), ("owner", OWNERS), ("pending", PENDING)];

/// A dash for nothing and for an empty list.
fn dashed(value: &Value, show: impl Fn(&[Value]) -> String) -> String {
    match value.as_array() {
        Some(list) if !list.is_empty() => show(list),
        Some(_) | None => "-".to_owned(),
    }
}

const LOCKS: Listing = Listing {
    what: "lock",
    fields: &["name", "mode", "owner", "pending"],
    key: "name",
    numeric: false,
    overrides: OVERRIDES,
};

/// Runs one command.
///
/// # Errors
/// The command's.
pub async fn run(mut session: Session, family: Family) -> Result<(), CliError> {
    match family.command {
        Debug::Confd(asked) => confd::run(&session, &asked).await,
        Debug::Delay(delay) => {
            session.command = "delay".to_owned();
            let given = json!({
                "duration": delay.duration,
                "on_master": !delay.no_master,
                "on_nodes": delay.on_nodes,
                "repeat": delay.repeat,
                "interruptible": delay.interruptible,
                "no_locks": !delay.locks,
            });
            session.run_op("OP_TEST_DELAY", given, &delay.job).await.map(drop)
        }
        Debug::Locks { interval, list } => loop {
            session.list(&LOCKS, &list, &[]).await?;
            let Some(interval) = interval else { return Ok(()) };
            session.screen.line("")?;
            tokio::time::sleep(Duration::from_secs(interval)).await;
        },
    }
}
