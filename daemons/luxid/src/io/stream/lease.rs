//! A leased VM as its user reaches it: found in the configuration, opened by its first touch (P5.4), and not reached any
//! more once the lease is over.

use super::StreamApi;
use super::relay::{passes, told};
use crate::core::mirror::Snapshot;
use crate::io::feed::News;
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::LeaseUuid;
use gantry_model::lease::{Lease, LeaseOwner, LeaseState, LeasedVm, RequestState};
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{VmLeaseRef, VmOpen, VmOpenRequest, VmRef};
use gantry_proto::verb::Verb;
use gantry_rpc::{CallError, Client};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// How long a node may take for a short call.
pub(super) const CALL_MS: u64 = 30_000;
/// Tries of a short call, and the pause between them, ms: long enough for a noded that is started again.
const TRIES: u32 = 5;
const PAUSE_MS: u64 = 300;
/// How long the copy of the configuration may be behind a grant that the queue has told of already, ms.
const BEHIND_MS: u64 = 5_000;

/// VMs that were opened in this run, so that each call need not ask again. Leases that are over leave it.
#[derive(Default)]
pub(super) struct Opened(Mutex<HashSet<(LeaseUuid, u32)>>);

impl Opened {
    fn has(&self, lease: LeaseUuid, vm: u32) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&(lease, vm))
    }

    fn add(&self, lease: LeaseUuid, vm: u32, config: &Snapshot) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lives =
            |lease: &LeaseUuid| config.leases().get(lease).is_some_and(|l| l.state == LeaseState::Active);
        all.retain(|(lease, _)| lives(lease));
        all.insert((lease, vm));
    }
}

/// A VM that may be worked in.
pub(super) struct Reached {
    /// As nodes want it named.
    pub at: VmLeaseRef,
    /// Its node.
    pub node: gantry_model::ids::NodeUuid,
    /// The node's name, for people.
    pub node_name: String,
}

impl StreamApi {
    /// The VM of a lease, opened.
    pub(super) async fn reach(&self, lease: LeaseUuid, vm: u32) -> Result<Reached, Fail> {
        let found = self.lease(lease).await?;
        let leased = vm_of(&found, vm)?;
        let config = self.parts.config.snapshot();
        let name = config.nodes().name(&leased.node);
        let reached = Reached {
            at: VmLeaseRef {
                vm: VmRef { fence: self.parts.fence, slot: leased.slot, generation: leased.generation },
                lease,
            },
            node: leased.node,
            node_name: name.map_or_else(|| leased.node.to_string(), |name| name.to_string()),
        };
        if !self.opened.has(lease, vm) {
            self.first_touch(&reached, leased).await?;
            self.opened.add(lease, vm, &config);
        }
        Ok(reached)
    }

    /// A connection to the node of a VM.
    pub(super) async fn node(&self, reached: &Reached) -> Result<Client, CallError> {
        let config = self.parts.config.snapshot();
        self.parts.nodes.connect(&config, reached.node).await.map_err(CallError::Closed)
    }

    /// An active lease of a user. One that was granted a moment ago is waited for.
    async fn lease(&self, uuid: LeaseUuid) -> Result<Arc<Lease>, Fail> {
        let mut news = self.parts.config.feed().listen();
        let find = || self.parts.config.snapshot().leases().get(&uuid).cloned();
        let found = match find() {
            Some(found) => Some(found),
            None if self.granted(uuid)? => {
                let wait = async {
                    loop {
                        if let Some(found) = find() {
                            return found;
                        }
                        changed(&mut news, uuid).await;
                    }
                };
                tokio::time::timeout(Duration::from_millis(BEHIND_MS), wait).await.ok()
            }
            None => None,
        };
        let found = found.ok_or_else(|| {
            Fail::from(GanetiError::prereq(format!("there is no lease {uuid}"), Ecode::UnknownEntity))
        })?;
        match (&found.owner, over(&found)) {
            (_, Some(fail)) => Err(fail),
            (LeaseOwner::Task { task, .. }, None) => {
                let text = format!("lease {uuid} belongs to task {task}: nobody else works in its VM");
                Err(GanetiError::prereq(text, Ecode::WrongState).into())
            }
            (LeaseOwner::User { .. }, None) => Ok(found),
        }
    }

