//! `vmd.sock`: a function per verb. What changes a VM is done by tasks, so that noded's death interrupts nothing.

use crate::error::{Class, fail};
use crate::io::cgroup::Cgroup;
use crate::io::stage;
use crate::vm::{Shared, Vm};
use gantry_proto::vmd::{
    self, CommandEnd, CommandName, CreateRequest, ReadReply, ReadRequest, VmName, is_name,
};
use gantry_rpc::{Call, Code, Fail, Handled, Hello, Peer, Service, route};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, oneshot};

/// VMs of one node: their uid ranges must fit below 2^31.
pub const VMS_MAX: usize = 4_096;
/// Longest wait of politeness at a stop.
const GRACE_MAX: Duration = Duration::from_secs(30);

/// The service.
pub struct Api {
    shared: Shared,
    version: String,
    vms: Mutex<BTreeMap<String, Arc<Vm>>>,
    /// A control group of each folder that VMs had theirs in: empty folders go when vmd stops.
    folders: Mutex<BTreeMap<String, String>>,
}

impl Api {
    /// Serving these VMs.
    #[must_use]
    pub fn new(shared: Shared, version: String, vms: Vec<Arc<Vm>>) -> Self {
        let folders = vms.iter().map(|vm| folder(&vm.request.cgroup)).collect();
        let vms = vms.into_iter().map(|vm| (vm.request.vm.clone(), vm)).collect();
        Self { shared, version, vms: Mutex::new(vms), folders: Mutex::new(folders) }
    }

