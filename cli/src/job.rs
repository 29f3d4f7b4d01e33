//! The conversation about jobs: submit, follow to the end with its log, tell the outcome
//! (`spec/luxi.md` §1, `spec/jobs.md` §9).

use crate::error::{CliError, EXIT_FAILURE};
use crate::opcode::{SubmitOptions, Trail, build};
use crate::output::text::{plain, safe_lines};
use crate::output::time::log_time;
use crate::session::Session;
use gantry_model::error::GanetiError;
use serde_json::{Map, Value, json};

/// Seconds that one `WaitForJobChange` may last, as Ganeti's commands ask for.
const WAIT_S: u64 = 60;
/// The same while a reason for waiting has not been told yet.
const WAIT_FIRST_S: u64 = 2;

/// An opcode, checked and complete.
pub type Op = Map<String, Value>;

/// What to do with log entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feedback {
    /// Print them as they come.
    Print,
    /// Print nothing.
    Silent,
}

impl Session {
    /// An opcode of this command. See [`build`].
    ///
    /// # Errors
    /// As [`build`].
    pub fn op(&self, id: &str, given: Value, options: &SubmitOptions) -> Result<Op, CliError> {
        let program = self.program();
        let now_ns = gantry_model::time::now_nanos();
        build(id, given, options, &Trail { program: &program, command: &self.command, now_ns })
    }

    /// Submits a job of one opcode and follows it; its result, or none if it was only submitted.
    ///
    /// # Errors
    /// The refusal, the opcode's error, a broken connection, Ctrl-C.
    pub async fn run_op(
        &mut self,
        id: &str,
        given: Value,
        options: &SubmitOptions,
    ) -> Result<Option<Value>, CliError> {
        let op = self.op(id, given, options)?;
        let job = self.submit(&[op]).await?;
        if options.submit {
            self.screen.line(&format!("JobID: {job}"))?;
            return Ok(None);
        }
        if options.print_jobid {
            self.screen.line(&format!("JobID: {job}"))?;
        }
        let mut results = self.follow(job, Feedback::Print).await?;
        Ok(Some(if results.is_empty() { Value::Null } else { results.swap_remove(0) }))
    }

    /// Submits one job; its number.
    ///
    /// # Errors
    /// The refusal or a broken connection.
    pub async fn submit(&mut self, ops: &[Op]) -> Result<u64, CliError> {
        let answer = self.luxi().await?.call_once("SubmitJob", json!([ops])).await?;
        job_number(&answer)
            .ok_or_else(|| CliError::Protocol(format!("SubmitJob answered {answer}, no job number")))
    }

