//! The output of a task: relayed while its steps run, from the store when they are stored.

use super::super::blob::Body;
use super::StreamApi;
use super::relay::{Broken, Offsets, Sink, relay};
use crate::core::mirror::ObjectChange;
use crate::core::queue::kind;
use crate::core::task_log::{Live, Next, at_step, next};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::TaskId;
use gantry_model::task::{Output, StepResult, Task};
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{OutputPiece, Stream, VmCommandRef, VmLeaseRef, VmRef, Why};
use gantry_proto::stream::{LogPlace, TaskLog, TaskLogEnd, TaskLogPiece, TaskLogRequest};
use gantry_rpc::{CallError, ItemSender};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// Who does not follow gets what is there. A node does not say where that ends: nothing came for so long, ms.
const QUIET_MS: u64 = 300;
/// First and longest pause before a step is asked for again whose command is not there yet, or whose node does not
/// answer, ms. Between two steps a job takes some milliseconds, and no record tells of it.
const PAUSE_MS: (u64, u64) = (20, 500);

/// How the relay of a running step ended.
enum Relayed {
    /// The step is over, and all of it was sent.
    Step,
    /// What was there was sent.
    Quiet,
    /// The task is final, or in another attempt.
    Moved,
    /// Nothing to relay now: why.
    NotNow(String),
}

struct TaskSink<'a> {
    items: &'a ItemSender<TaskLog>,
    attempt: u32,
    step: u32,
    name: &'a str,
}

impl Sink for TaskSink<'_> {
    async fn take(&self, piece: OutputPiece) -> Result<(), Fail> {
        let OutputPiece { stream, offset, bytes } = piece;
        let (attempt, step, name) = (self.attempt, self.step, self.name.to_owned());
        Ok(self.items.send(&TaskLogPiece { attempt, step, name, stream, offset, bytes }).await?)
    }
}

/// Whether a task has the step that its output is wanted from. Step 0 is that of whoever wants all.
fn may_begin(task: &Task, place: LogPlace) -> Result<(), Fail> {
    let last = task.spec.execute.len();
    if place.step as usize <= last {
        return Ok(());
    }
    let first = if task.spec.compile.is_some() { "0 (the compile step)" } else { "1" };
    let text = format!("task {} has no step {}: its steps are {first} to {last}", task.id, place.step);
    Err(GanetiError::prereq(text, Ecode::WrongInput).into())
}

impl StreamApi {
    fn task(&self, id: TaskId) -> Result<Arc<Task>, Fail> {
        let none = || GanetiError::prereq(format!("there is no task {id}"), Ecode::UnknownEntity).into();
        self.parts.view.task(id).map(|(_, task)| task).ok_or_else(none)
    }

    /// Sends the output of a task from a place on.
    pub(super) async fn task_log(
        &self,
        request: TaskLogRequest,
        items: ItemSender<TaskLog>,
    ) -> Result<TaskLogEnd, Fail> {
        let TaskLogRequest { task: id, from: mut place, follow } = request;
        may_begin(self.task(id)?.as_ref(), place)?;
        let mut changes = self.parts.view.changes();
        let (mut told, mut pause) = (String::new(), PAUSE_MS.0);
        loop {
            let task = self.task(id)?;
            let (why, again) = match next(&task, &mut place) {
                Next::Over => return Ok(self.end(&task)),
                Next::Stored(step) => {
                    self.stored(step, place, &items).await?;
                    let after = place.step + 1;
                    at_step(&mut place, after);
                    continue;
                }
                Next::Waits(why) => {
                    (why.map_or_else(|| self.parts.view.why_waiting(id), str::to_owned), None)
                }
                Next::Live(live) => {
                    let from = (place.out, place.err);
                    match self.live(id, &live, &mut place, follow, &mut changes, &items).await? {
                        Relayed::Step => {
                            let after = place.step + 1;
                            at_step(&mut place, after);
                            pause = PAUSE_MS.0;
                            continue;
                        }
                        Relayed::Moved => continue,
                        Relayed::Quiet => return Ok(self.end(&task)),
                        Relayed::NotNow(why) => {
                            if from != (place.out, place.err) {
                                pause = PAUSE_MS.0;
                            }
                            (why, Some(pause))
                        }
                    }
                }
            };
            if !follow {
                return Ok(TaskLogEnd { why, ..self.end(&task) });
            }
            if why != told && !why.is_empty() {
                tell(&items, place, &why).await?;
                told = why;
            }
            match again {
                None => changed(&mut changes, id).await,
                Some(ms) => {
                    let _ = tokio::time::timeout(Duration::from_millis(ms), changed(&mut changes, id)).await;
                    pause = (ms * 2).min(PAUSE_MS.1);
                }
            }
        }
    }

    fn end(&self, task: &Task) -> TaskLogEnd {
        let why = task.why.clone().unwrap_or_else(|| self.parts.view.why_waiting(task.id));
        TaskLogEnd { state: u8::from(task.state), why }
    }

