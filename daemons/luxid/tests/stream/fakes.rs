//! A node that runs commands as the test says, and a wconfd that opens leased VMs.

use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_proto::hello::Hello;
use gantry_proto::noded::{
    self as node, Bytes, CommandEnd, OutputPiece, PieceReply, Stream, VmExecReply, VmGetReply, Why,
};
use gantry_proto::wconfd::{self, ApplyReply, Command};
use gantry_rpc::{Call, Code, Fail, Handled, Service, route};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// What happened, in order, on all the fakes.
pub type Log = Arc<Mutex<Vec<String>>>;

/// A command as its node has it.
#[derive(Debug, Clone, Default)]
pub struct Run {
    pub out: Vec<u8>,
    pub err: Vec<u8>,
    pub why: Option<Why>,
}

pub struct FakeNode {
    pub cluster: ClusterUuid,
    pub node: NodeUuid,
    pub log: Log,
    pub runs: watch::Sender<BTreeMap<String, Run>>,
    /// Followers of output right now.
    pub following: watch::Sender<usize>,
    /// What it answers to the next pieces of uploads instead of taking them.
    pub put_fails: Mutex<VecDeque<Fail>>,
}

/// Counts a follower as long as it lives.
struct Following<'a>(&'a watch::Sender<usize>);

impl<'a> Following<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|n| *n += 1);
        Self(count)
    }
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

impl FakeNode {
    pub fn new(cluster: ClusterUuid, node: NodeUuid, log: Log) -> Arc<Self> {
        let (runs, following) = (watch::Sender::new(BTreeMap::new()), watch::Sender::new(0));
        Arc::new(Self { cluster, node, log, runs, following, put_fails: Mutex::default() })
    }

    /// Changes a command, which begins with it.
    pub fn run(&self, exec: &str, change: impl FnOnce(&mut Run)) {
        self.runs.send_modify(|runs| change(runs.entry(exec.to_owned()).or_default()));
    }

    fn note(&self, text: String) {
        self.log.lock().unwrap().push(text);
    }

    async fn wait(&self, request: node::VmWaitRequest, call: Call) -> Result<CommandEnd, Fail> {
        let _following = Following::new(&self.following);
        let items = call.items::<node::VmWait>();
        let mut runs = self.runs.subscribe();
        let (mut out, mut err) = (request.out, request.err);
        loop {
            let run = runs.borrow_and_update().get(&request.of.exec).cloned();
            let run = run.ok_or_else(|| Fail::new(Code::NotFound, "there is no such command"))?;
            for (stream, have, at) in [(Stream::Out, &run.out, &mut out), (Stream::Err, &run.err, &mut err)] {
                let Some(offset) = at else { continue };
                let from = usize::try_from(*offset).unwrap();
                if from < have.len() {
                    let bytes = have[from..].to_vec();
                    items.send(&OutputPiece { stream, offset: *offset, bytes }).await?;
                    *offset = have.len() as u64;
                }
            }
            if let Some(why) = run.why {
                let truncated = false;
                return Ok(CommandEnd { why, wall_ms: 5, cpu_us: 6, memory_peak_bytes: 7, truncated });
            }
            runs.changed().await.map_err(|_| Fail::new(Code::NotReady, "the test is over"))?;
        }
    }
}

impl Service for FakeNode {
    fn hello(&self) -> Hello {
        let (cluster, node) = (Some(self.cluster), Some(self.node));
        Hello { cluster, node, ..Hello::new(node::PROTOCOL, "fake-noded") }
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            route!(call, {
                node::VmOpen => |request, _call| {
                    let vm = request.at.vm;
                    self.note(format!("node: open {} {} {}", vm.slot, vm.generation, vm.fence.epoch));
                    Ok(())
                },
                node::VmExec => |request, _call| {
                    self.note(format!("node: exec {} {}", request.of.exec, request.argv.join(" ")));
                    let known = self.runs.borrow().contains_key(&request.of.exec);
                    self.run(&request.of.exec, |_| {});
                    Ok(VmExecReply { known })
                },
                node::VmWait => |request, call| self.wait(request, call).await,
                node::VmSignal => |request, _call| {
                    self.note(format!("node: signal {} {}", request.to.exec, request.signal));
                    Ok(())
                },
                node::VmCancel => |request, _call| {
                    self.note(format!("node: cancel {}", request.exec));
                    Ok(())
                },
                node::VmPut => |request, _call| {
                    let next = request.offset + request.bytes.len() as u64;
                    self.note(format!("node: put {} {} {next}", request.upload, request.path));
                    match self.put_fails.lock().unwrap().pop_front() {
                        Some(fail) => Err(fail),
                        None => Ok(PieceReply { next, done: request.last }),
                    }
                },
                node::VmGet => |request, call| {
                    if request.path == "none" {
                        Err(Fail::new(Code::NotFound, "there is no 'none'"))
                    } else {
                        let items = call.items::<node::VmGet>();
                        for piece in [b"tar".to_vec(), b"ball".to_vec()] {
                            items.send(&Bytes { bytes: piece }).await?;
                        }
                        Ok(VmGetReply { files: vec![("a".to_owned(), 7)], refused: 2 })
                    }
                },
            })
        })
    }
}

/// Takes leased VMs as opened.
pub struct FakeWconfd {
    pub log: Log,
    /// What it refuses to open with.
    pub refusal: Mutex<Option<Fail>>,
}

impl Service for FakeWconfd {
    fn hello(&self) -> Hello {
        Hello::new(wconfd::PROTOCOL, "fake-wconfd")
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            route!(call, {
                wconfd::Apply => |request, call| {
                    assert_eq!((request.owner, request.seq, call.peer.hello.run), (None, 0, Some(1)));
                    for command in request.commands.read().unwrap() {
                        let Command::LeaseOpen { slot, generation, .. } = command else { panic!("{command:?}") };
                        self.log.lock().unwrap().push(format!("wconfd: open {slot} {generation}"));
                    }
                    match self.refusal.lock().unwrap().clone() {
                        Some(refusal) => Err(refusal),
                        None => Ok(ApplyReply { index: 1, results: gantry_proto::codec::Json::raw("[null]".to_owned()) }),
                    }
                },
            })
        })
    }
}
