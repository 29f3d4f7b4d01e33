//! Lease commands to wconfd, many under way at once, each asked again until it is answered: they are safe to repeat.
//! What comes of them goes to the queue as events.

use super::actor::Inbox;
use super::grabs::Grabs;
use super::proof::Proof;
use super::wconfd::Config;
use crate::core::queue::{Event, Grant};
use gantry_model::error::GanetiError;
use gantry_model::ids::{Generation, InstanceUuid, LeaseUuid};
use gantry_model::lease::{Grab, LeaseOwner};
use gantry_proto::envelope::Code;
use gantry_proto::wconfd::Command;
use gantry_rpc::CallError;
use gantry_rt::Tasks;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Commands under way at once: enough to fill wconfd's flushes, few enough for its inbox.
const UNDER_WAY_MAX: usize = 256;
/// First and longest pause before a command is asked again.
const AGAIN_MS: (u64, u64) = (20, 5_000);
/// How long an ended lease waits for others to be forgotten with it: nobody waits for that, and each command is a commit.
const FORGET_GATHER: Duration = Duration::from_millis(200);
/// Most leases forgotten by one command.
const FORGOTTEN_AT_ONCE_MAX: usize = 256;

/// Asks wconfd. Clones share it.
#[derive(Clone)]
pub struct Leases(Arc<Inner>);

struct Inner {
    config: Config,
    proof: Proof,
    inbox: Inbox,
    grabs: Grabs,
    tasks: Tasks,
    stop: CancellationToken,
    places: Semaphore,
    /// To be forgotten with the next command. Those that a stop leaves here are found ended, and forgotten, by the next luxid.
    forgotten: Mutex<BTreeSet<LeaseUuid>>,
}

/// A grab to be made.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The lease.
    pub lease: LeaseUuid,
    /// [`Command::LeaseGrab`].
    pub command: Command,
}

impl Leases {
    /// What comes of commands goes to `inbox`; `proof` looks at VMs before their user is told; what is asked and
    /// answered is noted in `grabs`.
    #[must_use]
    pub fn new(
        config: Config,
        proof: Proof,
        inbox: Inbox,
        grabs: Grabs,
        tasks: Tasks,
        stop: CancellationToken,
    ) -> Self {
        let (places, forgotten) = (Semaphore::new(UNDER_WAY_MAX), Mutex::default());
        Self(Arc::new(Inner { config, proof, inbox, grabs, tasks, stop, places, forgotten }))
    }

    /// Asks for a lease.
    pub fn grab(&self, wanted: Wanted) {
        let inner = Arc::clone(&self.0);
        self.spawn("grab", async move {
            let answer = inner.apply(&wanted.command).await;
            let mut event = inner.grabbed(&wanted, answer);
            // A task's attempt opens its VM before anything else, which looks at it as well.
            if let Command::LeaseGrab { owner: LeaseOwner::User { .. }, .. } = &wanted.command {
                event = inner.proved(event).await;
            }
            inner.inbox.event(event).await;
        });
    }

    /// Takes back a broken grant that nobody was told of.
    pub fn take_back(&self, lease: LeaseUuid) {
        let inner = Arc::clone(&self.0);
        self.spawn("lease-return", async move {
            let event = inner.take_back(lease, Vec::new()).await;
            inner.inbox.event(event).await;
        });
    }

    /// Ends a lease.
    pub fn end(&self, lease: LeaseUuid, why: String) {
        let inner = Arc::clone(&self.0);
        self.spawn("lease-end", async move {
            let command = Command::LeaseEnd { lease, why };
            if let Err(error) = inner.apply(&command).await {
                tracing::warn!(%lease, %error, "wconfd does not end a lease; it has it no more, then");
            }
            inner.inbox.event(Event::LeaseEnded(lease)).await;
        });
    }

    /// Forgets an ended lease, together with others that are to be forgotten within [`FORGET_GATHER`].
    pub fn forget(&self, lease: LeaseUuid) {
        let first = {
            let mut forgotten = self.0.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
            forgotten.insert(lease) && forgotten.len() == 1
        };
        if !first {
            return;
        }
        let inner = Arc::clone(&self.0);
        self.spawn_after("lease-forget", FORGET_GATHER, async move {
            let all = std::mem::take(&mut *inner.forgotten.lock().unwrap_or_else(PoisonError::into_inner));
            let all: Vec<LeaseUuid> = all.into_iter().collect();
            for leases in all.chunks(FORGOTTEN_AT_ONCE_MAX) {
                if let Err(error) = inner.apply(&Command::LeaseForget { leases: leases.to_vec() }).await {
                    tracing::warn!(%error, "wconfd does not forget ended leases");
                }
            }
        });
    }

    fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_after(name, Duration::ZERO, work);
    }

    /// Does `work` when there is a place, which is not held during the pause before.
    fn spawn_after(
        &self,
        name: &'static str,
        pause: Duration,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let inner = Arc::clone(&self.0);
        self.0.tasks.spawn(name, async move {
            let placed = async {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                let _place = inner.places.acquire().await;
                work.await;
            };
            tokio::select! {
                () = placed => {}
                () = inner.stop.cancelled() => {}
            }
        });
    }
}

/// A refusal that asking again does not change.
#[derive(Debug)]
struct Refusal {
    stale: bool,
    text: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Inner {
    /// Has a command applied; asks again until there is an answer that counts.
    async fn apply(&self, command: &Command) -> Result<(u64, Value), Refusal> {
        let question = self.grabs.ask();
        let mut wait = AGAIN_MS.0;
        loop {
            let why = match self.config.apply(command.clone()).await {
                Ok(done) => return Ok(done),
                Err(why) => why,
            };
            if let Some(refusal) = refusal(&why) {
                return Err(refusal);
            }
            tracing::debug!(%why, "a lease command is asked again");
            question.again(match &why {
                CallError::Fail(fail) => Some(&fail.text),
                _ => None,
            });
            if matches!(why, CallError::Closed(_)) {
                self.config.connected().await;
            }
            tokio::time::sleep(Duration::from_millis(wait)).await;
            wait = (wait * 2).min(AGAIN_MS.1);
        }
    }

    /// A grant is told only when all its VMs live. One that broke before its answer was heard is taken back, too.
    async fn proved(&self, event: Event) -> Event {
        match event {
            Event::Granted { lease, index, grant } => {
                let lost = self.proof.lost(&self.config.snapshot(), &grant.vms).await;
                if lost.is_empty() {
                    return Event::Granted { lease, index, grant };
                }
                tracing::warn!(%lease, ?lost, "VMs that were to be leased do not live; others are taken");
                self.take_back(lease, lost).await
            }
            Event::GrabRefused { lease, stale: true, .. } => self.take_back(lease, Vec::new()).await,
            other => other,
        }
    }

    async fn take_back(&self, lease: LeaseUuid, lost: Vec<(InstanceUuid, Generation)>) -> Event {
        match self.apply(&Command::LeaseReturn { lease, lost }).await {
            Ok((index, _)) => Event::LeaseReturned { lease, index },
            Err(Refusal { stale, text }) => Event::GrabRefused { lease, stale, why: text },
        }
    }

    fn grabbed(&self, wanted: &Wanted, answer: Result<(u64, Value), Refusal>) -> Event {
        let lease = wanted.lease;
        let noted = |waits| {
            if let Command::LeaseGrab { pool, .. } = &wanted.command {
                self.grabs.answered(pool, waits);
            }
        };
        let (index, value) = match answer {
            Ok(answer) => answer,
            Err(Refusal { stale, text }) => return Event::GrabRefused { lease, stale, why: text },
        };
        match serde_json::from_value(value) {
            Ok(Grab::Granted { vms }) => {
                noted(None);
                let config = self.config.snapshot();
                let name =
                    |slot| config.instances().name(slot).map_or_else(String::new, |name| name.to_string());
                let names = vms.iter().map(|vm| name(&vm.slot)).collect();
                Event::Granted { lease, index, grant: Grant { vms, names } }
            }
            Ok(Grab::Wait { why }) => {
                noted(Some(why.as_str()));
                Event::GrabWaits { lease, index }
            }
            Err(error) => {
                let why = format!("wconfd's answer can't be read: {error}");
                Event::GrabRefused { lease, stale: false, why }
            }
        }
    }
}

/// Whether wconfd has decided; None: ask again.
fn refusal(why: &CallError) -> Option<Refusal> {
    let CallError::Fail(fail) = why else { return None };
    match fail.code {
        Code::Stale => Some(Refusal { stale: true, text: fail.text.clone() }),
        Code::Ganeti | Code::BadRequest | Code::UnknownVerb | Code::Denied | Code::NotFound => {
            let text =
                fail.as_ganeti().map_or_else(|| fail.text.clone(), |error: GanetiError| error.to_string());
            Some(Refusal { stale: false, text })
        }
        Code::Fenced | Code::Busy | Code::Deadline | Code::Unknown | Code::NotReady | Code::Internal => None,
    }
}
