//! `gnt-lease acquire`: asks, waits, and either leaves the lease to the caller or holds it while a command runs.
//! The uuid is drawn here, so that the request can be withdrawn whatever became of the answer.

use super::hold::{self, Signals};
use crate::error::{CliError, EXIT_FAILURE};
use crate::output::text::plain;
use crate::output::time::parse_span;
use crate::params::any_priority;
use crate::progress::Progress;
use crate::session::Session;
use gantry_model::ids::LeaseUuid;
use gantry_model::lease::{LEASE_MS_MAX, LEASE_VMS_MAX, TTL_MS_MIN};
use nix::sys::signal::Signal as Number;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, timeout};

pub const HELP: &str = "\
Examples:
  gnt-lease acquire py -n 2 --for 4h
  gnt-lease acquire py -- make -C tests all

The first prints the lease's uuid, then its machines and their nodes. The second holds the lease while the command \
runs here with GANTRY_LEASE in its environment, and exits as the command.
Ctrl-C before the grant withdraws the request. Without a lease it exits with 1.";

/// How long one look at a waiting request takes at most, s: the reason is then shown anew.
const LOOK_S: u64 = 2;
/// How long luxid may take to withdraw a request.
const WITHDRAW: Duration = Duration::from_secs(10);
/// With --no-wait: as long as a grant takes when machines are ready.
const AT_ONCE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub struct Acquire {
    /// The pool
    pool: String,
    /// How many machines, all at once
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(LEASE_VMS_MAX)))]
    count: u32,
    /// How long, from the grant on; at most 24h
    #[arg(long = "for", value_name = "TIME", value_parser = lease_span, default_value = "60m")]
    span: u64,
    /// End it when it is not renewed for so long; 60s with a command, which is renewed here; else none
    #[arg(long, value_name = "TIME", value_parser = ttl_span)]
    ttl: Option<u64>,
    /// Who leases, for lists; without it the name of this system's user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// low, normal, high, or a number from -20 (most urgent) to 19
    #[arg(long, value_name = "PRIORITY", value_parser = any_priority, allow_hyphen_values = true, default_value = "normal")]
    priority: i64,
    /// Give up unless machines are ready
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
    /// Give up when it was not granted for so long
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    timeout: Option<u64>,
    /// Print the granted lease as JSON
    #[arg(long, conflicts_with = "command")]
    json: bool,
    /// Run this command here while the lease is held, then release it
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

fn lease_span(text: &str) -> Result<u64, String> {
    let seconds = parse_span(text)?;
    let max = LEASE_MS_MAX / 1000;
    if (1..=max).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("a lease lasts 1s to 24h, not '{text}'"))
    }
}

fn ttl_span(text: &str) -> Result<u64, String> {
    let (seconds, min) = (parse_span(text)?, TTL_MS_MIN / 1000);
    if seconds >= min { Ok(seconds) } else { Err(format!("a ttl is at least {min}s, not '{text}'")) }
}

/// Runs the command.
///
/// # Errors
/// The server's; no lease in time; a signal, which withdraws the request; the command's exit code.
pub async fn run(session: &mut Session, acquire: Acquire) -> Result<(), CliError> {
    session.command = "acquire".to_owned();
    // Until then nothing is asked for, and a signal just ends this program.
    session.luxi().await?;
    // From here on no signal ends it before the request is withdrawn.
    let mut signals = Signals::new()?;
    let lease = LeaseUuid(uuid::Uuid::new_v4());
    let held = !acquire.command.is_empty();
    let ttl = acquire.ttl.or(held.then_some(hold::TTL_S));
    let user = acquire.user.clone().unwrap_or_else(crate::local::user);
    let request = json!({
        "uuid": lease, "pool": acquire.pool, "count": acquire.count, "for_s": acquire.span, "ttl_s": ttl,
        "user": user, "priority": acquire.priority,
    });
    let asked = tokio::select! {
        biased;
        signal = signals.next() => Err(interrupted(signal)),
        asked = session.call("LeaseRequest", json!([request])) => asked,
    };
    let granted = match asked {
        // luxid says that there is no request.
        Err(refused @ (CliError::Ganeti(_) | CliError::Refused(_))) => return Err(refused),
        Err(unknown) => Err(unknown),
        Ok(_) => granted(session, &acquire, lease, &mut signals).await,
    };
    let granted = match granted {
        Ok(granted) => granted,
        Err(error) => {
            withdraw(session, lease, &mut signals).await;
            return Err(error);
        }
    };
    if held {
        return hold::run(session, lease, &acquire.command, ttl.unwrap_or(hold::TTL_S), &mut signals).await;
    }
    let printed = print(session, &acquire, lease, &granted);
    if printed.is_err() {
        // Nobody learned which lease it is, so nobody can use or release it.
        withdraw(session, lease, &mut signals).await;
    }
    printed
}

