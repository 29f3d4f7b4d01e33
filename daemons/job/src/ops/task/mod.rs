//! OP_TASK_RUN: one attempt of a task in the VM of its lease. Takes no lock: lease and generation guard it.
//!
//! Order of effects: `opened` is durable in W since the grant, before this job began (P5.4); each command has a name of its
//! own and never runs twice (P5.5), so that a repeat of the whole attempt attaches to what is there. What is not the
//! user's doing ends the job in error: luxid tries again with another lease. Killed at any point it leaves an opened
//! VM, which is DIRTY once luxid ends the lease.

mod node;
mod output;

use crate::core::report::{self, Room};
use crate::error::OpFail;
use crate::io::bodies::{self, Piece, Writer};
use crate::ops::{Args, Cx, Locks};
use gantry_model::error::Ecode;
use gantry_model::ids::{Generation, InstanceUuid, LeaseUuid};
use gantry_model::opcode::OP_ID;
use gantry_model::task::{
    ARTIFACT_BYTES_MAX, EndWhy, RunReport, Step, StepResult, TaskResult, TaskSpec, TaskState, exec_name,
};
use gantry_proto::noded::{
    OpenLimits, VmCommandRef, VmExecRequest, VmGetRequest, VmLeaseRef, VmOpen, VmOpenRequest, VmPut,
    VmPutRequest, VmRef, VmUsage,
};
use node::{Got, Home, VmNode};
use output::Output;
use serde_json::{Map, Value};
use std::str::FromStr;
use std::time::Duration;

/// Its name.
const OP_TASK_RUN: &str = "OP_TASK_RUN";
/// Names the upload of the input within the lease.
const UPLOAD: &str = "input";
/// Where a task leaves its artifacts, below the home.
const OUT: &str = "out";
/// Bytes taken of an archive of artifacts: their bytes and as much again for headers and padding. A larger one, of a
/// great many small files, is left out.
const ARCHIVE_BYTES_MAX: u64 = 2 * ARTIFACT_BYTES_MAX;

/// What the opcode says.
struct Attempt {
    number: u32,
    lease: LeaseUuid,
    slot: InstanceUuid,
    generation: Generation,
    node: String,
    spec: TaskSpec,
}

impl Attempt {
    fn read(args: &Args<'_>) -> Result<Self, OpFail> {
        let wrong = |what: &str| {
            OpFail::prereq(format!("OP_TASK_RUN: parameter '{what}' is missing or wrong"), Ecode::WrongInput)
        };
        let number = args.uint("attempt").and_then(|number| u32::try_from(number).ok());
        let spec = args.get("spec").and_then(|spec| serde_json::from_value(spec.clone()).ok());
        Ok(Self {
            number: number.ok_or_else(|| wrong("attempt"))?,
            lease: uuid(args, "lease")?,
            slot: uuid(args, "slot")?,
            generation: Generation(args.uint("generation").ok_or_else(|| wrong("generation"))?),
            node: args.need("node")?.to_owned(),
            spec: spec.ok_or_else(|| wrong("spec"))?,
        })
    }

    /// All steps with their numbers: compile is 0, execute steps count from 1.
    fn steps(&self) -> impl Iterator<Item = (usize, &Step)> {
        let compile = self.spec.compile.iter().map(|step| (0, step));
        compile.chain(self.spec.execute.iter().enumerate().map(|(index, step)| (index + 1, step)))
    }

    fn wall(&self, step: &Step) -> Duration {
        Duration::from_secs(step.wall_s.unwrap_or(self.spec.limits.wall_s))
    }

    fn command(&self, at: VmLeaseRef, number: usize, step: &Step) -> VmExecRequest {
        let limits = &self.spec.limits;
        VmExecRequest {
            of: VmCommandRef { at, exec: exec_name(self.lease, self.number, number) },
            argv: argv(step),
            env: self.spec.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            cwd: None,
            stdin: Vec::new(),
            output_bytes_max: limits.output_kib << 10,
            wall_ms: u64::try_from(self.wall(step).as_millis()).unwrap_or(u64::MAX),
            cpu_ms: step.cpu_s.unwrap_or(limits.cpu_s).saturating_mul(1000),
        }
    }
}

/// The lease of a task's run, if the opcode is one.
pub fn lease_of(input: &Map<String, Value>) -> Option<LeaseUuid> {
    let text = |name: &str| input.get(name).and_then(Value::as_str);
    if text(OP_ID) == Some(OP_TASK_RUN) { text("lease")?.parse().ok() } else { None }
}