    /// Relays a step that runs.
    async fn live(
        &self,
        id: TaskId,
        live: &Live,
        place: &mut LogPlace,
        follow: bool,
        changes: &mut Receiver<ObjectChange>,
        items: &ItemSender<TaskLog>,
    ) -> Result<Relayed, Fail> {
        let config = self.parts.config.snapshot();
        let client = match self.parts.nodes.connect(&config, live.vm.node).await {
            Ok(client) => client,
            Err(why) => return Ok(Relayed::NotNow(why)),
        };
        let vm = VmRef { fence: self.parts.fence, slot: live.vm.slot, generation: live.vm.generation };
        let of = VmCommandRef { at: VmLeaseRef { vm, lease: live.lease }, exec: live.exec.clone() };
        let sink = TaskSink { items, attempt: live.attempt, step: place.step, name: &live.name };
        let mut offsets = Offsets { out: place.out, err: place.err };
        let quiet = (!follow).then(|| Duration::from_millis(QUIET_MS));
        let relayed = tokio::select! {
            biased;
            relayed = relay(&client, &of, &mut offsets, quiet, &sink) => Some(relayed),
            () = self.moved(changes, id, live.attempt) => None,
        };
        (place.out, place.err) = (offsets.out, offsets.err);
        Ok(match relayed {
            None => Relayed::Moved,
            Some(Ok(end)) if end.why == Why::Lost => {
                Relayed::NotNow(format!("step {} was lost with its VM", live.name))
            }
            Some(Ok(_)) => Relayed::Step,
            Some(Err(Broken::Quiet)) => Relayed::Quiet,
            Some(Err(Broken::Caller(fail))) => return Err(fail),
            // Stale: the job has not opened the VM yet, or its lease ended a moment ago.
            Some(Err(Broken::Node(CallError::Fail(fail))))
                if matches!(fail.code, Code::NotFound | Code::Stale) =>
            {
                Relayed::NotNow(format!("step {} has not begun yet", live.name))
            }
            Some(Err(Broken::Node(why))) => Relayed::NotNow(format!("the VM's node: {why}")),
        })
    }

    /// Waits until the task is no longer in this attempt.
    async fn moved(&self, changes: &mut Receiver<ObjectChange>, id: TaskId, attempt: u32) {
        loop {
            let there = self.parts.view.task(id).is_some_and(|(_, task)| {
                !task.state.is_final() && task.current().is_some_and(|current| current.number == attempt)
            });
            if !there {
                return;
            }
            changed(changes, id).await;
        }
    }

    /// Sends what is stored of a step, from the place on.
    async fn stored(
        &self,
        step: &StepResult,
        place: LogPlace,
        items: &ItemSender<TaskLog>,
    ) -> Result<(), Fail> {
        let sink = TaskSink { items, attempt: place.attempt, step: place.step, name: &step.name };
        let both = [(Stream::Out, &step.out, place.out), (Stream::Err, &step.err, place.err)];
        for (stream, output, mut offset) in both {
            let mut kept = self.kept(output).await?;
            loop {
                let bytes = kept.piece(offset).await?;
                if bytes.is_empty() {
                    break;
                }
                let end = offset + bytes.len() as u64;
                sink.take(OutputPiece { stream, offset, bytes }).await?;
                offset = end;
            }
        }
        Ok(())
    }

    /// Where an output is kept.
    async fn kept<'a>(&self, output: &'a Output) -> Result<Kept<'a>, Fail> {
        Ok(match (&output.text, &output.digest) {
            (Some(text), _) => Kept::Text(text),
            (None, Some(digest)) => Kept::Body(self.parts.store.body(digest).await?),
            (None, None) => Kept::Text(""),
        })
    }
}

/// An output that was stored.
enum Kept<'a> {
    /// In the result.
    Text(&'a str),
    /// In the body store.
    Body(Body),
}

impl Kept<'_> {
    /// What comes at an offset; empty at its end.
    async fn piece(&mut self, offset: u64) -> Result<Vec<u8>, Fail> {
        match self {
            Self::Text(text) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                Ok(text.as_bytes().get(from..).unwrap_or_default().to_vec())
            }
            Self::Body(body) => body.piece(offset, super::READ_BYTES).await,
        }
    }
}

/// Tells a follower why nothing comes: a piece without bytes, with the reason in place of the step's name.
async fn tell(items: &ItemSender<TaskLog>, place: LogPlace, why: &str) -> Result<(), Fail> {
    let LogPlace { attempt, step, out, .. } = place;
    let (stream, name) = (Stream::Out, why.to_owned());
    Ok(items.send(&TaskLogPiece { attempt, step, name, stream, offset: out, bytes: Vec::new() }).await?)
}

/// Waits for a change of a task.
async fn changed(changes: &mut Receiver<ObjectChange>, id: TaskId) {
    let key = id.to_string();
    loop {
        match changes.recv().await {
            Ok(change) if change.kind == kind::TASK && change.key == key => return,
            Ok(_) => {}
            // It may have been among those lost.
            Err(RecvError::Lagged(_)) => return,
            // luxid is ending; the connection ends with it.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
