//! The level-triggered half: brings the members object to what the list in W says, step by step.

use super::{Members, Shared, State, object, record};
use gantry_proto::envelope::Code;
use gantry_rt::crash;
use gantry_store::core::settle::{NextW, SeenW, next_w};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// After a step that failed; it fails only when the daemon or its store is in trouble.
const PAUSE: Duration = Duration::from_millis(500);

impl State {
    /// What W's writer does next.
    pub(super) fn next(&self) -> NextW {
        let object = self.object.as_ref().map(object);
        next_w(&SeenW { object: object.as_ref(), ..self.seen() })
    }

    /// Without the object, which must live as long as what looks at it.
    pub(super) fn seen(&self) -> SeenW<'_> {
        SeenW {
            newest: &self.newest.1,
            list_committed: self.newest.0 <= self.committed,
            // wconfd is asked for anything only after its first row is committed.
            serving: true,
            object: None,
            in_q: self.said.in_q,
        }
    }

    /// The object names a learner that nobody here feeds.
    fn stray(&self, learner: Option<uuid::Uuid>) -> bool {
        self.object.as_ref().and_then(|object| object.learner).is_some_and(|l| Some(l.copy_id) != learner)
    }
}

impl Members {
    /// Takes steps until `stop`.
    ///
    /// # Errors
    /// Never: what fails is tried again.
    pub async fn settle(self, stop: CancellationToken) -> anyhow::Result<()> {
        let shared = self.0;
        let mut said = shared.said.subscribe();
        let mut progress = shared.writer.progress();
        loop {
            said.mark_unchanged();
            progress.mark_unchanged();
            let (next, pause) = tokio::select! {
                step = step(&shared) => step,
                () = stop.cancelled() => return Ok(()),
            };
            let commits = next == NextW::AwaitCommit;
            tokio::select! {
                () = async { tokio::time::sleep(pause.unwrap_or_default()).await }, if pause.is_some() => {}
                changed = said.changed() => if changed.is_err() { return Ok(()) },
                changed = progress.changed(), if commits => if changed.is_err() { return Ok(()) },
                () = shared.kick.notified() => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }
}

/// One step. What is to be waited for next, or how long before the next look.
async fn step(shared: &Arc<Shared>) -> (NextW, Option<Duration>) {
    let Ok(state) = shared.state().await else { return (NextW::Settled, Some(PAUSE)) };
    let next = state.next();
    let fed = shared.begun().learner;
    let written = match &next {
        NextW::Publish(members) => {
            crash::point("members-list-committed");
            let written = shared.write(record(members), Vec::new()).await;
            crash::point("members-published");
            written
        }
        NextW::Settle(members) => {
            let commands = shared.begun().list.as_ref().filter(|(n, _)| *n == members.n).cloned();
            let commands = commands.map(|(_, commands)| commands).unwrap_or_default();
            crash::point("members-to-settle");
            let written = shared.write(record(members), commands).await;
            crash::point("members-settled");
            match written {
                Ok(index) => {
                    shared.begun().refused = None;
                    tracing::info!(n = members.n, index, copies = members.members.len(), "members settled");
                    Ok(index)
                }
                // The list counts already: what comes with it must not keep it from being settled. Its caller is told.
                Err(why) if why.code == Code::Ganeti => {
                    tracing::warn!(%why, "what was to change with the members is refused");
                    shared.begun().refused = Some(why);
                    shared.write(record(members), Vec::new()).await
                }
                // The store's trouble passes: tried again with all that belongs to it.
                Err(why) => Err(why),
            }
        }
        NextW::Settled if state.stray(fed) => match state.object {
            Some(object) => {
                shared.write(gantry_model::config::Members { learner: None, ..object }, Vec::new()).await
            }
            None => Ok(0),
        },
        NextW::Settled | NextW::AwaitCommit | NextW::AwaitQ(_) => {
            shared.steps.send_modify(|steps| *steps += 1);
            return (next, None);
        }
    };
    shared.steps.send_modify(|steps| *steps += 1);
    match written {
        Ok(_) => (next, Some(Duration::ZERO)),
        Err(why) => {
            tracing::warn!(%why, "the members can't be written");
            (next, Some(PAUSE))
        }
    }
}