fn uuid<T: FromStr>(args: &Args<'_>, name: &str) -> Result<T, OpFail> {
    let text = args.need(name)?;
    text.parse().map_err(|_| {
        OpFail::prereq(format!("OP_TASK_RUN: parameter '{name}' is no uuid: '{text}'"), Ecode::WrongInput)
    })
}

/// The program of a step. A file of the input becomes standard input inside the VM, so that it never travels twice.
fn argv(step: &Step) -> Vec<String> {
    const WITH_STDIN: &str = "exec /bin/sh -c \"$1\" <\"$2\"";
    let words: Vec<&str> = match &step.stdin {
        None => vec!["/bin/sh", "-c", &step.command],
        Some(path) => vec!["/bin/sh", "-c", WITH_STDIN, "sh", &step.command, path],
    };
    words.into_iter().map(str::to_owned).collect()
}

/// Runs it. Result: a [`RunReport`].
pub async fn run(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let attempt = Attempt::read(args)?;
    cx.begin(Locks::none()).await?;
    let first = if attempt.spec.compile.is_some() { TaskState::Compiling } else { TaskState::Running };
    cx.stage(first);
    let home = Home::find(cx, &attempt.node).await?;
    let vm = VmRef { fence: cx.nodes.fence(), slot: attempt.slot, generation: attempt.generation };
    let at = VmLeaseRef { vm, lease: attempt.lease };
    let node = VmNode::new(cx, &home);
    if let Some(why) = open(&node, at, &attempt).await? {
        let state =
            if first == TaskState::Compiling { TaskState::CompileFailed } else { TaskState::RunFailed };
        // Cut: a report that is too long is refused, and would look like a failure of the job.
        let why = Some(format!("input: {why:.1000}"));
        return told(&RunReport { state, why, result: TaskResult::default() });
    }
    let mut runner = Runner { node, at, attempt: &attempt, room: Room::default(), bodies: 0 };
    let (state, why, steps) = runner.steps().await?;
    let result = runner.finish(steps).await?;
    told(&RunReport { state, why, result })
}

fn told(report: &RunReport) -> Result<Value, OpFail> {
    serde_json::to_value(report).map_err(|why| OpFail::exec(format!("can't write the report: {why}")))
}

/// First touch of the VM, with the task's limits, and its input. Why the input is of no use, which is the user's.
async fn open(node: &VmNode<'_, '_>, at: VmLeaseRef, attempt: &Attempt) -> Result<Option<String>, OpFail> {
    let limits = &attempt.spec.limits;
    let limits = OpenLimits { memory_mib: limits.memory_mib, pids: limits.pids, disk_mib: limits.disk_mib };
    node.steady::<VmOpen>(&VmOpenRequest { at, limits: Some(limits) }).await?;
    let Some(input) = &attempt.spec.input else { return Ok(None) };
    let mut unfit = None;
    let sent = bodies::send(node.cx.root(), &input.digest, async |piece: Piece| {
        let Piece { offset, bytes, last } = piece;
        let (upload, path) = (UPLOAD.to_owned(), String::new());
        let request = VmPutRequest { at, upload, path, offset, bytes, last };
        node.fit::<VmPut>(&request).await?.map_err(|why| {
            unfit = Some(why);
            node.failed("the input is of no use".to_owned())
        })
    });
    match (node.unless_cancelled(Box::pin(sent)).await.flatten(), unfit) {
        (Ok(()), _) => Ok(None),
        (Err(_), Some(why)) => Ok(Some(why)),
        (Err(why), None) => Err(why),
    }
}

struct Runner<'r, 'a> {
    node: VmNode<'r, 'a>,
    at: VmLeaseRef,
    attempt: &'r Attempt,
    room: Room,
    /// Numbers the bodies it writes.
    bodies: u64,
}

