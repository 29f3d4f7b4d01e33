//! What lives in the test node's VMs: homes that are directories, commands that are processes of this machine, archives
//! made and unpacked by tar. Commands run once per name, whoever asks.

use gantry_model::ids::{Generation, InstanceUuid, LeaseUuid};
use gantry_proto::noded::{
    self as wire, Bytes, CommandEnd, OutputPiece, PieceReply, Stream, VmGetReply, Why,
};
use gantry_proto::vmd::VmUsage;
use gantry_rpc::{Call, Code, Fail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::sync::watch;

/// Bytes of one piece of output.
const PIECE: usize = 3000;

/// One command of a VM.
#[derive(Default)]
pub struct Running {
    out: Vec<u8>,
    err: Vec<u8>,
    end: watch::Sender<Option<Why>>,
    cancelled: bool,
    pid: Option<u32>,
}

/// A live VM.
pub struct Guest {
    home: tempfile::TempDir,
    pub holder: Option<LeaseUuid>,
    pub limits: Option<wire::OpenLimits>,
    uploads: BTreeMap<String, Vec<u8>>,
    unpacked: Vec<String>,
    commands: BTreeMap<String, Arc<Mutex<Running>>>,
    settled: bool,
}

/// All of a node, and what tests want to go wrong.
#[derive(Default)]
pub struct Guests {
    pub vms: BTreeMap<(InstanceUuid, Generation), Guest>,
    /// How often each command was started.
    pub starts: BTreeMap<String, u32>,
    /// So many streams end early, as when noded restarts.
    pub breaks: u32,
    /// Commands whose end is not known: their VM is lost.
    pub lose: bool,
    /// Commands that end badly do so for memory.
    pub memory: bool,
    /// Commands are started and their callers never hear of it.
    pub mute: bool,
    /// What is said of an input instead of unpacking it: code, text, class.
    pub refuses_input: Option<(Code, &'static str, &'static str)>,
    /// Images that are here, and pieces that came.
    pub images: BTreeMap<String, Vec<u8>>,
    pub image_puts: u32,
}

fn stale(text: &str) -> Fail {
    Fail::new(Code::Stale, text)
}

impl Guests {
    fn vm(&mut self, at: &wire::VmLeaseRef) -> Result<&mut Guest, Fail> {
        let guest = self.vms.get_mut(&(at.vm.slot, at.vm.generation)).ok_or_else(|| stale("no such VM"))?;
        if guest.holder.is_some_and(|holder| holder != at.lease) {
            return Err(stale("another lease has it"));
        }
        Ok(guest)
    }

    pub fn open(&mut self, request: &wire::VmOpenRequest) {
        let key = (request.at.vm.slot, request.at.vm.generation);
        let guest = self.vms.entry(key).or_insert_with(|| Guest {
            home: tempfile::tempdir().unwrap(),
            holder: None,
            limits: None,
            uploads: BTreeMap::new(),
            unpacked: Vec::new(),
            commands: BTreeMap::new(),
            settled: false,
        });
        (guest.holder, guest.limits) = (Some(request.at.lease), request.limits);
    }

    pub fn put(&mut self, request: &wire::VmPutRequest) -> Result<PieceReply, Fail> {
        let refuses = self.refuses_input;
        let guest = self.vm(&request.at)?;
        let reply = |next: usize, done| PieceReply { next: next as u64, done };
        let whole = guest.uploads.entry(request.upload.clone()).or_default();
        if guest.unpacked.contains(&request.upload) {
            return Ok(reply(whole.len(), true));
        }
        if request.offset != whole.len() as u64 {
            return Ok(reply(whole.len(), false));
        }
        whole.extend_from_slice(&request.bytes);
        if !request.last {
            return Ok(reply(whole.len(), false));
        }
        if let Some((code, text, class)) = refuses {
            return Err(Fail { code, text: text.to_owned(), body: class.as_bytes().to_vec() });
        }
        let mut tar = Command::new("tar");
        tar.args(["-x", "-C"]).arg(guest.home.path()).stdin(Stdio::piped());
        let mut tar = tar.spawn().unwrap();
        tar.stdin.take().unwrap().write_all(whole).unwrap();
        assert!(tar.wait().unwrap().success());
        let next = whole.len();
        guest.unpacked.push(request.upload.clone());
        Ok(reply(next, true))
    }

    pub fn exec(&mut self, request: &wire::VmExecRequest) -> Result<wire::VmExecReply, Fail> {
        let guest = self.vm(&request.of.at)?;
        let name = request.of.exec.clone();
        if guest.commands.contains_key(&name) {
            return Ok(wire::VmExecReply { known: true });
        }
        if guest.settled {
            return Err(stale("no command can run any more"));
        }
        let running = Arc::new(Mutex::new(Running::default()));
        guest.commands.insert(name.clone(), Arc::clone(&running));
        let mut command = Command::new(&request.argv[0]);
        command.args(&request.argv[1..]).current_dir(guest.home.path()).env_clear();
        command.env("PATH", "/usr/bin:/bin").envs(request.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        let child = command.spawn().unwrap();
        running.lock().unwrap().pid = Some(child.id());
        let max = usize::try_from(request.output_bytes_max).unwrap();
        let wall = Duration::from_millis(request.wall_ms);
        std::thread::spawn(move || attend(child, &running, max, wall));
        *self.starts.entry(name).or_default() += 1;
        Ok(wire::VmExecReply { known: false })
    }

    fn running(&mut self, of: &wire::VmCommandRef) -> Result<Arc<Mutex<Running>>, Fail> {
        let guest = self.vm(&of.at)?;
        guest.commands.get(&of.exec).cloned().ok_or_else(|| Fail::new(Code::NotFound, "no such command"))
    }

    pub fn cancel(&mut self, of: &wire::VmCommandRef) -> Result<(), Fail> {
        let running = self.running(of)?;
        let mut running = running.lock().unwrap();
        running.cancelled = true;
        end(running.pid.unwrap());
        Ok(())
    }

    pub fn usage(&mut self, vm: &wire::VmRef) -> Result<VmUsage, Fail> {
        self.vms.get(&(vm.slot, vm.generation)).ok_or_else(|| stale("no such VM"))?;
        Ok(VmUsage {
            cpu_us: 1234,
            memory_bytes: 1,
            memory_peak_bytes: 4321,
            oom_kills: 0,
            pids: 1,
            forks_refused: 0,
            scratch_bytes: 0,
            scratch_free_bytes: 1,
            scratch_free_inodes: 1,
            io_bytes: 99,
        })
    }

    pub fn image_put(&mut self, request: wire::ImagePutRequest) -> PieceReply {
        self.image_puts += 1;
        let whole = self.images.entry(request.digest).or_default();
        if request.offset == whole.len() as u64 {
            whole.extend_from_slice(&request.bytes);
        }
        PieceReply { next: whole.len() as u64, done: request.last }
    }
}

/// Ends a command with all its processes.
fn end(pid: u32) {
    let group = Pid::from_raw(i32::try_from(pid).unwrap());
    let _ = killpg(group, Signal::SIGKILL);
}

/// Waits for a command's end as vmd does, in short.
fn attend(mut child: Child, running: &Mutex<Running>, max: usize, wall: Duration) {
    let read = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = from.read_to_end(&mut bytes);
            bytes
        })
    };
    let out = read(Box::new(child.stdout.take().unwrap()));
    let err = read(Box::new(child.stderr.take().unwrap()));
    let (pid, (tell, told)) = (child.id(), mpsc::sync_channel(1));
    std::thread::spawn(move || tell.send(child.wait().unwrap()));
    let (status, over) = match told.recv_timeout(wall) {
        Ok(status) => (status, false),
        Err(_) => {
            end(pid);
            (told.recv().unwrap(), true)
        }
    };
    let (mut out, mut err) = (out.join().unwrap(), err.join().unwrap());
    let mut running = running.lock().unwrap();
    let flooded = out.len() > max || err.len() > max;
    out.truncate(max);
    err.truncate(max);
    (running.out, running.err) = (out, err);
    let why = match (status.code(), status.signal()) {
        (Some(0), _) => Why::Exit(0),
        _ if running.cancelled => Why::Cancelled,
        _ if flooded => Why::Output,
        _ if over => Why::Wall,
        (Some(code), _) => Why::Exit(code),
        (_, signal) => Why::Signal(signal.unwrap_or(0)),
    };
    running.end.send_replace(Some(why));
}

