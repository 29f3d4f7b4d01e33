//! The node of an attempt: calls that outlive a restart of its noded, and end early when cancelling is asked for.
//! Everything asked for is idempotent, so it is asked for again until it is known what became of it (P5).

use super::output::Output;
use crate::core::patience::{AWAY, Next, Patience};
use crate::error::OpFail;
use crate::io::bodies::Writer;
use crate::io::nodes::{CALL, Callee, NodeFail, Nodes};
use crate::ops::Cx;
use gantry_model::config::Node;
use gantry_model::ids::NodeUuid;
use gantry_proto::envelope::Code;
use gantry_proto::noded::{
    CommandEnd, Inventory, SlotFacts, Stream, VmCancel, VmCommandRef, VmExec, VmExecRequest, VmGet,
    VmGetReply, VmGetRequest, VmRef, VmState, VmWait, VmWaitRequest,
};
use gantry_proto::verb::Verb;
use gantry_rpc::{Event, Stream as Streaming};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How much longer than its wall clock a command may take to be told as ended.
const WALL_MARGIN: Duration = Duration::from_secs(60);
/// How long a command may take to be cancelled; its VM is destroyed afterwards anyway.
const CANCEL: Duration = Duration::from_secs(10);
/// Between two attempts to cancel on a node that is away.
const AGAIN: Duration = Duration::from_millis(250);

/// The node that has the VM. The job's own is called by its local socket: reading its record would take longer than the call.
pub struct Home {
    uuid: NodeUuid,
    name: String,
    /// None: it is the job's own.
    record: Option<Box<Node>>,
}

/// See the module.
pub struct VmNode<'r, 'a> {
    pub cx: &'r Cx<'a>,
    node: &'r Home,
}

/// What became of the fetching of files.
pub enum Got {
    /// These, in this archive.
    Files(VmGetReply, Option<Box<Writer>>),
    /// There is no such directory, or no VM.
    Nothing,
    /// There is something else, such as a link.
    Unfit,
}

impl Home {
    /// The node of that name or uuid.
    ///
    /// # Errors
    /// wconfd's: there is none.
    pub async fn find(cx: &mut Cx<'_>, node: &str) -> Result<Self, OpFail> {
        if let Ok(uuid) = node.parse()
            && let Some(name) = cx.nodes.here(uuid).await
        {
            return Ok(Self { uuid, name, record: None });
        }
        let record = Box::new(cx.master.node(node).await?);
        Ok(Self { uuid: record.uuid, name: record.name.clone(), record: Some(record) })
    }
}

impl Callee for Home {
    fn uuid(&self) -> NodeUuid {
        self.uuid
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn address(&self) -> Option<Result<SocketAddr, OpFail>> {
        self.record.as_deref()?.address()
    }
}

impl<'r, 'a> VmNode<'r, 'a> {
    /// The node through the eyes of this job.
    pub fn new(cx: &'r Cx<'a>, node: &'r Home) -> Self {
        Self { cx, node }
    }

    /// An error that names the node.
    pub fn failed(&self, text: String) -> OpFail {
        OpFail::exec(format!("node {}: {text}", self.node.name()))
    }

    /// A call, repeated while the node is away.
    pub async fn steady<V: Verb>(&self, request: &V::Request) -> Result<V::Reply, OpFail> {
        self.settled::<V>(request).await?.map_err(|why| why.into_op(self.node))
    }

    /// The same for what the user sends: the text when the node finds it unusable.
    pub async fn fit<V: Verb>(&self, request: &V::Request) -> Result<Result<V::Reply, String>, OpFail> {
        match self.settled::<V>(request).await? {
            Ok(reply) => Ok(Ok(reply)),
            Err(why) => match why.unfit() {
                Some(text) => Ok(Err(text.to_owned())),
                None => Err(why.into_op(self.node)),
            },
        }
    }

    /// What the node answers once it does.
    async fn settled<V: Verb>(&self, request: &V::Request) -> Result<Result<V::Reply, NodeFail>, OpFail> {
        let mut patience = Patience::default();
        loop {
            match self.unless_cancelled(self.cx.nodes.ask::<V>(self.node, request, CALL)).await? {
                Err(NodeFail::Away(why)) => self.again(&mut patience, NodeFail::Away(why)).await?,
                done => return Ok(done),
            }
        }
    }

    /// Leaves the work when the job is asked to end.
    pub async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, OpFail> {
        let mut cancelled = self.cx.cancelled();
        tokio::select! {
            biased;
            done = work => Ok(done),
            Ok(_) = cancelled.wait_for(|asked| *asked) => Err(OpFail::Canceled),
        }
    }

    /// Waits a little when asking again may help; else, or when it took too long, the error.
    async fn again(&self, patience: &mut Patience, why: NodeFail) -> Result<(), OpFail> {
        let NodeFail::Away(text) = why else { return Err(why.into_op(self.node)) };
        let (pause, tell) = match patience.failed(Instant::now()) {
            Next::Again { pause, tell } => (pause, tell),
            Next::GiveUp => {
                let text = format!("it has not answered for {} s: {text}", AWAY.as_secs());
                return Err(self.failed(text));
            }
        };
        if tell {
            self.cx.say(format!("waiting for node {}: {text}", self.node.name()));
        }
        self.unless_cancelled(tokio::time::sleep(pause)).await
    }

    /// Starts a command. Cancelled meanwhile, the command may run all the same, for its start is not taken back: it is
    /// ended.
    pub async fn exec(&self, command: &VmExecRequest) -> Result<(), OpFail> {
        match self.steady::<VmExec>(command).await {
            Err(OpFail::Canceled) => {
                self.end(&command.of).await?;
                Err(OpFail::Canceled)
            }
            done => done.map(drop),
        }
    }