impl Runner<'_, '_> {
    /// Runs the steps that are to run: how it went, why not well, and what they became.
    async fn steps(&mut self) -> Result<(TaskState, Option<String>, Vec<StepResult>), OpFail> {
        let (mut state, mut why, mut results) = (TaskState::Success, None, Vec::new());
        for (number, step) in self.attempt.steps() {
            if number == 1 {
                self.node.cx.stage(TaskState::Running);
            }
            let result = self.step(number, step).await?;
            let failed = (!result.is_ok()).then(|| report::reason(&result));
            let over = self.spec_stops(number) || self.took_the_vm(&result).await?;
            results.push(result);
            let Some(reason) = failed else { continue };
            why.get_or_insert_with(|| format!("{}: {reason}", report::label(number, step)));
            state = if number == 0 { TaskState::CompileFailed } else { TaskState::RunFailed };
            if over {
                break;
            }
        }
        Ok((state, why, results))
    }

    /// Whether a failure of that step is the end.
    fn spec_stops(&self, number: usize) -> bool {
        number == 0 || !self.attempt.spec.keep_going
    }

    /// Whether the VM ended with the step, because the kernel took its PID 1 for memory: the user's doing, after which
    /// no further step can run.
    async fn took_the_vm(&self, result: &StepResult) -> Result<bool, OpFail> {
        Ok(result.why == EndWhy::Memory && !self.node.has(&self.at.vm).await?)
    }

    async fn step(&mut self, number: usize, step: &Step) -> Result<StepResult, OpFail> {
        let command = self.attempt.command(self.at, number, step);
        self.node.exec(&command).await?;
        let (mut out, mut err) = (self.output(&command), self.output(&command));
        let end = self.node.wait(&command.of, self.attempt.wall(step), &mut out, &mut err).await?;
        let (out, err) = (out.told(&mut self.room)?, err.told(&mut self.room)?);
        report::step(number, step, &end, out, err).ok_or_else(|| {
            let what = report::label(number, step);
            self.node.failed(format!("the command of {what} is gone without an end ({:?})", end.why))
        })
    }

    fn output(&mut self, command: &VmExecRequest) -> Output {
        self.bodies += 1;
        Output::new(self.node.cx.root(), self.node.cx.owner(), self.bodies, command.output_bytes_max)
    }

    /// What was used, and what lies under `out/`.
    async fn finish(&mut self, steps: Vec<StepResult>) -> Result<TaskResult, OpFail> {
        let usage = self.node.steady::<VmUsage>(&self.at.vm).await?;
        let peak = steps.iter().map(|step| step.memory_peak_bytes).max().unwrap_or(0);
        let memory = steps.iter().any(|step| step.why == EndWhy::Memory);
        let mut result = TaskResult {
            wall_ms: steps.iter().map(|step| step.wall_ms).sum(),
            cpu_us: usage.cpu_us,
            memory_peak_bytes: usage.memory_peak_bytes.max(peak),
            io_bytes: usage.io_bytes,
            steps,
            ..TaskResult::default()
        };
        let request =
            VmGetRequest { at: self.at, path: OUT.to_owned(), settle: true, bytes_max: ARTIFACT_BYTES_MAX };
        let (root, owner) = (self.node.cx.root().clone(), self.node.cx.owner());
        self.bodies += 1;
        let number = self.bodies;
        let archive = || Writer::new(&root, owner, number);
        match self.node.get(&request, archive, ARCHIVE_BYTES_MAX).await? {
            Got::Files(got, Some(archive)) if !got.files.is_empty() => {
                result.archive = Some(archive.finish().map_err(output::broken)?);
                let (named, left) = report::artifacts(got.files);
                (result.artifacts, result.unnamed, result.refused) = (named, left, got.refused);
            }
            Got::Files(got, _) => {
                result.refused = got.refused + u64::try_from(got.files.len()).unwrap_or(u64::MAX);
            }
            Got::Unfit => result.refused = 1,
            // A node says the same of a VM that is gone; one that memory ended is the user's.
            Got::Nothing if !memory && !self.node.has(&self.at.vm).await? => {
                return Err(self.node.failed("the VM is gone".to_owned()));
            }
            Got::Nothing => {}
        }
        if result.refused > 0 {
            self.node.cx.say(format!("{} entries of {OUT}/ were left out", result.refused));
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_input_becomes_standard_input() {
        let step = Step { command: "cat".to_owned(), ..Step::default() };
        assert_eq!(argv(&step), ["/bin/sh", "-c", "cat"]);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a b"), "hello").unwrap();
        let step = Step { command: "cat; echo \"$0\"".to_owned(), stdin: Some("a b".to_owned()), ..step };
        let words = argv(&step);
        let ran =
            std::process::Command::new(&words[0]).args(&words[1..]).current_dir(dir.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "hello/bin/sh\n");
    }
}