/// VmWait: pieces of both streams from where they are wanted, then the end.
pub async fn wait(
    guests: &Mutex<Guests>,
    request: wire::VmWaitRequest,
    call: Call,
) -> Result<CommandEnd, Fail> {
    let running = guests.lock().unwrap().running(&request.of)?;
    let items = call.items::<wire::VmWait>();
    let mut ended = running.lock().unwrap().end.subscribe();
    let why = ended.wait_for(Option::is_some).await.map(|why| *why).unwrap().unwrap();
    let (out, err) = {
        let running = running.lock().unwrap();
        (running.out.clone(), running.err.clone())
    };
    for (stream, bytes, from) in [(Stream::Out, out, request.out), (Stream::Err, err, request.err)] {
        let Some(from) = from else { continue };
        let mut offset = usize::try_from(from).unwrap();
        for piece in bytes[offset..].chunks(PIECE) {
            let piece = OutputPiece { stream, offset: offset as u64, bytes: piece.to_vec() };
            offset += piece.bytes.len();
            items.send(&piece).await.map_err(|_| Fail::new(Code::NotReady, "gone"))?;
            let mut guests = guests.lock().unwrap();
            if guests.breaks > 0 {
                guests.breaks -= 1;
                return Err(Fail::new(Code::NotReady, "noded is stopping"));
            }
        }
    }
    let (lose, memory) = {
        let guests = guests.lock().unwrap();
        (guests.lose, guests.memory)
    };
    let why = match why {
        _ if lose => Why::Lost,
        why if memory && why != Why::Exit(0) => Why::Memory,
        why => why,
    };
    let end = CommandEnd { why, wall_ms: 5, cpu_us: 7, memory_peak_bytes: 9, truncated: why == Why::Output };
    Ok(end)
}