    /// Takes a command's output until it has ended, through any number of broken connections. Cancelled or overdue it
    /// is ended first.
    pub async fn wait(
        &self,
        of: &VmCommandRef,
        wall: Duration,
        out: &mut Output,
        err: &mut Output,
    ) -> Result<CommandEnd, OpFail> {
        let mut cancelled = self.cx.cancelled();
        let due = tokio::time::sleep(wall + WALL_MARGIN);
        tokio::pin!(due);
        let gone = tokio::select! {
            biased;
            ended = self.follow_on(of, out, err) => match ended {
                Err(OpFail::Canceled) => OpFail::Canceled,
                ended => return ended,
            },
            Ok(_) = cancelled.wait_for(|asked| *asked) => OpFail::Canceled,
            () = &mut due => self.failed(format!(
                "a command did not end within its wall clock of {} s and {} s more",
                wall.as_secs(), WALL_MARGIN.as_secs()
            )),
        };
        self.end(of).await?;
        Err(gone)
    }

    /// Ends a command that is not waited for any more. What can't be ended goes with its VM.
    async fn end(&self, of: &VmCommandRef) -> Result<(), OpFail> {
        let cancel = async {
            loop {
                match self.cx.nodes.ask::<VmCancel>(self.node, of, CANCEL).await {
                    // It restarts, as a rule.
                    Err(NodeFail::Away(_)) => tokio::time::sleep(AGAIN).await,
                    done => return done,
                }
            }
        };
        match tokio::time::timeout(CANCEL, cancel).await {
            Ok(Ok(())) => {}
            // It never began.
            Ok(Err(why)) if why.code() == Some(Code::NotFound) => {}
            Ok(Err(why)) => match why.into_op(self.node) {
                OpFail::Error(why) => {
                    self.cx.warn(format!("the command was not ended: {why}; it goes with its VM"));
                }
                fenced => return Err(fenced),
            },
            Err(_) => self.cx.warn("the command was not ended in time; it goes with its VM"),
        }
        Ok(())
    }

    async fn follow_on(
        &self,
        of: &VmCommandRef,
        out: &mut Output,
        err: &mut Output,
    ) -> Result<CommandEnd, OpFail> {
        let mut patience = Patience::default();
        loop {
            let before = (out.next(), err.next());
            let request = VmWaitRequest { of: of.clone(), out: Some(out.next()), err: Some(err.next()) };
            let why = match self.cx.nodes.open::<VmWait>(self.node, &request).await {
                Err(why) => why,
                Ok(stream) => {
                    let begun = Instant::now();
                    let why = match self.follow(stream, out, err).await {
                        Ok(end) => return Ok(end),
                        Err(why) => why,
                    };
                    patience.was_there((out.next(), err.next()) != before, begun.elapsed());
                    why
                }
            };
            self.again(&mut patience, why).await?;
        }
    }

    /// One stream, from where the output stands.
    async fn follow(
        &self,
        mut stream: Streaming<VmWait>,
        out: &mut Output,
        err: &mut Output,
    ) -> Result<CommandEnd, NodeFail> {
        loop {
            match stream.next().await.map_err(Nodes::stream_failed)? {
                Event::End(end) => return Ok(end),
                Event::Item(piece) => {
                    let to = match piece.stream {
                        Stream::Out => &mut *out,
                        Stream::Err => &mut *err,
                    };
                    to.add(piece.offset, &piece.bytes).map_err(NodeFail::Broken)?;
                }
            }
        }
    }

    /// Whether the node still has the VM, settled or not.
    pub async fn has(&self, vm: &VmRef) -> Result<bool, OpFail> {
        let facts = self.steady::<Inventory>(&vm.fence).await?;
        let same = |known: &SlotFacts| known.slot == vm.slot && known.generation == vm.generation;
        Ok(facts.iter().any(|known| same(known) && known.state == VmState::Live))
    }

    /// Files as an archive, begun anew when the connection breaks. The archive is None when it has more than `bytes_max`.
    pub async fn get(
        &self,
        request: &VmGetRequest,
        archive: impl Fn() -> Writer,
        bytes_max: u64,
    ) -> Result<Got, OpFail> {
        let mut patience = Patience::default();
        loop {
            let mut into = Some(Box::new(archive()));
            match self.unless_cancelled(self.fetch(request, &mut into, bytes_max)).await? {
                Ok(reply) => return Ok(Got::Files(reply, into)),
                Err(why) if why.code() == Some(Code::NotFound) => return Ok(Got::Nothing),
                Err(why) if why.unfit().is_some() => return Ok(Got::Unfit),
                Err(why) => self.again(&mut patience, why).await?,
            }
        }
    }

    async fn fetch(
        &self,
        request: &VmGetRequest,
        into: &mut Option<Box<Writer>>,
        bytes_max: u64,
    ) -> Result<VmGetReply, NodeFail> {
        let mut stream = self.cx.nodes.open::<VmGet>(self.node, request).await?;
        loop {
            let next = tokio::time::timeout(CALL, stream.next()).await;
            let next = next.map_err(|_| NodeFail::Away(format!("no piece came for {} s", CALL.as_secs())))?;
            let piece = match next.map_err(Nodes::stream_failed)? {
                Event::End(reply) => return Ok(reply),
                Event::Item(piece) => piece.bytes,
            };
            let Some(archive) = into else { continue };
            if archive.bytes().saturating_add(piece.len() as u64) > bytes_max {
                *into = None;
                continue;
            }
            archive.add(&piece).map_err(|why| NodeFail::Broken(super::output::broken(why)))?;
        }
    }
}
