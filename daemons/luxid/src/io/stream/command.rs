//! Commands, signals and files in leased VMs, relayed to their nodes.

use super::StreamApi;
use super::lease::{CALL_MS, Reached};
use super::relay::{Broken, Offsets, Sink, passes, relay, told};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::LeaseUuid;
use gantry_model::pool::WALL_S_MAX;
use gantry_model::task::OUTPUT_BYTES_MAX;
use gantry_proto::envelope::Fail;
use gantry_proto::noded::{
    CommandEnd, OutputPiece, PIECE_BYTES_MAX, PieceReply, STDIN_BYTES_MAX, VmCancel, VmCommandRef, VmExec,
    VmExecRequest, VmGet, VmGetRequest, VmPut, VmPutRequest, VmSignal, VmSignalRequest,
};
use gantry_proto::stream::{
    LeaseExec, LeaseExecRequest, LeaseGet, LeaseGetReply, LeaseGetRequest, LeasePutRequest,
    LeaseSignalRequest,
};
use gantry_proto::vmd;
use gantry_rpc::{CallError, Event, ItemSender};
use std::time::Duration;

/// Longest name a user gives a command or an upload: with the lease before it, it is a name in the VM.
const NAME_BYTES_MAX: usize = 64;
/// Pause before a node that did not answer is asked again, ms; doubles up to the longest.
const PAUSE_MS: (u64, u64) = (100, 2_000);
/// Tries in a row without any output between them, after which the caller is told: some 15 s.
const TRIES: u32 = 10;

impl Sink for ItemSender<LeaseExec> {
    async fn take(&self, piece: OutputPiece) -> Result<(), Fail> {
        Ok(self.send(&piece).await?)
    }
}

fn wrong(text: String) -> Fail {
    GanetiError::prereq(text, Ecode::WrongInput).into()
}

/// The name in a VM of what a user of a lease named: apart from the steps of tasks, whose attempts count from 1.
fn name_of(what: &str, lease: LeaseUuid, name: &str) -> Result<String, Fail> {
    if name.len() > NAME_BYTES_MAX || !vmd::is_name(name) {
        return Err(wrong(format!(
            "the name of {what} must be 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' and '-', not beginning with '.'"
        )));
    }
    Ok(format!("{lease}.0.{name}"))
}

fn check(request: &LeaseExecRequest) -> Result<(), Fail> {
    if request.argv.first().is_none_or(String::is_empty) {
        return Err(wrong("no command was given".to_owned()));
    }
    if request.stdin.len() > STDIN_BYTES_MAX {
        let text = format!(
            "standard input has {} bytes, at most {STDIN_BYTES_MAX} are possible",
            request.stdin.len()
        );
        return Err(wrong(text));
    }
    let ms_max = WALL_S_MAX * 1000;
    for (what, value, most) in [
        ("output_bytes_max", request.output_bytes_max, OUTPUT_BYTES_MAX),
        ("wall_ms", request.wall_ms, ms_max),
        ("cpu_ms", request.cpu_ms, ms_max),
    ] {
        if !(1..=most).contains(&value) {
            return Err(wrong(format!("{what} must be 1 to {most}, not {value}")));
        }
    }
    Ok(())
}

impl StreamApi {
    /// Runs a command, or attaches to it, and relays its output until it or the lease ends.
    pub(super) async fn lease_exec(
        &self,
        request: LeaseExecRequest,
        items: ItemSender<LeaseExec>,
    ) -> Result<CommandEnd, Fail> {
        check(&request)?;
        let exec = name_of("a command", request.lease, &request.exec)?;
        let mut news = self.parts.config.feed().listen();
        let reached = self.reach(request.lease, request.vm).await?;
        let lease = request.lease;
        tokio::select! {
            biased;
            done = self.exec(request, exec, &reached, &items) => done,
            over = self.ended(&mut news, lease) => Err(over),
        }
    }

