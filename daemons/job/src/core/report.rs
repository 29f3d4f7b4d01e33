//! What becomes of an attempt's steps, as it is told: words for people, and a report that stays small enough to be
//! stored. Pure.

use gantry_model::task::{Artifact, EndWhy, INLINE_BYTES_MAX, Output, Step, StepResult};
use gantry_proto::noded::{CommandEnd, Why};

/// JSON of all outputs told in the report itself: with the artifacts and steps it stays under the 1 MiB of a result.
/// What goes beyond becomes bodies.
const INLINE_JSON_BYTES_MAX: usize = 512 << 10;
/// Most artifacts named.
const ARTIFACTS_MAX: usize = 1_000;
/// JSON of all named artifacts.
const ARTIFACTS_JSON_BYTES_MAX: usize = 256 << 10;

/// Room left in a report for outputs.
#[derive(Debug)]
pub struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(INLINE_JSON_BYTES_MAX)
    }
}

impl Room {
    /// The output as part of the report, if it is text, small, and there is room.
    pub fn inline(&mut self, bytes: &[u8]) -> Option<Output> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= INLINE_BYTES_MAX)?;
        let json = serde_json::to_string(text).ok()?.len();
        self.0 = self.0.checked_sub(json)?;
        let text = (!text.is_empty()).then(|| text.to_owned());
        Some(Output { bytes: bytes.len() as u64, text, digest: None })
    }
}

/// The name of a step for people: "compile", "step 2", "step 2 (link)".
pub fn label(number: usize, step: &Step) -> String {
    match (number, step.name.as_str()) {
        (0, _) => "compile".to_owned(),
        (_, "") => format!("step {number}"),
        (_, name) => format!("step {number} ({name})"),
    }
}

/// What a step that ended is stored as; None: its command is gone without an end, or was cancelled, which says nothing
/// about the user's work.
pub fn step(number: usize, step: &Step, end: &CommandEnd, out: Output, err: Output) -> Option<StepResult> {
    let (why, exit, signal) = match end.why {
        Why::Exit(code) => (EndWhy::Exit, Some(code), None),
        Why::Signal(signal) => (EndWhy::Signal, None, Some(signal)),
        Why::Output => (EndWhy::Output, None, None),
        Why::Wall => (EndWhy::Wall, None, None),
        Why::Cpu => (EndWhy::Cpu, None, None),
        Why::Memory => (EndWhy::Memory, None, None),
        Why::Disk => (EndWhy::Disk, None, None),
        Why::Pids => (EndWhy::Pids, None, None),
        Why::Lost | Why::Cancelled => return None,
    };
    let name = if step.name.is_empty() { number.to_string() } else { step.name.clone() };
    Some(StepResult {
        name: if number == 0 && step.name.is_empty() { "compile".to_owned() } else { name },
        compile: number == 0,
        why,
        exit,
        signal,
        wall_ms: end.wall_ms,
        cpu_us: end.cpu_us,
        memory_peak_bytes: end.memory_peak_bytes,
        truncated: end.truncated,
        out,
        err,
    })
}

/// Why a step was no success: "exit code 3", "memory limit".
pub fn reason(result: &StepResult) -> String {
    match (result.exit, result.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => result.why.as_str().to_owned(),
    }
}

/// The artifacts that are named in the report, and how many are not.
pub fn artifacts(files: Vec<(String, u64)>) -> (Vec<Artifact>, u64) {
    let (mut named, mut room, mut left) = (Vec::new(), ARTIFACTS_JSON_BYTES_MAX, 0);
    for (path, bytes) in files {
        let artifact = Artifact { path, bytes };
        let json = serde_json::to_string(&artifact).map_or(usize::MAX, |text| text.len() + 1);
        match room.checked_sub(json) {
            Some(rest) if named.len() < ARTIFACTS_MAX => {
                room = rest;
                named.push(artifact);
            }
            _ => left += 1,
        }
    }
    (named, left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::job::JOB_JSON_BYTES_MAX;
    use gantry_model::task::{RunReport, STEPS_MAX, TEXT_BYTES_MAX, TaskResult, TaskState};

    fn end(why: Why) -> CommandEnd {
        CommandEnd { why, wall_ms: 1, cpu_us: 2, memory_peak_bytes: 3, truncated: false }
    }

    #[test]
    fn reasons_are_told_in_words() {
        let told = |why| {
            let blank = Output::default();
            step(2, &Step::default(), &end(why), blank.clone(), blank).map(|result| reason(&result))
        };
        assert_eq!(told(Why::Exit(3)).as_deref(), Some("exit code 3"));
        assert_eq!(told(Why::Signal(11)).as_deref(), Some("signal 11"));
        assert_eq!(told(Why::Memory).as_deref(), Some("memory limit"));
        assert_eq!((told(Why::Lost), told(Why::Cancelled)), (None, None));
        let named = Step { name: "link".to_owned(), ..Step::default() };
        assert_eq!((label(0, &named), label(2, &named)), ("compile".to_owned(), "step 2 (link)".to_owned()));
    }

    #[test]
    fn what_is_no_text_or_too_large_is_not_told_inline() {
        let mut room = Room::default();
        assert_eq!(room.inline(b"hi").unwrap().text.as_deref(), Some("hi"));
        assert_eq!(room.inline(b"").unwrap(), Output::default());
        assert!(room.inline(&[0xff]).is_none());
        assert!(room.inline(&[b'x'; INLINE_BYTES_MAX + 1]).is_none());
    }

    #[test]
    fn the_largest_report_can_be_stored() {
        let mut room = Room::default();
        // Control characters take six bytes of JSON each.
        let worst = vec![1u8; INLINE_BYTES_MAX];
        let name = "\"".repeat(TEXT_BYTES_MAX);
        let one = Step { name, ..Step::default() };
        let body = Output { bytes: u64::MAX, text: None, digest: Some("f".repeat(64)) };
        let mut output = || room.inline(&worst).unwrap_or_else(|| body.clone());
        let steps = (0..=STEPS_MAX).map(|n| step(n, &one, &end(Why::Exit(1)), output(), output()).unwrap());
        let steps: Vec<_> = steps.collect();
        let (named, left) =
            artifacts((0..2_000).map(|n| (format!("{n}{}", "\u{1}".repeat(250)), u64::MAX)).collect());
        assert_eq!(named.len() as u64 + left, 2_000);
        let result = TaskResult { steps, artifacts: named, ..TaskResult::default() };
        let report = RunReport { state: TaskState::RunFailed, why: None, result };
        let bytes = serde_json::to_string(&report).unwrap().len();
        assert!(bytes < JOB_JSON_BYTES_MAX, "{bytes}");
        assert!(left > 0 && bytes > JOB_JSON_BYTES_MAX / 2, "{bytes}");
    }
}
