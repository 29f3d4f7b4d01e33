//! Becoming and ceasing to be the master, as far as this node's role goes. Boot does the rest.

use super::log::{Seat, failure};
use super::{Copies, blocking};
use gantry_copies::wire;
use gantry_model::ids::{ClusterUuid, Fence, NodeUuid};
use gantry_proto::copies::{AloneRequest, Log, StepDownReply};
use gantry_proto::envelope::{Code, Fail};
use gantry_rt::crash;
use gantry_store::{Alone, go_alone};
use std::time::Duration;

/// How long the writers may take to end once the role says candidate: boot gives each daemon 10 s and kills it then.
const ENDING_MS_MAX: u64 = 40_000;
/// How often their locks are looked at.
const ENDING_LOOK: Duration = Duration::from_millis(50);

impl Copies {
    /// What only this node's own programs may say.
    fn only_own(&self, caller: Option<(ClusterUuid, NodeUuid)>) -> Result<(), Fail> {
        match caller {
            Some((cluster, node)) if (cluster, node) == (self.roles.cluster(), self.node) => Ok(()),
            Some(_) | None => Err(Fail::new(Code::Denied, "only this node itself may say that")),
        }
    }

    /// This node has won an epoch: believed when both its copies promise just it. The role is durable when it returns.
    ///
    /// # Errors
    /// `Denied` for another node; `Stale` when a copy promises something else.
    pub async fn elected(&self, caller: Option<(ClusterUuid, NodeUuid)>, won: Fence) -> Result<(), Fail> {
        self.only_own(caller)?;
        for log in [Log::W, Log::Q] {
            let facts = self.facts(log).await?;
            let held = facts.map(|facts| (facts.promised.epoch, facts.ballot));
            if held != Some((won.epoch, won.ballot)) {
                let text =
                    format!("this node's copy of log {log:?} does not promise epoch {} to you", won.epoch);
                return Err(Fail::new(Code::Stale, text));
            }
        }
        let roles = self.roles.clone();
        crash::point("office-to-be-master");
        blocking(move || roles.elected(won.epoch)).await?;
        crash::point("office-master");
        // A promise may have come between the look and the role, and have found nobody to depose.
        self.settle().await;
        Ok(())
    }

    /// The master of `epoch` stops its writers. Answered when they have ended.
    ///
    /// # Errors
    /// `Busy` when they do not end in time; the role is candidate all the same.
    pub async fn step_down(&self, epoch: u64) -> Result<StepDownReply, Fail> {
        let roles = self.roles.clone();
        let stepped = blocking(move || roles.step_down(epoch)).await?;
        crash::point("office-stepped-down");
        let ended = async {
            while self.roles.master().is_none() {
                let roles = self.roles.clone();
                if !blocking(move || roles.writers_run()).await? {
                    break;
                }
                tokio::time::sleep(ENDING_LOOK).await;
            }
            Ok(StepDownReply { stepped })
        };
        let late = || {
            let text = format!("its writers have not ended within {} s", ENDING_MS_MAX / 1000);
            Fail::new(Code::Busy, text)
        };
        tokio::time::timeout(Duration::from_millis(ENDING_MS_MAX), ended).await.map_err(|_| late())?
    }

    /// The master here has heard of a higher epoch.
    ///
    /// # Errors
    /// `Denied` for another node; the disk's.
    pub async fn deposed(&self, caller: Option<(ClusterUuid, NodeUuid)>, heard: u64) -> Result<(), Fail> {
        self.only_own(caller)?;
        self.heard(heard).await
    }

    /// Both copies go on alone in a new history (P1.12). Repeated with the same ballot: the same answer.
    ///
    /// # Errors
    /// `Denied` for another node; `Stale` when a copy is not what was looked at; the store's.
    pub async fn alone(
        &self,
        caller: Option<(ClusterUuid, NodeUuid)>,
        request: AloneRequest,
    ) -> Result<(), Fail> {
        self.only_own(caller)?;
        for (log, last) in [(Log::W, request.w), (Log::Q, request.q)] {
            // Opens the copy: what a crash left of a snapshot half done is carried on, while it is still of its history. One
            // that can't be opened, as after a crash in the midst of this, is none.
            if let Err(why) = self.facts(log).await {
                tracing::warn!(?log, %why, "going on alone with a copy that can't be opened");
            }
            let how = Alone {
                history: request.history,
                epoch: request.epoch,
                ballot: request.ballot,
                node: self.node.0,
                last: wire::to_place(last),
                list_n: request.list_n,
            };
            let begin = move |seat: &mut Seat| {
                seat.close();
                go_alone(&seat.dir, seat.log, &how).map_err(|why| failure(&why))
            };
            self.of(log).run(begin).await?;
            crash::point(&format!("office-alone-{log:?}"));
        }
        self.heard(request.epoch).await
    }
}
