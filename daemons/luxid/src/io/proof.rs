//! Whether VMs that are to be leased live: their nodes ask each VM's PID 1. So a VM that stands still, which nobody sees
//! until it is asked, is given to nobody.

use super::nodes::Nodes;
use crate::core::mirror::Snapshot;
use gantry_model::ids::{Fence, Generation, InstanceUuid};
use gantry_model::lease::LeasedVm;
use gantry_proto::noded::{VmCheck, VmRef};
use gantry_rpc::{CallError, Code};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a node may take: it gives PID 1 five seconds.
const CHECK: Duration = Duration::from_secs(8);
/// Tries, and the pause between them: a noded that is started again is back by then.
const TRIES: u32 = 2;
const PAUSE: Duration = Duration::from_millis(300);

/// Asks nodes. Clones share connections.
#[derive(Clone)]
pub struct Proof {
    nodes: Nodes,
    fence: Fence,
}

impl Proof {
    /// Asking by these connections, for the master of this claim.
    #[must_use]
    pub fn new(nodes: Nodes, fence: Fence) -> Self {
        Self { nodes, fence }
    }

    /// Those of a grant that do not live, by their nodes' word. Where a node says nothing, wconfd's claim of it counts: it is lost
    /// when it is silent for long.
    pub async fn lost(&self, config: &Arc<Snapshot>, vms: &[LeasedVm]) -> Vec<(InstanceUuid, Generation)> {
        let mut looks = JoinSet::new();
        for vm in vms.iter().copied() {
            let (own, config) = (self.clone(), Arc::clone(config));
            looks.spawn(async move { (!own.lives(&config, vm).await).then_some((vm.slot, vm.generation)) });
        }
        looks.join_all().await.into_iter().flatten().collect()
    }

    async fn lives(&self, config: &Snapshot, vm: LeasedVm) -> bool {
        let request = VmRef { fence: self.fence, slot: vm.slot, generation: vm.generation };
        let mut tries = 1;
        loop {
            let why = match self.nodes.connect(config, vm.node).await {
                Ok(client) => match client.call::<VmCheck>(&request, CHECK).await {
                    Ok(()) => return true,
                    Err(CallError::Fail(fail)) if matches!(fail.code, Code::Stale | Code::NotFound) => {
                        return false;
                    }
                    Err(why) => why.to_string(),
                },
                Err(why) => why,
            };
            if tries == TRIES {
                tracing::warn!(slot = %vm.slot, why, "a VM is leased without its node's word");
                return true;
            }
            tries += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
}