fn interrupted(signal: Number) -> CliError {
    CliError::Interrupted(format!("{signal}: the request is withdrawn."))
}

fn print(session: &Session, acquire: &Acquire, lease: LeaseUuid, granted: &Value) -> Result<(), CliError> {
    if acquire.json {
        return session.screen.line(&granted.to_string());
    }
    let mut text = format!("{lease}\n");
    let (names, nodes) = (&granted["names"], &granted["nodes"]);
    for (at, name) in names.as_array().into_iter().flatten().enumerate() {
        text.push_str(&format!("{} {}\n", plain(name), plain(&nodes[at])));
    }
    // At once: who reads only the first line, as "head -1" does, has the lease and keeps it.
    session.screen.raw(&text)
}

/// The request once it is granted.
async fn granted(
    session: &mut Session,
    acquire: &Acquire,
    lease: LeaseUuid,
    signals: &mut Signals,
) -> Result<Value, CliError> {
    let patience = if acquire.no_wait { Some(AT_ONCE) } else { acquire.timeout.map(Duration::from_secs) };
    let until = patience.map(|patience| Instant::now() + patience);
    let mut progress = Progress::new(&session.screen);
    let mut known: Option<&str> = None;
    let mut last = String::new();
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            drop(progress);
            let why = if last.is_empty() { String::new() } else { format!(": {last}") };
            return Err(CliError::plain(format!(
                "No lease in pool {} in time{why}\nThe request is withdrawn. Wait longer, or make the pool larger with \"{}\".",
                acquire.pool,
                session.typed("pool", &format!("resize {} N", acquire.pool))
            )));
        }
        // Never 0, which would be asked again at once.
        let wait = left.map_or(LOOK_S, |left| LOOK_S.min(left.as_secs() + 1));
        // A signal that meets the grant counts: who sent it wants no lease.
        let answer = tokio::select! {
            biased;
            signal = signals.next() => return Err(interrupted(signal)),
            answer = session.call("WaitForLease", json!([lease, known, wait])) => answer?,
        };
        let why = plain_why(&answer);
        match answer["state"].as_str() {
            Some("granted") => return Ok(answer),
            Some("over") => {
                drop(progress);
                session.screen.note(&format!("No lease in pool {}: {why}", acquire.pool));
                return Err(CliError::Told(EXIT_FAILURE));
            }
            Some("waiting") => {}
            _ => return Err(CliError::Protocol(format!("WaitForLease answered {answer}"))),
        }
        // The first answer comes at once: a grant that needs no waiting is told without a word of it.
        if known.is_some() && !why.is_empty() && !acquire.no_wait {
            progress.say(&sentence(&why));
        }
        known = Some("waiting");
        last = why;
    }
}

/// The reason as a line of its own; luxid's begins with "waiting for".
fn sentence(why: &str) -> String {
    why.strip_prefix("waiting ").map_or_else(|| format!("Waiting: {why}"), |rest| format!("Waiting {rest}"))
}

fn plain_why(answer: &Value) -> String {
    answer["why"].as_str().map(crate::output::text::safe).unwrap_or_default()
}

/// Withdraws on a connection of its own: the old one may have an answer on the way. Another signal ends the wait for it.
async fn withdraw(session: &mut Session, lease: LeaseUuid, signals: &mut Signals) {
    session.hang_up();
    let done = tokio::select! {
        done = timeout(WITHDRAW, session.call("LeaseRelease", json!([lease]))) => done,
        signal = signals.next() => Ok(Err(CliError::Interrupted(signal.to_string()))),
    };
    let why = match done {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("luxid does not answer within {} s", WITHDRAW.as_secs()),
    };
    session.screen.note(&format!(
        "The request {lease} could not be withdrawn: {why}\nIt ends by itself; if it was granted, with its time or with \"{}\".",
        session.typed("lease", &format!("release {lease}"))
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_bounds() {
        assert_eq!((lease_span("60m"), lease_span("24h")), (Ok(3600), Ok(86_400)));
        assert!(lease_span("25h").is_err() && lease_span("0").is_err());
        assert!(ttl_span("4s").is_err() && ttl_span("5s").is_ok());
    }
}