    /// Follows a job to its end; the results of its opcodes. Ctrl-C leaves the job alone and says how to go on.
    ///
    /// # Errors
    /// The job's error as the class it was raised with; `JobLost`; Ctrl-C.
    pub async fn follow(&mut self, job: u64, feedback: Feedback) -> Result<Vec<Value>, CliError> {
        let text = format!(
            "Aborted. Job {job} goes on in the background.\nFollow it with \"{}\", end it with \"{}\".",
            self.typed("job", &format!("watch {job}")),
            self.typed("job", &format!("cancel {job}"))
        );
        tokio::select! {
            done = self.poll(job, feedback) => done,
            _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted(text)),
        }
    }

    async fn poll(&mut self, job: u64, feedback: Feedback) -> Result<Vec<Value>, CliError> {
        let mut seen = Seen::default();
        loop {
            let wait = if seen.told { WAIT_S } else { WAIT_FIRST_S };
            let args = json!([job, ["status"], seen.values, seen.serial, wait]);
            let answer = self.call("WaitForJobChange", args).await?;
            match seen.take(&answer)? {
                News::Log(entries) if feedback == Feedback::Print => {
                    for (at, kind, message) in entries {
                        self.screen.line(&log_line(&log_time(&at, &self.zone), &kind, &message))?;
                    }
                }
                News::Log(_) | News::Changed => {}
                News::Nothing(status) => self.tell_why(job, &status, &mut seen, feedback),
                News::Ended => break,
            }
        }
        self.outcome(job).await
    }

    /// Says once per state why a job does not go on. (What lock it waits for, it logs itself.)
    fn tell_why(&self, job: u64, status: &str, seen: &mut Seen, feedback: Feedback) {
        if feedback == Feedback::Silent || seen.told_of == status {
            return;
        }
        seen.told_of = status.to_owned();
        seen.told = status != "queued";
        match status {
            "queued" => self.screen.note(&format!("Job {job} is waiting in queue")),
            "waiting" => self.screen.note(&format!("Job {job} is trying to acquire all necessary locks")),
            _ => {}
        }
    }

    /// The results of a job that has ended, or the error that it ended with.
    async fn outcome(&mut self, job: u64) -> Result<Vec<Value>, CliError> {
        let args = json!([[job], ["status", "opstatus", "opresult"]]);
        let answer = self.call("QueryJobs", args).await?;
        judge(job, &answer[0]).map_err(CliError::Ganeti)
    }

    /// Follows jobs that another job submitted (`[[true, id], ...]`); per job its results or its error.
    /// Errors are printed as they come.
    ///
    /// # Errors
    /// Ctrl-C and a broken connection; a job's own error is in the list.
    pub async fn follow_all(
        &mut self,
        jobs: &[(Result<u64, String>, String)],
        verbose: bool,
    ) -> Result<Vec<Result<Vec<Value>, CliError>>, CliError> {
        let mut results = Vec::new();
        for (job, name) in jobs {
            let about = if name.is_empty() { String::new() } else { format!(" for {name}") };
            let outcome = match job {
                Ok(job) => {
                    if verbose {
                        self.screen.line(&format!("Waiting for job {job}{about} ..."))?;
                    }
                    let outcome = self.follow(*job, Feedback::Print).await;
                    if let Err(error @ CliError::Ganeti(_)) = &outcome {
                        self.screen.note(&format!("Job {job}{about} has failed: {error}"));
                    }
                    outcome
                }
                Err(why) => {
                    self.screen.note(&format!("Failed to submit job{about}: {why}"));
                    Err(CliError::Told(EXIT_FAILURE))
                }
            };
            match outcome {
                Err(error @ (CliError::Interrupted(_) | CliError::OutputGone | CliError::Plain(_))) => {
                    return Err(error);
                }
                other => results.push(other),
            }
        }
        Ok(results)
    }

    /// One job per named opcode, submitted together and then followed; whether all ended well.
    ///
    /// # Errors
    /// The refusal of all, a broken connection, Ctrl-C.
    pub async fn run_many(
        &mut self,
        ops: Vec<(String, Op)>,
        options: &SubmitOptions,
    ) -> Result<bool, CliError> {
        let jobs: Vec<Value> = ops.iter().map(|(_, op)| json!([op])).collect();
        let answer = self.luxi().await?.call_once("SubmitManyJobs", json!([jobs])).await?;
        let names = ops.into_iter().map(|(name, _)| name);
        let submitted: Vec<_> = submitted(&answer).into_iter().zip(names).collect();
        if options.submit {
            let mut all = true;
            for (job, name) in &submitted {
                match job {
                    Ok(job) => self.screen.line(&format!("{job}: {name}"))?,
                    Err(why) => {
                        all = false;
                        self.screen.note(&format!("Failure for {name}: {why}"));
                    }
                }
            }
            return Ok(all);
        }
        let results = self.follow_all(&submitted, true).await?;
        Ok(results.iter().all(Result::is_ok))
    }
}

/// `[[true, id] or [false, text], ...]`.
#[must_use]
pub fn submitted(pairs: &Value) -> Vec<Result<u64, String>> {
    let one = |pair: &Value| match (pair[0].as_bool(), job_number(&pair[1])) {
        (Some(true), Some(job)) => Ok(job),
        _ => Err(plain(&pair[1])),
    };
    pairs.as_array().into_iter().flatten().map(one).collect()
}

/// A job's number, which may come as text.
fn job_number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn log_line(time: &str, kind: &str, message: &Value) -> String {
    debug_assert!(!kind.is_empty());
    format!("{time} {}", safe_lines(&plain(message)))
}

/// What is known of a job that is being followed.
#[derive(Debug, Default)]
struct Seen {
    values: Value,
    serial: Option<u64>,
    told: bool,
    told_of: String,
}

/// What an answer of `WaitForJobChange` said.
#[derive(Debug, PartialEq)]
enum News {
    /// Log entries: time, type, message.
    Log(Vec<(Value, String, Value)>),
    /// Another status.
    Changed,
    /// Still in this status.
    Nothing(String),
    /// Over, and no log entry is left.
    Ended,
}

