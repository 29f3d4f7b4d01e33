//! Programs that tests start end in time or are killed: a program that stands still fails its test with what it had said by
//! then, and with where everybody stood, instead of holding up all of CI without a word.

use crate::{process, wait};
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

/// More than any single command of the tests needs on a slow machine.
const COMMAND: Duration = Duration::from_secs(300);
/// How long its output may stay open once a program has ended.
const PIPES: Duration = Duration::from_secs(30);

/// Runs a command with nothing to read; what it said. As [`Command::output`], but it ends within five minutes.
///
/// # Errors
/// When it can't be started or does not end in time, or when somebody keeps its output open.
pub fn output(command: &mut Command) -> Result<Output> {
    let words = format!("{command:?}");
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    output_of(child.with_context(|| words.clone())?).with_context(|| words)
}

/// Waits for a program whose output is piped; what it said.
///
/// # Errors
/// As [`output`].
pub fn output_of(mut child: Child) -> Result<Output> {
    let (out, err) = (read(child.stdout.take()), read(child.stderr.take()));
    let ended = end(&mut child);
    let said = |pipe: &Receiver<Vec<u8>>| pipe.recv_timeout(PIPES);
    match (ended, said(&out), said(&err)) {
        (Ok(status), Ok(stdout), Ok(stderr)) => Ok(Output { status, stdout, stderr }),
        (Ok(status), ..) => bail!("{status}, but somebody keeps its output open\n{}", all_processes()),
        (Err(why), out, err) => {
            let text =
                |said: Result<Vec<u8>, _>| said.unwrap_or_else(|_: RecvTimeoutError| b"(open)".to_vec());
            let (out, err) = (text(out), text(err));
            bail!("{why:#}\n{}{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err))
        }
    }
}

/// Waits for the end of a program.
///
/// # Errors
/// When it does not end within five minutes: it is killed then.
pub fn end(child: &mut Child) -> Result<ExitStatus> {
    let ended = wait::until("the program ends", COMMAND, || child.try_wait().transpose());
    match ended {
        Ok(status) => Ok(status?),
        Err(why) => {
            let stood = all_processes();
            child.kill()?;
            child.wait()?;
            bail!("{why:#}; it was killed\n{stood}")
        }
    }
}

fn read(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (said, heard) = sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = said.send(bytes);
    });
    heard
}

/// Does some work; when it has not returned by then, says so with where all of Gantry's processes stand, and ends this whole test
/// program: a thread can't be ended, and a test run that never ends tells nothing.
pub fn watched<T>(name: &str, within: Duration, work: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let (done, over) = sync_channel::<()>(1);
        scope.spawn(move || {
            if over.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
                // Past the capture of a test's output, which an abort would swallow.
                let text = format!("\n{name}: has not ended within {within:?}\n{}", all_processes());
                let _ = std::io::stderr().write_all(text.as_bytes());
                std::process::abort();
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// Each process of Gantry's on this machine, and what its threads wait in.
fn all_processes() -> String {
    let line = |(pid, words): (u32, Vec<String>)| {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let waits =
            threads.map(|task| std::fs::read_to_string(task.path().join("wchan")).unwrap_or_default());
        let waits: Vec<String> = waits.collect();
        format!("  {pid} [{}] {}\n", waits.join(" "), words.join(" "))
    };
    process::all(|words| words[0].contains("gantry")).into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_what_it_says() {
        let said = output(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"])).unwrap();
        let parts = (said.status.code(), said.stdout.as_slice(), said.stderr.as_slice());
        assert_eq!(parts, (Some(3), b"out\n".as_slice(), b"err\n".as_slice()));
    }

    #[test]
    fn a_panic_in_watched_work_goes_on_at_once() {
        let why = std::panic::catch_unwind(|| watched("panics", COMMAND, || panic!("it did")));
        assert!(why.is_err());
    }
}