/// VmGet: a tar archive of a directory of the home.
pub async fn get(
    guests: &Mutex<Guests>,
    request: wire::VmGetRequest,
    call: Call,
) -> Result<VmGetReply, Fail> {
    let dir = {
        let mut guests = guests.lock().unwrap();
        let guest = guests.vm(&request.at)?;
        guest.settled |= request.settle;
        guest.home.path().join(&request.path)
    };
    if dir.is_symlink() {
        return Err(Fail::new(Code::BadRequest, "'out' is a link"));
    }
    if !dir.is_dir() {
        return Err(Fail::new(Code::NotFound, "no such directory"));
    }
    let mut files: Vec<(String, u64)> = Vec::new();
    let mut refused = 0;
    let mut dirs: Vec<PathBuf> = vec![dir.clone()];
    while let Some(one) = dirs.pop() {
        for entry in std::fs::read_dir(&one).unwrap() {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
            let name = path.strip_prefix(&dir).unwrap().to_str().unwrap().to_owned();
            match kind {
                kind if kind.is_dir() => dirs.push(path),
                kind if kind.is_file() => files.push((name, path.metadata().unwrap().len())),
                _ => refused += 1,
            }
        }
    }
    files.sort();
    let names = files.iter().map(|(name, _)| name);
    let tar = Command::new("tar").arg("-c").arg("-C").arg(&dir).arg("--").args(names).output().unwrap();
    let items = call.items::<wire::VmGet>();
    for piece in if files.is_empty() { &[][..] } else { &tar.stdout[..] }.chunks(PIECE) {
        items.send(&Bytes { bytes: piece.to_vec() }).await.map_err(|_| Fail::new(Code::NotReady, "gone"))?;
        let mut guests = guests.lock().unwrap();
        if guests.breaks > 0 {
            guests.breaks -= 1;
            return Err(Fail::new(Code::NotReady, "noded is stopping"));
        }
    }
    Ok(VmGetReply { files, refused })
}
