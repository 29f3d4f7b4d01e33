//! Holds a lease while a command runs on this machine: renews it, passes signals on, releases it at the end.

use crate::error::{CliError, EXIT_FAILURE};
use crate::output::Screen;
use crate::session::Session;
use gantry_model::ids::LeaseUuid;
use nix::sys::signal::{Signal as Number, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

/// Ttl of a held lease, s: what a vanished holder costs.
pub const TTL_S: u64 = 60;
/// Renewals per ttl: two may fail.
const RENEWALS: u32 = 3;
/// How long one renewal may take: less than the third of the usual ttl.
const RENEW: Duration = Duration::from_secs(15);
/// So long a command may not have had the Ctrl-C that this program had: it is sent to it, perhaps a second time.
const STARTING: Duration = Duration::from_millis(200);
/// Tells the command which lease it has.
const LEASE_ENV: &str = "GANTRY_LEASE";

/// The signals that ask this program to end.
pub struct Signals {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Signals {
    /// From now on they are taken here.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new() -> Result<Self, CliError> {
        let take =
            |kind| signal(kind).map_err(|error| CliError::plain(format!("cannot take signals: {error}")));
        Ok(Self {
            int: take(SignalKind::interrupt())?,
            term: take(SignalKind::terminate())?,
            hup: take(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Number {
        tokio::select! {
            _ = self.int.recv() => Number::SIGINT,
            _ = self.term.recv() => Number::SIGTERM,
            _ = self.hup.recv() => Number::SIGHUP,
        }
    }
}

/// Runs `command` with the lease, then releases it.
///
/// # Errors
/// The command's exit code; it cannot be started; the lease ended before it.
pub async fn run(
    session: &mut Session,
    lease: LeaseUuid,
    command: &[String],
    ttl_s: u64,
    signals: &mut Signals,
) -> Result<(), CliError> {
    // One that came with the grant: the command, which does not run yet, does not get it from the terminal.
    let before = timeout(Duration::ZERO, signals.next()).await;
    if let Ok(signal) = before {
        release(session, lease, ttl_s).await;
        return Err(CliError::Interrupted(format!("{signal}: the lease is released.")));
    }
    let started = Command::new(&command[0]).args(&command[1..]).env(LEASE_ENV, lease.to_string()).spawn();
    let ended = match started {
        Ok(child) => beside(session, lease, child, ttl_s, signals).await,
        Err(error) => Err(CliError::plain(format!("cannot run {}: {error}", command[0]))),
    };
    release(session, lease, ttl_s).await;
    ended
}

async fn release(session: &mut Session, lease: LeaseUuid, ttl_s: u64) {
    session.hang_up();
    if let Err(error) = session.call("LeaseRelease", json!([lease])).await {
        session
            .screen
            .note(&format!("Lease {lease} could not be released, it ends by itself in {ttl_s} s: {error}"));
    }
}

/// Waits for the command and renews meanwhile.
async fn beside(
    session: &mut Session,
    lease: LeaseUuid,
    mut child: Child,
    ttl_s: u64,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let renewing = renew(session, lease, Duration::from_secs(ttl_s) / RENEWALS);
    tokio::pin!(renewing);
    let mut lost = false;
    let begun = Instant::now();
    loop {
        tokio::select! {
            ended = child.wait() => {
                let status = ended.map_err(|error| CliError::plain(format!("cannot wait for the command: {error}")))?;
                return if lost { Err(CliError::Told(EXIT_FAILURE)) } else { exit_of(status) };
            }
            // A terminal sends Ctrl-C to the command as well, but not to one that is only being started; the others it gets
            // from here.
            signal = signals.next() => {
                if signal != Number::SIGINT || begun.elapsed() < STARTING {
                    pass(&child, signal);
                }
            }
            why = &mut renewing, if !lost => {
                lost = true;
                Screen.note(&format!("Lease {lease} is over, the command is ended: {why}"));
                pass(&child, Number::SIGTERM);
            }
        }
    }
}

/// Renews until the lease is over; why it is.
async fn renew(session: &mut Session, lease: LeaseUuid, period: Duration) -> CliError {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match timeout(RENEW, session.call("LeaseRenew", json!([lease]))).await {
            Ok(Ok(_)) => {}
            Ok(Err(CliError::Ganeti(error))) if error.class == "OpPrereqError" => {
                return CliError::Ganeti(error);
            }
            // It cannot be said now: tried again. When luxid is away, each lease has a full ttl once it is back.
            Ok(Err(CliError::Ganeti(_))) => {}
            Ok(Err(_)) | Err(_) => session.hang_up(),
        }
    }
}

fn pass(child: &Child, signal: Number) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid {
        // It has ended if this fails, and that is seen next.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Exit code of the command; 128 and the signal's number when one ended it, as shells say it.
fn exit_of(status: ExitStatus) -> Result<(), CliError> {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    match code.and_then(|code| u8::try_from(code).ok()) {
        Some(0) => Ok(()),
        Some(code) => Err(CliError::Told(code)),
        None => Err(CliError::Told(EXIT_FAILURE)),
    }
}
