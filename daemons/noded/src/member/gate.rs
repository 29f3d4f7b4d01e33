//! Who may work now: the fence in memory, and the verbs in work under it. A claim raises the fence first, which
//! ends sleeping verbs and refuses waiting ones, and then waits for the others to finish (P5.2).

use crate::core::Rules;
use crate::core::fence::{self, FenceError};
use gantry_model::ids::Fence;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Why a verb may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shut {
    /// By its fence.
    Fenced(FenceError),
    /// The node is leaving its cluster.
    Leaving,
}

#[derive(Debug)]
struct Inside {
    fence: Option<Fence>,
    /// Fences of the verbs in work, one entry a verb; their number is bounded by the node's verbs.
    working: Vec<Fence>,
    closed: bool,
}

/// See the module. Clones share it.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inside: Mutex<Inside>,
    fence: watch::Sender<Option<Fence>>,
    left: Notify,
}

/// Proof that a verb of the current fence is in work; it is counted until dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Gate,
    fence: Fence,
}

impl Gate {
    /// A gate with the stored fence.
    #[must_use]
    pub fn new(fence: Option<Fence>) -> Self {
        let inside = Mutex::new(Inside { fence, working: Vec::new(), closed: false });
        Self(Arc::new(Shared { inside, fence: watch::Sender::new(fence), left: Notify::new() }))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fence now.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        self.inside().fence
    }

    /// Whether a verb of `given` could begin now.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, given: Fence) -> Result<(), Shut> {
        let inside = self.inside();
        fence::admit(Rules::ALL, inside.fence, given).map_err(Shut::Fenced)?;
        if inside.closed { Err(Shut::Leaving) } else { Ok(()) }
    }

    /// Begins a verb of `given`.
    ///
    /// # Errors
    /// Why it may not.
    pub fn enter(&self, given: Fence) -> Result<Pass, Shut> {
        let mut inside = self.inside();
        fence::admit(Rules::ALL, inside.fence, given).map_err(Shut::Fenced)?;
        if inside.closed {
            return Err(Shut::Leaving);
        }
        inside.working.push(given);
        Ok(Pass { gate: self.clone(), fence: given })
    }

    /// Waits until another fence than `ours` is in force: for what only looks, and holds nobody up.
    pub async fn overruled(&self, ours: Fence) {
        let mut fence = self.0.fence.subscribe();
        // The sender lives as long as self.
        let _ = fence.wait_for(|now| *now != Some(ours)).await;
    }

    /// Puts a fence in force that is already durable.
    pub fn raise(&self, fence: Fence) {
        self.inside().fence = Some(fence);
        self.0.fence.send_replace(Some(fence));
    }

    /// Refuses verbs from now on, if `given` may say so.
    ///
    /// # Errors
    /// Why it may not.
    pub fn close(&self, given: Fence) -> Result<(), Shut> {
        let mut inside = self.inside();
        fence::admit(Rules::ALL, inside.fence, given).map_err(Shut::Fenced)?;
        inside.closed = true;
        Ok(())
    }

    /// Takes verbs again.
    pub fn reopen(&self) {
        self.inside().closed = false;
    }

    /// Waits until no verb is in work but those of `spared`, for at most `patience`.
    ///
    /// # Errors
    /// How many are in work still.
    pub async fn drained(&self, spared: Option<Fence>, patience: Duration) -> Result<(), usize> {
        let working = || self.inside().working.iter().filter(|fence| Some(**fence) != spared).count();
        let drained = async {
            loop {
                let left = self.0.left.notified();
                let mut left = std::pin::pin!(left);
                left.as_mut().enable();
                if working() == 0 {
                    return;
                }
                left.await;
            }
        };
        tokio::time::timeout(patience, drained).await.map_err(|_| working())
    }
}

impl Pass {
    /// Waits until another fence is in force.
    pub async fn overruled(&self) -> Option<Fence> {
        let mut fence = self.gate.0.fence.subscribe();
        let ours = Some(self.fence);
        let now = fence.wait_for(|now| *now != ours).await.map(|now| *now);
        now.expect("the sender lives in the gate, which this pass holds")
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.gate.inside();
        if let Some(at) = inside.working.iter().position(|fence| *fence == self.fence) {
            inside.working.swap_remove(at);
        }
        drop(inside);
        self.gate.0.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(epoch: u64) -> Fence {
        Fence { epoch, ballot: [1; 16] }
    }

    #[tokio::test]
    async fn a_claim_waits_for_the_verbs_of_the_old_master() {
        let gate = Gate::new(Some(fence(1)));
        let pass = gate.enter(fence(1)).expect("current");
        gate.raise(fence(2));
        assert_eq!(pass.overruled().await, Some(fence(2)));
        assert!(matches!(gate.enter(fence(1)), Err(Shut::Fenced(FenceError::Old { .. }))));
        let newer = gate.enter(fence(2)).expect("current");
        let (brief, long) = (Duration::from_millis(20), Duration::from_secs(60));
        assert_eq!(gate.drained(Some(fence(2)), brief).await, Err(1), "one is still in work");
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.drained(Some(fence(2)), long).await }
        });
        drop(pass);
        assert_eq!(waiting.await.expect("ended"), Ok(()));
        assert_eq!(gate.drained(None, brief).await, Err(1), "nobody is spared");
        drop(newer);
        assert_eq!(gate.drained(None, long).await, Ok(()));
    }

    #[test]
    fn a_leaving_node_takes_nothing() {
        let gate = Gate::new(Some(fence(1)));
        assert!(gate.close(fence(2)).is_err());
        gate.close(fence(1)).expect("its master says so");
        assert!(matches!(gate.enter(fence(1)), Err(Shut::Leaving)));
        gate.reopen();
        assert!(gate.enter(fence(1)).is_ok());
    }
}