    fn vms(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Vm>>> {
        lock(&self.vms)
    }

    fn vm(&self, name: &str) -> Result<Arc<Vm>, Fail> {
        let found = self.vms().get(name).cloned();
        found.ok_or_else(|| fail(Class::NotFound, format!("no VM {name}")))
    }

    fn info(&self) -> vmd::InfoReply {
        vmd::InfoReply {
            runtime: self.shared.runtime.program.display().to_string(),
            version: self.version.clone(),
            cgroups: self.shared.layout.name().to_owned(),
        }
    }

    fn create(&self, request: CreateRequest) -> Result<(), Fail> {
        check(&request)?;
        let mut vms = self.vms();
        if vms.contains_key(&request.vm) {
            return Err(fail(Class::Exists, format!("VM {} is there already", request.vm)));
        }
        if vms.len() >= VMS_MAX {
            return Err(fail(Class::NoSpace, format!("{VMS_MAX} VMs are noted, more can't be")));
        }
        let range = request.uid_base..request.uid_base + vmd::UID_RANGE;
        let meets = |vm: &&Arc<Vm>| {
            let base = vm.request.uid_base;
            base < range.end && range.start < base + vmd::UID_RANGE
        };
        if let Some(other) = vms.values().find(meets) {
            return Err(fail(Class::Locked, format!("VM {} has ids of this range", other.request.vm)));
        }
        let (above, cgroup) = folder(&request.cgroup);
        lock(&self.folders).entry(above).or_insert(cgroup);
        let name = request.vm.clone();
        vms.insert(name, Vm::create(request, self.shared.clone())?);
        Ok(())
    }

    /// Runs `work` to its end, whoever still waits for it.
    async fn carry<F>(&self, work: F) -> Result<(), Fail>
    where
        F: Future<Output = Result<(), Fail>> + Send + 'static,
    {
        let (send, receive) = oneshot::channel();
        self.shared.tasks.spawn("verb", async move {
            let _ = send.send(work.await);
        });
        receive.await.unwrap_or_else(|_| Err(Fail::new(Code::NotReady, "gantry-vmd ends")))
    }

    async fn remove(self: &Arc<Self>, name: &str) -> Result<(), Fail> {
        let vm = self.vm(name)?;
        let api = Arc::clone(self);
        self.carry(async move {
            Arc::clone(&vm).remove().await?;
            api.vms().remove(&vm.request.vm);
            Ok(())
        })
        .await
    }

    fn exec(&self, request: &vmd::ExecRequest) -> Result<vmd::ExecReply, Fail> {
        if !is_name(&request.command) || request.argv.is_empty() {
            return Err(Fail::new(Code::BadRequest, "a command needs a plain name and at least one word"));
        }
        let known = self.vm(&request.vm)?.exec(request)?;
        Ok(vmd::ExecReply { known })
    }

    async fn read(&self, request: ReadRequest) -> Result<ReadReply, Fail> {
        let command = self.vm(&request.of.vm)?.command(&request.of.command)?;
        command.read(request.stream, request.offset, request.bytes_max).await
    }

    async fn wait(&self, name: &CommandName) -> Result<CommandEnd, Fail> {
        let command = self.vm(&name.vm)?.command(&name.command)?;
        Ok(command.wait().await)
    }

    fn signal(&self, request: &vmd::SignalRequest) -> Result<(), Fail> {
        let vm = self.vm(&request.to.vm)?;
        let command = vm.command(&request.to.command)?;
        if !command.runs() {
            return Err(fail(Class::NotRunning, "the command has ended"));
        }
        vm.signal(command.number, request.signal);
        Ok(())
    }

    fn cancel(&self, name: &CommandName) -> Result<(), Fail> {
        let command = self.vm(&name.vm)?.command(&name.command)?;
        if command.cancel() { Ok(()) } else { Err(fail(Class::NotRunning, "the command has ended")) }
    }

    /// Ends when the listener is too slow: it looks at all when it listens anew.
    async fn deaths(&self, call: Call) -> Result<(), Fail> {
        let mut deaths = self.shared.deaths.subscribe();
        let items = call.items::<vmd::Deaths>();
        let gone = |why: gantry_rpc::ItemError| Fail::new(Code::Internal, why.to_string());
        items.send(&vmd::Death::Begun).await.map_err(gone)?;
        loop {
            match deaths.recv().await {
                Ok(vm) => items.send(&vmd::Death::Of(VmName { vm })).await.map_err(gone)?,
                Err(broadcast::error::RecvError::Lagged(_) | broadcast::error::RecvError::Closed) => {
                    return Ok(());
                }
            }
        }
    }

    async fn follow(&self, request: vmd::FollowRequest, call: Call) -> Result<CommandEnd, Fail> {
        let command = self.vm(&request.of.vm)?.command(&request.of.command)?;
        command.follow((request.out, request.err), &call.items::<vmd::Follow>()).await
    }

    /// Removes what no noted VM has: control groups with what runs in them, and what is on the stage.
    async fn sweep(&self, request: &vmd::SweepRequest) -> Result<vmd::SweepReply, Fail> {
        if !request.cgroup.split('/').all(is_name) {
            return Err(Fail::new(Code::BadRequest, "not a plain path of control groups"));
        }
        let mut strangers = self.shared.layout.below(&request.cgroup);
        strangers.extend(stage::names());
        let mut reply = vmd::SweepReply { removed: Vec::new(), failed: Vec::new() };
        for name in strangers {
            // One that came meanwhile is noted before anything of it is made.
            if self.vms().contains_key(&name) {
                continue;
            }
            match self.clear(&format!("{}/{name}", request.cgroup), &name).await {
                Ok(()) => reply.removed.push(name),
                Err(error) => reply.failed.push((name, error.to_string())),
            }
        }
        Ok(reply)
    }

    async fn clear(&self, cgroup: &str, name: &str) -> std::io::Result<()> {
        let group = Cgroup::new(&self.shared.layout, cgroup);
        group.kill().await?;
        group.remove()?;
        self.shared.runtime.delete(name).await;
        stage::clear(name).await
    }

    /// Ends every VM that runs: vmd stops.
    pub async fn end_all(&self) {
        let all: Vec<_> = self.vms().values().cloned().collect();
        for vm in &all {
            vm.end();
        }
        for vm in all {
            vm.ended().await;
        }
        for cgroup in lock(&self.folders).values() {
            Cgroup::new(&self.shared.layout, cgroup).remove_parents();
        }
    }
}

/// The folder of a control group, and the group.
fn folder(cgroup: &str) -> (String, String) {
    let above = cgroup.rsplit_once('/').map_or("", |(above, _)| above);
    (above.to_owned(), cgroup.to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Values behind these locks are replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check(request: &CreateRequest) -> Result<(), Fail> {
    let bad = |what: &str| Err(Fail::new(Code::BadRequest, format!("VM {}: {what}", request.vm)));
    if !is_name(&request.vm) {
        return bad("not a plain name");
    }
    if request.cgroup.split('/').count() > 8 || !request.cgroup.split('/').all(is_name) {
        return bad("its control group is not a plain path");
    }
    if request.uid_base.checked_add(vmd::UID_RANGE).is_none_or(|end| end > 1 << 31) || request.uid_base == 0 {
        return bad("its ids are not within 1 to 2^31");
    }
    let limits = &request.limits;
    if limits.pids == 0 || limits.memory_mib == 0 || request.scratch_mib == 0 {
        return bad("a limit is zero");
    }
    if limits.memory_mib > 1 << 30 || request.scratch_mib >= limits.memory_mib || limits.cpu_percent > 1 << 20
    {
        return bad("its scratch room, which is in memory, is not below its memory, or a limit is absurd");
    }
    Ok(())
}

impl Service for Api {
    fn hello(&self) -> Hello {
        Hello::new(vmd::PROTOCOL, "gantry-vmd")
    }

    fn accept(&self, peer: &Peer) -> Result<(), String> {
        if peer.is_own() { Ok(()) } else { Err("only this node's noded may use vmd".to_owned()) }
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            route!(call, {
                vmd::Info => |(), _call| Ok(self.info()),
                vmd::Create => |request, _call| self.create(request),
                vmd::Start => |VmName { vm }, _call| self.carry(self.vm(&vm)?.start()).await,
                vmd::Exec => |request, _call| self.exec(&request),
                vmd::Read => |request, _call| self.read(request).await,
                vmd::Wait => |name, _call| self.wait(&name).await,
                vmd::Signal => |request, _call| self.signal(&request),
                vmd::Cancel => |name, _call| self.cancel(&name),
                vmd::Stop => |request, _call| {
                    let grace = Duration::from_millis(request.grace_ms).min(GRACE_MAX);
                    self.carry(self.vm(&request.vm)?.stop(grace)).await
                },
                vmd::Remove => |VmName { vm }, _call| self.remove(&vm).await,
                vmd::List => |(), _call| Ok(self.vms().values().map(|vm| vm.facts()).collect()),
                vmd::Usage => |VmName { vm }, _call| Ok(self.vm(&vm)?.usage()),
                vmd::Limit => |request, _call| self.vm(&request.vm)?.limit(&request.limits),
                vmd::Show => |VmName { vm }, _call| Ok(self.vm(&vm)?.facts()),
                vmd::Follow => |request, call| self.follow(request, call).await,
                vmd::Ping => |VmName { vm }, _call| self.vm(&vm)?.ping().await,
                vmd::EndWork => |VmName { vm }, _call| self.carry(self.vm(&vm)?.end_work()).await,
                vmd::Room => |request, _call| self.vm(&request.vm)?.room(request.scratch_mib),
                vmd::Sweep => |request, _call| self.sweep(&request).await,
                vmd::Deaths => |(), call| self.deaths(call).await,
                vmd::Confine => |request, _call| self.vm(&request.vm)?.confine(request.limits),
            })
        })
    }
}