    /// The command's name makes all of this safe to repeat: it never runs twice (P5.5).
    async fn exec(
        &self,
        request: LeaseExecRequest,
        exec: String,
        reached: &Reached,
        items: &ItemSender<LeaseExec>,
    ) -> Result<CommandEnd, Fail> {
        let mut offsets = Offsets { out: request.out, err: request.err };
        let of = VmCommandRef { at: reached.at, exec };
        let start = VmExecRequest {
            of: of.clone(),
            argv: request.argv,
            env: request.env,
            cwd: request.cwd,
            stdin: request.stdin,
            output_bytes_max: request.output_bytes_max,
            wall_ms: request.wall_ms,
            cpu_ms: request.cpu_ms,
        };
        let (mut started, mut tries, mut pause) = (false, 0, PAUSE_MS.0);
        loop {
            let before = offsets;
            let why = match self.exec_once(reached, &start, &mut started, &mut offsets, items).await {
                Ok(end) => return Ok(end),
                Err(Broken::Caller(fail)) => return Err(fail),
                Err(Broken::Node(why)) => why,
                Err(Broken::Quiet) => CallError::Closed("nothing came".to_owned()),
            };
            if offsets != before {
                (tries, pause) = (0, PAUSE_MS.0);
            }
            tries += 1;
            if !passes(&why) {
                return Err(told(&reached.node_name, &why));
            }
            if tries >= TRIES {
                let text = format!(
                    "node {} does not answer: {why}; the command may run: ask again with its name",
                    reached.node_name
                );
                return Err(GanetiError::exec(text).into());
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
            pause = (pause * 2).min(PAUSE_MS.1);
        }
    }

    async fn exec_once(
        &self,
        reached: &Reached,
        start: &VmExecRequest,
        started: &mut bool,
        offsets: &mut Offsets,
        items: &ItemSender<LeaseExec>,
    ) -> Result<CommandEnd, Broken> {
        let client = self.node(reached).await.map_err(Broken::Node)?;
        if !*started {
            let limit = Duration::from_millis(CALL_MS);
            client.call::<VmExec>(start, limit).await.map_err(Broken::Node)?;
            *started = true;
        }
        relay(&client, &start.of, offsets, None, items).await
    }

    /// Signals a command, or ends it.
    pub(super) async fn lease_signal(&self, request: LeaseSignalRequest) -> Result<(), Fail> {
        let exec = name_of("a command", request.lease, &request.exec)?;
        let reached = self.reach(request.lease, request.vm).await?;
        let to = VmCommandRef { at: reached.at, exec };
        if request.signal == 0 {
            return self.ask::<VmCancel>(&reached, &to).await;
        }
        // Not repeated: a signal that did arrive must not arrive twice.
        let told = |why: CallError| told(&reached.node_name, &why);
        let client = self.node(&reached).await.map_err(told)?;
        let signal = VmSignalRequest { to, signal: request.signal };
        client.call::<VmSignal>(&signal, Duration::from_millis(CALL_MS)).await.map_err(told)
    }

    /// Relays a piece of an upload.
    pub(super) async fn lease_put(&self, request: LeasePutRequest) -> Result<PieceReply, Fail> {
        let LeasePutRequest { lease, vm, upload, path, offset, bytes, last } = request;
        let upload = name_of("an upload", lease, &upload)?;
        if bytes.len() > PIECE_BYTES_MAX {
            let text = format!("a piece has at most {PIECE_BYTES_MAX} bytes, not {}", bytes.len());
            return Err(wrong(text));
        }
        let reached = self.reach(lease, vm).await?;
        let put = VmPutRequest { at: reached.at, upload, path, offset, bytes, last };
        self.ask::<VmPut>(&reached, &put).await
    }

    /// Relays files of a VM until they end or the lease does.
    pub(super) async fn lease_get(
        &self,
        request: LeaseGetRequest,
        items: ItemSender<LeaseGet>,
    ) -> Result<LeaseGetReply, Fail> {
        let LeaseGetRequest { lease, vm, path, bytes_max } = request;
        let mut news = self.parts.config.feed().listen();
        let reached = self.reach(lease, vm).await?;
        let get = VmGetRequest { at: reached.at, path, settle: false, bytes_max };
        tokio::select! {
            biased;
            done = self.get(&reached, &get, &items) => done,
            over = self.ended(&mut news, lease) => Err(over),
        }
    }

    async fn get(
        &self,
        reached: &Reached,
        request: &VmGetRequest,
        items: &ItemSender<LeaseGet>,
    ) -> Result<LeaseGetReply, Fail> {
        let told = |why: CallError| told(&reached.node_name, &why);
        let client = self.node(reached).await.map_err(told)?;
        let mut stream = client.open::<VmGet>(request).await.map_err(told)?;
        loop {
            match stream.next().await.map_err(told)? {
                Event::Item(bytes) => items.send(&bytes).await?,
                Event::End(reply) => {
                    return Ok(LeaseGetReply { files: reply.files.len() as u64, refused: reply.refused });
                }
            }
        }
    }
}
