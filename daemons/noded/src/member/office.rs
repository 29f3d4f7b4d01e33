//! Verbs that make or unmake a master: they run to their end whoever waits.

use super::Member;
use gantry_model::ids::{ClusterUuid, Fence, NodeUuid};
use gantry_proto::copies::{AloneRequest, StepDownReply};
use gantry_proto::envelope::Fail;
use std::sync::Arc;

/// What the caller's certificate names.
type Caller = Option<(ClusterUuid, NodeUuid)>;

impl Member {
    /// See [`crate::copies::Copies::elected`].
    ///
    /// # Errors
    /// As there.
    pub async fn elected(self: &Arc<Self>, caller: Caller, won: Fence) -> Result<(), Fail> {
        let copies = self.copies.clone();
        self.detached("elected", async move { copies.elected(caller, won).await }).await
    }

    /// See [`crate::copies::Copies::step_down`].
    ///
    /// # Errors
    /// As there.
    pub async fn step_down(self: &Arc<Self>, epoch: u64) -> Result<StepDownReply, Fail> {
        let member = Arc::clone(self);
        self.detached("step_down", async move {
            let reply = member.copies.step_down(epoch).await?;
            // Gone before the next master has it; what can't be done holds nobody up.
            member.follow_role().await;
            Ok(reply)
        })
        .await
    }

    /// See [`crate::copies::Copies::alone`].
    ///
    /// # Errors
    /// As there.
    pub async fn alone(self: &Arc<Self>, caller: Caller, request: AloneRequest) -> Result<(), Fail> {
        let copies = self.copies.clone();
        self.detached("alone", async move { copies.alone(caller, request).await }).await
    }
}
