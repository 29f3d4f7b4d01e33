//! `gnt-lease exec`: a command in a leased machine, its output live, its exit code ours. The command has a name drawn
//! here: when the connection breaks it is found again by it and never run twice.

use super::find;
use super::hold::Signals;
use crate::error::CliError;
use crate::output::time::parse_span;
use crate::session::Session;
use crate::stream::{self, FRUITLESS_MAX, broke, failed};
use gantry_model::pool::WALL_S_MAX;
use gantry_model::task::OUTPUT_BYTES_MAX;
use gantry_proto::noded::{CommandEnd, STDIN_BYTES_MAX, Stream, Why};
use gantry_proto::stream::{LeaseExec, LeaseExecRequest, LeaseSignal, LeaseSignalRequest};
use gantry_rpc::{CallError, Client, Event};
use nix::sys::signal::Signal as Number;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const HELP: &str = "\
Example:
  gnt-lease exec 3f0c --env N=3 -- python3 -c 'import os; print(os.environ[\"N\"])'

Exits as the command does; with 128 and the number of a signal that ended it; with 124 when it met a limit (wall \
clock, CPU time, memory, processes, room, output) and says which; with 125 when it was lost with its machine (1 when its lease ended first); with 130 when it \
was cancelled.
Ctrl-C sends it INT; a second one, TERM or a closed terminal cancels it.";

/// Exit code of a command that met a limit, as timeout(1)'s.
const EXIT_LIMIT: u8 = 124;
/// Exit code of a command whose end nobody knows.
const EXIT_LOST: u8 = 125;
/// Exit code of a cancelled command.
const EXIT_CANCELLED: u8 = 130;
/// How long a signal may take to be passed on.
const SIGNAL: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct Exec {
    /// The lease: its uuid, or enough of its beginning
    lease: String,
    /// Which of its machines, from 0
    #[arg(short = 'n', long, value_name = "N", default_value_t = 0)]
    vm: u32,
    /// Its working directory, seen from the home; without it the home
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// A variable of its environment, beside PATH, HOME and LANG; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Its standard input, at most 1 MiB; - is ours. Without it there is none
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// Longest time it may run, at most 24h; the lease's end ends it too
    #[arg(long, value_name = "TIME", value_parser = wall_span, default_value = "1h")]
    wall: u64,
    /// Program and arguments; no shell reads them
    #[arg(last = true, required = true, value_name = "CMD")]
    argv: Vec<String>,
}

fn wall_span(text: &str) -> Result<u64, String> {
    let seconds = parse_span(text)?;
    if (1..=WALL_S_MAX).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("a command runs 1s to 24h, not '{text}'"))
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is no variable; write NAME=VALUE")),
    }
}

/// Runs the command.
///
/// # Errors
/// The command's exit code; the server's refusal.
pub async fn run(session: &mut Session, exec: Exec) -> Result<(), CliError> {
    session.command = "exec".to_owned();
    let stdin = exec.stdin.as_deref().map(read_stdin).transpose()?.unwrap_or_default();
    // Not before: nothing runs yet that would have to be told, and who is asked for input may end this with Ctrl-C.
    let mut signals = Signals::new()?;
    let mut request = LeaseExecRequest {
        lease: find(session, &exec.lease).await?,
        vm: exec.vm,
        exec: format!("cli-{}", uuid::Uuid::new_v4().simple()),
        argv: exec.argv,
        env: exec.env,
        cwd: exec.cwd,
        stdin,
        output_bytes_max: OUTPUT_BYTES_MAX,
        wall_ms: exec.wall.saturating_mul(1000),
        cpu_ms: WALL_S_MAX * 1000,
        out: 0,
        err: 0,
    };
    let (mut presses, mut fruitless) = (0, 0);
    let end = loop {
        let before = (request.out, request.err);
        let client = stream::connect(session).await?;
        match follow(session, &client, &mut request, &mut signals, &mut presses).await? {
            Ok(end) => break end,
            Err(error) if broke(&error) && fruitless < FRUITLESS_MAX => {
                fruitless = if (request.out, request.err) == before { fruitless + 1 } else { 0 };
            }
            Err(error) => return Err(failed("exec", &error)),
        }
    };
    exit_of(session, &end)
}

