//! `gnt-task log`: what the steps of a task wrote, live or stored.

use super::number;
use crate::error::CliError;
use crate::progress::Progress;
use crate::session::Session;
use crate::stream::{self, FRUITLESS_MAX, broke, failed};
use gantry_model::ids::TaskId;
use gantry_model::task::TaskState;
use gantry_proto::noded::Stream;
use gantry_proto::stream::{LogPlace, TaskLog, TaskLogEnd, TaskLogPiece, TaskLogRequest};
use gantry_rpc::{CallError, Client, Event};

#[derive(Debug, clap::Args)]
pub struct Log {
    /// The task
    #[arg(value_parser = number)]
    task: u64,
    /// Go on as it is written, to the task's end
    #[arg(short, long)]
    follow: bool,
    /// Only this step: 0 is the compile step, execute steps count from 1
    #[arg(long, value_name = "N")]
    step: Option<u32>,
    /// Only this stream: out or err
    #[arg(long, value_name = "WORD", value_parser = ["out", "err"])]
    stream: Option<String>,
}

/// Runs the command: standard output to standard output, standard error to standard error.
///
/// # Errors
/// The server's; connections that break again and again.
pub async fn run(session: &mut Session, log: &Log) -> Result<(), CliError> {
    session.command = "log".to_owned();
    if let Some(step) = log.step {
        check_step(session, log.task, step).await?;
    }
    let mut place = LogPlace { step: log.step.unwrap_or(0), ..LogPlace::default() };
    let mut fruitless = 0;
    let mut progress = Progress::plain();
    let end = loop {
        let before = place;
        let client = stream::connect(session).await?;
        match follow(session, log, &client, &mut place, &mut progress).await? {
            Ok(end) => break end,
            Err(error) if broke(&error) && fruitless < FRUITLESS_MAX => {
                fruitless = if place == before { fruitless + 1 } else { 0 };
            }
            Err(error) => return Err(failed(&format!("task {}", log.task), &error)),
        }
    };
    if log.follow {
        let state = TaskState::try_from(end.state).map_or("unknown", TaskState::as_str);
        let why = if end.why.is_empty() { String::new() } else { format!(": {}", end.why) };
        session.screen.note(&crate::output::text::safe(&format!("Task {} {state}{why}", log.task)));
    }
    if end.state == u8::from(TaskState::Cancelled) {
        session.screen.note("What a cancelled task wrote is not kept once it has ended");
    }
    Ok(())
}

/// That the task has this step: of one that it has not nothing would ever come.
async fn check_step(session: &mut Session, task: u64, step: u32) -> Result<(), CliError> {
    let Some((record, _, _)) = super::query(session, task).await? else {
        return Err(super::not_found(session, task));
    };
    let last = record.spec.execute.len();
    let has = if step == 0 { record.spec.compile.is_some() } else { step as usize <= last };
    if has {
        return Ok(());
    }
    let compile = if record.spec.compile.is_some() { "0 (compile) to " } else { "1 to " };
    Err(CliError::plain(format!("Task {task} has no step {step}; its steps are {compile}{last}")))
}

/// Prints pieces until the end; `place` is where to go on. The inner error is the connection's or server's.
async fn follow(
    session: &Session,
    log: &Log,
    client: &Client,
    place: &mut LogPlace,
    progress: &mut Progress,
) -> Result<Result<TaskLogEnd, CallError>, CliError> {
    let request = TaskLogRequest { task: TaskId(log.task), from: *place, follow: log.follow };
    let mut stream = match client.open::<TaskLog>(&request).await {
        Ok(stream) => stream,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        match stream.next().await {
            // No bytes: why nothing comes.
            Ok(Event::Item(piece)) if piece.bytes.is_empty() => {
                progress.say(&format!("Waiting: {}", crate::output::text::safe(&piece.name)));
            }
            Ok(Event::Item(piece)) => take(session, log, place, &piece)?,
            Ok(Event::End(end)) => return Ok(Ok(end)),
            Err(error) => return Ok(Err(error)),
        }
    }
}

fn take(session: &Session, log: &Log, place: &mut LogPlace, piece: &TaskLogPiece) -> Result<(), CliError> {
    if (place.attempt, place.step) != (piece.attempt, piece.step) {
        if place.attempt != 0 && place.attempt != piece.attempt {
            session.screen.note(&format!("Attempt {} begins; the one before was given up", piece.attempt));
        }
        *place = LogPlace { attempt: piece.attempt, step: piece.step, out: 0, err: 0 };
    }
    let at = match piece.stream {
        Stream::Out => &mut place.out,
        Stream::Err => &mut place.err,
    };
    *at = piece.offset + piece.bytes.len() as u64;
    if log.step.is_some_and(|step| step != piece.step) {
        return Ok(());
    }
    match (piece.stream, log.stream.as_deref()) {
        (Stream::Out, None | Some("out")) => session.screen.bytes(&piece.bytes),
        (Stream::Err, None | Some("err")) => {
            session.screen.error_bytes(&piece.bytes);
            Ok(())
        }
        _ => Ok(()),
    }
}