    /// Whether the queue knows a lease as granted. One that waits is an error that says why.
    fn granted(&self, uuid: LeaseUuid) -> Result<bool, Fail> {
        let Some((_, request)) = self.parts.view.request(uuid) else { return Ok(false) };
        match request.state {
            RequestState::Granted => Ok(true),
            RequestState::Over => Ok(false),
            RequestState::Waiting => {
                let why = self.parts.view.why_request_waits(uuid);
                let text = format!("lease {uuid} is not granted yet: {why}");
                Err(GanetiError::prereq(text, Ecode::WrongState).into())
            }
        }
    }

    /// `opened` is durable in W before the node hears of it (I12). Both may be repeated, so that a crash between them,
    /// or after them, costs one more call.
    async fn first_touch(&self, reached: &Reached, leased: LeasedVm) -> Result<(), Fail> {
        let lease = reached.at.lease;
        if let Err(why) = self.opener.open(lease, leased).await {
            return Err(match why.code() {
                Some(Code::Stale) => {
                    GanetiError::prereq(format!("lease {lease} is over: {why}"), Ecode::WrongState).into()
                }
                _ => GanetiError::exec(format!("can't open the VM: {why}; try again")).into(),
            });
        }
        self.ask::<VmOpen>(reached, &VmOpenRequest { at: reached.at, limits: None }).await
    }

    /// A short call to the node of a VM that may be repeated: asked again when it was not answered, or not now.
    pub(super) async fn ask<V: Verb>(&self, reached: &Reached, request: &V::Request) -> Result<V::Reply, Fail>
    where
        V::Request: Sync,
        V::Reply: Send,
    {
        let mut tries = 1;
        loop {
            let answer = match self.node(reached).await {
                Ok(client) => client.call::<V>(request, Duration::from_millis(CALL_MS)).await,
                Err(why) => Err(why),
            };
            match answer {
                Ok(reply) => return Ok(reply),
                Err(why) if passes(&why) && tries < TRIES => tries += 1,
                Err(why) => return Err(told(&reached.node_name, &why)),
            }
            tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
        }
    }

    /// Waits until a lease is no longer active; says so in words.
    pub(super) async fn ended(&self, news: &mut Receiver<News>, uuid: LeaseUuid) -> Fail {
        loop {
            match self.parts.config.snapshot().leases().get(&uuid) {
                None => {
                    return GanetiError::prereq(format!("lease {uuid} is over"), Ecode::WrongState).into();
                }
                Some(lease) => {
                    if let Some(fail) = over(lease) {
                        return fail;
                    }
                }
            }
            changed(news, uuid).await;
        }
    }
}

/// What is said of a lease that is over.
fn over(lease: &Lease) -> Option<Fail> {
    if lease.state == LeaseState::Active {
        return None;
    }
    let how =
        lease.why.as_ref().map_or_else(|| lease.state.as_str().to_owned(), |why| format!("over: {why}"));
    let text = format!("lease {} is {how}", lease.uuid);
    Some(GanetiError::prereq(text, Ecode::WrongState).into())
}

fn vm_of(lease: &Lease, vm: u32) -> Result<LeasedVm, Fail> {
    lease.vms.get(vm as usize).copied().ok_or_else(|| {
        let has = if lease.vms.len() == 1 { "1 VM".to_owned() } else { format!("{} VMs", lease.vms.len()) };
        let text = format!("lease {} has {has}, counted from 0: there is no {vm}", lease.uuid);
        GanetiError::prereq(text, Ecode::WrongInput).into()
    })
}

/// Waits for a change of a lease.
async fn changed(news: &mut Receiver<News>, uuid: LeaseUuid) {
    let key = uuid.to_string();
    loop {
        match news.recv().await {
            Ok(News::Changed(change))
                if change.kind == gantry_model::config::kind::LEASE && change.key == key =>
            {
                return;
            }
            Ok(News::Changed(_)) => {}
            Ok(News::All) | Err(RecvError::Lagged(_)) => return,
            // luxid is ending; the connection ends with it.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