impl Seen {
    fn take(&mut self, answer: &Value) -> Result<News, CliError> {
        if answer == "nochange" {
            let status = self.values[0].as_str().unwrap_or_default().to_owned();
            return Ok(News::Nothing(status));
        }
        let (Some([values, log]), Some(status)) =
            (answer.as_array().map(Vec::as_slice), answer[0][0].as_str())
        else {
            return Err(CliError::Protocol(format!("WaitForJobChange answered {answer}")));
        };
        let changed = *values != self.values;
        self.values = values.clone();
        let entries: Vec<_> = log.as_array().into_iter().flatten().filter_map(|e| self.entry(e)).collect();
        if !entries.is_empty() {
            return Ok(News::Log(entries));
        }
        Ok(match status {
            "success" | "error" | "canceling" | "canceled" => News::Ended,
            _ if changed => News::Changed,
            _ => News::Nothing(status.to_owned()),
        })
    }

    /// One new log entry.
    fn entry(&mut self, entry: &Value) -> Option<(Value, String, Value)> {
        let serial = entry[0].as_u64()?;
        if self.serial.is_some_and(|seen| serial <= seen) {
            return None;
        }
        self.serial = Some(serial);
        Some((entry[1].clone(), entry[2].as_str()?.to_owned(), entry[3].clone()))
    }
}

/// The results of an ended job, or its error: the class of the first opcode that failed.
fn judge(job: u64, row: &Value) -> Result<Vec<Value>, GanetiError> {
    let lost = || GanetiError::new("JobLost", format!("Job with id {job} lost"));
    let [status, opstatus, opresult] = row.as_array().ok_or_else(lost)?.as_slice() else {
        return Err(lost());
    };
    let results = opresult.as_array().cloned().unwrap_or_default();
    match status.as_str() {
        None => return Err(lost()),
        Some("success") => return Ok(results),
        Some("canceling" | "canceled") => return Err(GanetiError::new("JobCanceled", "Job was canceled")),
        Some(_) => {}
    }
    let words = opstatus.as_array().into_iter().flatten();
    let failed = words.clone().zip(&results).position(|(word, _)| word == "error");
    let Some(at) = failed else { return Err(GanetiError::exec(plain(opresult))) };
    if let Some(raised) = GanetiError::from_value(&results[at]) {
        return Err(raised);
    }
    let text = plain(&results[at]);
    let partly = opstatus.as_array().into_iter().flatten().take(at).any(|word| word == "success");
    Err(GanetiError::exec(if partly { format!("partial failure (opcode {at}): {text}") } else { text }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_wait_are_told_apart() {
        let mut seen = Seen::default();
        let entry = json!([3, [1, 2], "message", "hello"]);
        assert_eq!(seen.take(&json!([["queued"], []])).unwrap(), News::Changed);
        assert_eq!(seen.take(&json!([["queued"], []])).unwrap(), News::Nothing("queued".to_owned()));
        assert_eq!(seen.take(&json!("nochange")).unwrap(), News::Nothing("queued".to_owned()));
        let news = seen.take(&json!([["success"], [entry]])).unwrap();
        assert_eq!(news, News::Log(vec![(json!([1, 2]), "message".to_owned(), json!("hello"))]));
        assert_eq!(seen.serial, Some(3));
        assert_eq!(seen.take(&json!([["success"], [entry]])).unwrap(), News::Ended, "an entry is told once");
        for bad in [json!(null), json!([[], []]), json!([["x"]]), json!([[5], []])] {
            assert!(seen.take(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_failed_opcode_decides() {
        let row = |status, ops: Value, results: Value| json!([status, ops, results]);
        assert_eq!(judge(1, &row("success", json!(["success"]), json!([5]))), Ok(vec![json!(5)]));
        let error = judge(1, &row("error", json!(["success", "error"]), json!([null, "boom"]))).unwrap_err();
        assert_eq!(error, GanetiError::exec("partial failure (opcode 1): boom"));
        let raised = json!([["OpPrereqError", ["no", "wrong_state"]]]);
        let error = judge(1, &row("error", json!(["error"]), raised)).unwrap_err();
        assert_eq!(error.ecode(), Some("wrong_state"));
        assert_eq!(judge(1, &row("canceled", json!([]), json!([]))).unwrap_err().class, "JobCanceled");
        assert_eq!(judge(1, &json!(null)).unwrap_err().class, "JobLost");
        assert_eq!(judge(1, &json!([null, null, null])).unwrap_err().class, "JobLost");
    }

    #[test]
    fn jobs_of_jobs_come_as_pairs() {
        assert_eq!(
            submitted(&json!([[true, 5], [true, "6"], [false, "no"]])),
            [Ok(5), Ok(6), Err("no".to_owned())]
        );
    }
}