fn read_stdin(path: &Path) -> Result<Vec<u8>, CliError> {
    let failed = |error| CliError::plain(format!("cannot read {}: {error}", path.display()));
    let mut bytes = Vec::new();
    let most = STDIN_BYTES_MAX as u64 + 1;
    if path.as_os_str() == "-" {
        std::io::stdin().take(most).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        std::fs::File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() > STDIN_BYTES_MAX {
        return Err(CliError::plain(format!(
            "{} is over {} MiB, the most a command gets as standard input; send it with \"gnt-lease put\" instead",
            path.display(),
            STDIN_BYTES_MAX >> 20
        )));
    }
    Ok(bytes)
}

/// Starts or attaches, and prints output until the end. The inner error is the connection's or server's.
async fn follow(
    session: &Session,
    client: &Client,
    request: &mut LeaseExecRequest,
    signals: &mut Signals,
    presses: &mut u32,
) -> Result<Result<CommandEnd, CallError>, CliError> {
    let mut stream = match client.open::<LeaseExec>(request).await {
        Ok(stream) => stream,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        tokio::select! {
            event = stream.next() => match event {
                Ok(Event::Item(piece)) => {
                    let next = piece.offset + piece.bytes.len() as u64;
                    match piece.stream {
                        Stream::Out => {
                            request.out = next;
                            if session.screen.bytes(&piece.bytes).is_err() {
                                send(session, client, request, 0).await;
                                return Err(CliError::OutputGone);
                            }
                        }
                        Stream::Err => {
                            request.err = next;
                            session.screen.error_bytes(&piece.bytes);
                        }
                    }
                }
                Ok(Event::End(end)) => return Ok(Ok(end)),
                Err(error) => return Ok(Err(error)),
            },
            signal = signals.next() => {
                *presses += 1;
                let first = *presses == 1 && signal == Number::SIGINT;
                let number = if first { Number::SIGINT as i32 } else { 0 };
                send(session, client, request, number).await;
            }
        }
    }
}

/// Sends a signal to the command; 0 cancels it.
async fn send(session: &Session, client: &Client, request: &LeaseExecRequest, signal: i32) {
    let to = LeaseSignalRequest { lease: request.lease, vm: request.vm, exec: request.exec.clone(), signal };
    if let Err(error) = client.call::<LeaseSignal>(&to, SIGNAL).await {
        session.screen.note(&format!("The signal was not passed on: {error}"));
    }
}

fn exit_of(session: &Session, end: &CommandEnd) -> Result<(), CliError> {
    let limit = |what: &str| {
        session.screen.note(&format!("The command was ended: {what}"));
        EXIT_LIMIT
    };
    let code = match end.why {
        Why::Exit(0) => return Ok(()),
        Why::Exit(code) => u8::try_from(code).unwrap_or(1),
        Why::Signal(number) => u8::try_from(128 + number).unwrap_or(1),
        Why::Cancelled => {
            session.screen.note("The command was cancelled");
            EXIT_CANCELLED
        }
        Why::Output => limit("it wrote more than 64 MiB to a stream"),
        Why::Wall => limit("its time was over (--wall)"),
        Why::Cpu => limit("its CPU time was over"),
        Why::Memory => limit("the machine's memory was full"),
        Why::Disk => limit("the machine's room for files was full"),
        Why::Pids => limit("the machine had its most processes"),
        Why::Lost => {
            session.screen.note("The command was lost with its machine; whether it ended is not known");
            EXIT_LOST
        }
    };
    Err(CliError::Told(code))
}
