//! What leases do in VMs, over the wire: commands, files, ends. With real VMs; what needs none uses the fake driver.

use crate::bed::*;
use crate::hostile::stray;
use crate::oci::{self, Vmd, member, ready};
use gantry_model::ids::InstanceUuid;
use gantry_proto::envelope::Code;
use gantry_proto::noded::{self as wire, CommandEnd, OpenLimits, Stream, VmState, Why};
use gantry_rpc::{CallError, Client, Event};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;

pub fn at(slot: InstanceUuid, generation: u64) -> wire::VmLeaseRef {
    wire::VmLeaseRef { vm: vm(fence(1), slot, generation), lease: lease(1) }
}

pub fn of(slot: InstanceUuid, exec: &str) -> wire::VmCommandRef {
    wire::VmCommandRef { at: at(slot, 1), exec: exec.to_owned() }
}

pub fn exec_request(slot: InstanceUuid, exec: &str, script: &str) -> wire::VmExecRequest {
    wire::VmExecRequest {
        of: of(slot, exec),
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![],
        cwd: None,
        stdin: vec![],
        output_bytes_max: 1 << 20,
        wall_ms: 60_000,
        cpu_ms: 60_000,
    }
}

pub async fn open(client: &Client, slot: InstanceUuid, limits: Option<OpenLimits>) -> Result<(), CallError> {
    client.call::<wire::VmOpen>(&wire::VmOpenRequest { at: at(slot, 1), limits }, PATIENCE).await
}

pub async fn exec(client: &Client, slot: InstanceUuid, name: &str, script: &str) -> Result<bool, CallError> {
    let reply = client.call::<wire::VmExec>(&exec_request(slot, name, script), PATIENCE).await?;
    Ok(reply.known)
}

/// What a command says from these offsets on, and its end.
async fn wait_from(
    client: &Client,
    of: wire::VmCommandRef,
    (out, err): (Option<u64>, Option<u64>),
) -> Result<(String, String, CommandEnd), CallError> {
    let mut stream = client.open::<wire::VmWait>(&wire::VmWaitRequest { of, out, err }).await?;
    let mut said = [Vec::new(), Vec::new()];
    loop {
        match tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time")? {
            Event::Item(piece) => {
                let (which, from) = match piece.stream {
                    Stream::Out => (0, out),
                    Stream::Err => (1, err),
                };
                let next = from.expect("only what was asked for") + said[which].len() as u64;
                assert_eq!(piece.offset, next, "pieces follow each other");
                said[which].extend(piece.bytes);
            }
            Event::End(end) => {
                let [out, err] = said.map(|bytes| String::from_utf8(bytes).expect("text"));
                return Ok((out, err, end));
            }
        }
    }
}

pub async fn wait(client: &Client, slot: InstanceUuid, name: &str) -> (String, String, CommandEnd) {
    wait_from(client, of(slot, name), (Some(0), Some(0))).await.expect("waited")
}

pub async fn run(client: &Client, slot: InstanceUuid, name: &str, script: &str) -> (String, String, Why) {
    exec(client, slot, name, script).await.expect("begun");
    let (out, err, end) = wait(client, slot, name).await;
    (out, err, end.why)
}

/// Waits until the command has said something.
pub async fn begun(client: &Client, slot: InstanceUuid, name: &str) {
    let request = wire::VmWaitRequest { of: of(slot, name), out: Some(0), err: None };
    let mut stream = client.open::<wire::VmWait>(&request).await.expect("opened");
    let event = tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time").expect("an item");
    assert!(matches!(event, Event::Item(_)), "{event:?}");
}

pub async fn opened(client: &Client, number: u128) -> InstanceUuid {
    let slot = slot(number);
    client.call::<wire::VmCreate>(&oci::request(slot, 1), PATIENCE).await.expect("created");
    open(client, slot, None).await.expect("opened");
    slot
}

pub fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o755);
        builder.append_data(&mut header, path, text.as_bytes()).expect("added");
    }
    builder.into_inner().expect("whole")
}

pub async fn put(
    client: &Client,
    slot: InstanceUuid,
    upload: &str,
    (path, archive): (&str, &[u8]),
    piece: usize,
) -> Result<wire::PieceReply, CallError> {
    let mut reply = wire::PieceReply { next: 0, done: false };
    for (index, bytes) in archive.chunks(piece).enumerate() {
        let offset = (index * piece) as u64;
        let last = index * piece + bytes.len() == archive.len();
        let request = wire::VmPutRequest {
            at: at(slot, 1),
            upload: upload.to_owned(),
            path: path.to_owned(),
            offset,
            bytes: bytes.to_vec(),
            last,
        };
        reply = client.call::<wire::VmPut>(&request, PATIENCE).await?;
    }
    Ok(reply)
}

pub async fn get(
    client: &Client,
    slot: InstanceUuid,
    path: &str,
    (settle, bytes_max): (bool, u64),
) -> Result<(BTreeMap<String, String>, wire::VmGetReply), CallError> {
    let request = wire::VmGetRequest { at: at(slot, 1), path: path.to_owned(), settle, bytes_max };
    let mut stream = client.open::<wire::VmGet>(&request).await?;
    let mut bytes = Vec::new();
    let reply = loop {
        match tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time")? {
            Event::Item(piece) => bytes.extend(piece.bytes),
            Event::End(reply) => break reply,
        }
    };
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).expect("text");
        files.insert(entry.path().expect("a path").display().to_string(), text);
    }
    Ok((files, reply))
}

/// Host pid of the PID 1 of a node's one VM.
pub fn init_of(vmd: &Vmd) -> i32 {
    // Of all its threads: vmd starts runtimes beside its own.
    let children = |pid: i64| -> Vec<i64> {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let texts = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
        texts
            .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
            .collect()
    };
    let runtimes = children(i64::from(vmd.pid()));
    let all = runtimes.iter().flat_map(|runtime| children(*runtime)).chain(runtimes.iter().copied());
    let is_init = |pid: &i64| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"/.gantry/init\0")
    };
    i32::try_from(all.into_iter().find(is_init).expect("a VM")).expect("a pid")
}

#[tokio::test]
async fn a_lease_works_in_its_vm() {
    let cluster = Cluster::new();
    let (_node, client, mut vmd) = member(&cluster).await;
    let one = slot(1);
    client.call::<wire::VmCreate>(&oci::request(one, 1), PATIENCE).await.expect("created");
    assert_eq!(code(exec(&client, one, "early", "true").await), Code::Stale, "nobody has opened it");
    let limits = |memory_mib, pids, disk_mib| Some(OpenLimits { memory_mib, pids, disk_mib });
    for above in [limits(129, 64, 16), limits(128, 65, 16), limits(128, 64, 17), limits(0, 64, 16)] {
        assert_eq!(code(open(&client, one, above).await), Code::BadRequest, "{above:?}");
        let facts = facts(&client, fence(1), one).await.expect("known");
        assert_eq!((facts.opened, facts.holder), (false, None), "a refused lease has not touched it");
    }
    open(&client, one, limits(64, 32, 4)).await.expect("opened");
    let hungry = "/usr/bin/python3 -c 'x = bytearray(90 << 20)'";
    assert_eq!(run(&client, one, "memory", hungry).await.2, Why::Memory);
    assert_eq!(run(&client, one, "disk", "head -c 6000000 /dev/zero > x").await.2, Why::Disk);
    assert_eq!(run(&client, one, "a", "echo y > n; exit 3").await.2, Why::Disk, "it is still full");
    let (out, err, why) = run(&client, one, "b", "rm x; echo x > n; cat n; echo e >&2; exit 3").await;
    assert_eq!((out.as_str(), err.as_str(), why), ("x\n", "e\n", Why::Exit(3)));
    assert!(exec(&client, one, "b", "echo other").await.expect("known"), "it never runs twice");
    let (out, err, _) = wait_from(&client, of(one, "b"), (Some(1), None)).await.expect("waited");
    assert_eq!((out.as_str(), err.as_str()), ("\n", ""));
    assert_eq!(code(wait_from(&client, of(one, "none"), (Some(0), None)).await), Code::NotFound);
    // Another lease has no say.
    let mut strange = exec_request(one, "strange", "true");
    strange.of.at.lease = lease(2);
    assert_eq!(code(client.call::<wire::VmExec>(&strange, PATIENCE).await), Code::Stale);
    strange.of.at.vm.fence = fence(0);
    assert_eq!(code(client.call::<wire::VmExec>(&strange, PATIENCE).await), Code::Fenced);
    // Signals and cancellation.
    exec(&client, one, "sig", "echo begun; exec sleep 1000").await.expect("begun");
    begun(&client, one, "sig").await;
    let signal = wire::VmSignalRequest { to: of(one, "sig"), signal: 10 };
    client.call::<wire::VmSignal>(&signal, PATIENCE).await.expect("sent");
    assert_eq!(wait(&client, one, "sig").await.2.why, Why::Signal(10));
    assert_eq!(code(client.call::<wire::VmSignal>(&signal, PATIENCE).await), Code::NotFound);
    exec(&client, one, "cancel", "trap '' TERM; echo begun; sleep 1000").await.expect("begun");
    for _ in 0..2 {
        client.call::<wire::VmCancel>(&of(one, "cancel"), PATIENCE).await.expect("cancelled");
        assert_eq!(wait(&client, one, "cancel").await.2.why, Why::Cancelled);
    }
    let usage = client.call::<wire::VmUsage>(&vm(fence(1), one, 1), PATIENCE).await.expect("usage");
    assert!(usage.oom_kills > 0 && usage.cpu_us > 0, "{usage:?}");
    // Many follow one command; one that leaves ends nothing.
    exec(&client, one, "many", "echo begun; while [ ! -e go ]; do sleep 0.01; done; echo done")
        .await
        .expect("begun");
    begun(&client, one, "many").await;
    let followers: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { wait(&client, slot(1), "many").await })
        })
        .collect();
    put(&client, one, "go", ("", &tar(&[("go", "")])), 1 << 20).await.expect("put");
    for follower in followers {
        assert_eq!(follower.await.expect("joined").0, "begun\ndone\n");
    }
    // A destroyed VM is no failure of its commands: they are lost.
    exec(&client, one, "long", "echo begun; exec sleep 1000").await.expect("begun");
    begun(&client, one, "long").await;
    let follower = {
        let client = client.clone();
        tokio::spawn(async move { wait(&client, slot(1), "long").await })
    };
    destroy(&client, one, 1).await.expect("destroyed");
    assert_eq!(follower.await.expect("joined").2.why, Why::Lost);
    assert_eq!(wait(&client, one, "long").await.2.why, Why::Lost);
    vmd.stop();
}

#[tokio::test]
async fn closing_ends_all_work_and_the_vm_stays() {
    let cluster = Cluster::new();
    let (_node, client, mut vmd) = member(&cluster).await;
    let one = opened(&client, 1).await;
    exec(&client, one, "long", "setsid sleep 1000 & trap '' TERM; echo begun; sleep 1000")
        .await
        .expect("begun");
    begun(&client, one, "long").await;
    client.call::<wire::VmClose>(&at(one, 1), PATIENCE).await.expect("closed");
    assert_eq!(wait(&client, one, "long").await.2.why, Why::Cancelled);
    let usage = client.call::<wire::VmUsage>(&vm(fence(1), one, 1), PATIENCE).await.expect("usage");
    assert_eq!(usage.pids, 1, "only PID 1 is left");
    assert_eq!(code(exec(&client, one, "late", "true").await), Code::Stale);
    let again = wire::VmLeaseRef { lease: lease(2), ..at(one, 1) };
    let request = wire::VmOpenRequest { at: again, limits: None };
    client.call::<wire::VmOpen>(&request, PATIENCE).await.expect("opened by the next");
    let mut second = exec_request(one, "second", "sleep 0 & wait; exit 0");
    second.of.at.lease = lease(2);
    client.call::<wire::VmExec>(&second, PATIENCE).await.expect("begun");
    let (_, _, end) = wait_from(&client, second.of, (Some(0), None)).await.expect("waited");
    assert_eq!(end.why, Why::Exit(0), "there is room for processes again");
    destroy(&client, one, 1).await.expect("destroyed");
    vmd.stop();
}

#[tokio::test]
async fn files_go_in_once_and_come_out() {
    let cluster = Cluster::new();
    let (mut node, client, mut vmd) = member(&cluster).await;
    let one = opened(&client, 1).await;
    let archive = tar(&[("a/b.sh", "#!/bin/sh\necho ran\n"), ("c", "text")]);
    let reply = put(&client, one, "in", ("src", &archive), 700).await.expect("put");
    assert_eq!(reply, wire::PieceReply { next: archive.len() as u64, done: true });
    assert_eq!(run(&client, one, "x", "src/a/b.sh; rm src/c; stat -c %u src/a/b.sh").await.0, "ran\n1000\n");
    // Repeated, also at another noded: done, and nothing is written again.
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    assert!(put(&client, one, "in", ("src", &archive), 1 << 20).await.expect("known").done);
    assert_eq!(run(&client, one, "y", "ls src").await.0, "a\n");
    // Pieces that are repeated or come too early are known by their offset.
    let piece = |offset: u64, bytes: &[u8], last| wire::VmPutRequest {
        at: at(one, 1),
        upload: "pieces".to_owned(),
        path: String::new(),
        offset,
        bytes: bytes.to_vec(),
        last,
    };
    let half = 512;
    for (offset, bytes, last, next) in [
        (half as u64, &archive[half..], true, 0),
        (0, &archive[..half], false, half as u64),
        (0, &archive[..half], false, half as u64),
    ] {
        let reply = client.call::<wire::VmPut>(&piece(offset, bytes, last), PATIENCE).await.expect("taken");
        assert_eq!((reply.next, reply.done), (next, false));
    }
    let last = piece(half as u64, &archive[half..], true);
    assert!(client.call::<wire::VmPut>(&last, PATIENCE).await.expect("taken").done);
    assert!(client.call::<wire::VmPut>(&last, PATIENCE).await.expect("known").done);
    // Bad ones change nothing.
    let mut link = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    link.append_data(&mut header, "good", "x".as_bytes()).expect("added");
    link.append_link(&mut header, "l", "/etc/passwd").expect("added");
    let linked = link.into_inner().expect("whole");
    let clash = tar(&[("good", "x"), ("good/x", "x")]);
    for (what, archive, wanted) in [
        ("link", &linked, Code::BadRequest),
        ("clash", &clash, Code::BadRequest),
        ("short", &archive[..600].to_vec(), Code::BadRequest),
    ] {
        assert_eq!(code(put(&client, one, what, ("", archive), 1 << 20).await), wanted, "{what}");
    }
    assert_eq!(code(put(&client, one, "up", ("../x", &archive), 1 << 20).await), Code::BadRequest);
    assert_eq!(run(&client, one, "z", "ls good").await.2, Why::Exit(2));
    // Out again, from a hostile tree.
    let script = "cd out; echo one > a; mkdir d; echo two > d/b; ln -s /etc/passwd l; ln -s d ld; mkfifo f; ln a hard; \
        echo h > h; ln h hh; head -c 2000000 /dev/zero > big; printf x > \"$(printf 'n\\nl')\"; printf x > \"$(printf '\\377')\"; \
        echo only > only; rm hard; exit 0";
    assert_eq!(run(&client, one, "make", script).await.2, Why::Exit(0));
    let (files, reply) = get(&client, one, "out", (false, 1_000_000)).await.expect("got");
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["a", "d/b", "only"], "{reply:?}");
    assert_eq!(files["d/b"], "two\n");
    assert_eq!(reply.refused, 8, "link, link, fifo, two names twice, odd names, too large");
    assert_eq!(get(&client, one, "out/only", (false, 100)).await.expect("got").0["only"], "only\n");
    assert_eq!(code(get(&client, one, "nothing", (false, 100)).await), Code::NotFound);
    for path in ["out/l", "../x", "/etc/passwd", "out/ld"] {
        assert!(get(&client, one, path, (false, 100)).await.is_err(), "{path}");
    }
    // Settled: nothing runs any more, the files stay, and nobody takes it for lost.
    exec(&client, one, "writer", "echo begun; while :; do date > out/now; done").await.expect("begun");
    begun(&client, one, "writer").await;
    let (files, _) = get(&client, one, "out", (true, 1 << 20)).await.expect("got");
    assert!(files.contains_key("now"));
    let (again, _) = get(&client, one, "out", (true, 1 << 20)).await.expect("got");
    assert_eq!(files, again);
    assert_eq!(code(exec(&client, one, "after", "true").await), Code::Stale);
    assert_eq!(state(&client, one).await, Some(VmState::Live));
    let uploads = node.root.lib().join("put");
    assert_eq!(std::fs::read_dir(&uploads).expect("there").count(), 1);
    destroy(&client, one, 1).await.expect("destroyed");
    assert_eq!(std::fs::read_dir(&uploads).expect("there").count(), 0, "uploads go with the VM");
    vmd.stop();
}

/// Too much is refused for good, as the sender's fault, and nothing of it stays: neither beside the VM nor in it.
#[tokio::test]
async fn too_much_for_a_vm_is_refused_and_nothing_of_it_stays() {
    let cluster = Cluster::new();
    let (node, client, mut vmd) = member(&cluster).await;
    let one = opened(&client, 1).await;
    let staged = node.root.lib().join("put").join(format!("{one}.1")).join("staged");
    let large = tar(&[("few/good", &"x".repeat(17 << 20))]);
    // Few bytes, which take a block each: this is found out only while they are written.
    let names: Vec<String> = (0..6_000).map(|number| format!("many/{number}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    for (what, archive, said) in [
        ("large", &large, "its files have 17825792 bytes, the machine has room for "),
        ("many", &tar(&many), "the machine's room ended at many/"),
    ] {
        let Err(CallError::Fail(fail)) = put(&client, one, what, ("", archive), 1 << 20).await else {
            panic!("{what} fits")
        };
        assert_eq!(
            (fail.code, fail.body.as_slice()),
            (Code::Busy, &b"no-space"[..]),
            "{what}: {}",
            fail.text
        );
        assert!(fail.text.contains(said) && fail.text.ends_with("leave some out"), "{}", fail.text);
        assert_eq!(std::fs::read_dir(&staged).expect("there").count(), 0, "{what}");
        assert_eq!(run(&client, one, what, "find . -type f | head").await.0, "", "{what}");
    }
    assert!(put(&client, one, "small", ("", &tar(&[("good", "x")])), 1 << 20).await.expect("put").done);
    destroy(&client, one, 1).await.expect("destroyed");
    vmd.stop();
}

#[tokio::test]
async fn a_command_outlives_noded() {
    let cluster = Cluster::new();
    let (mut node, client, mut vmd) = member(&cluster).await;
    let one = opened(&client, 1).await;
    exec(&client, one, "long", "echo begun; while [ ! -e go ]; do sleep 0.01; done; echo done; exit 5")
        .await
        .expect("begun");
    begun(&client, one, "long").await;
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    assert!(exec(&client, one, "long", "echo again").await.expect("known"), "it never runs twice");
    assert_eq!(state(&client, one).await, Some(VmState::Live));
    let waiting = client.clone();
    let follower =
        tokio::spawn(async move { wait_from(&waiting, of(slot(1), "long"), (Some(6), Some(0))).await });
    put(&client, one, "go", ("", &tar(&[("go", "")])), 1 << 20).await.expect("put");
    let (out, err, end) = follower.await.expect("joined").expect("waited");
    assert_eq!((out.as_str(), err.as_str(), end.why), ("done\n", "", Why::Exit(5)));
    destroy(&client, one, 1).await.expect("destroyed");
    vmd.stop();
}

#[tokio::test]
async fn a_new_master_ends_the_streams_of_the_old_one_not_the_commands() {
    let cluster = Cluster::new();
    let (node, client, mut vmd) = member(&cluster).await;
    let one = opened(&client, 1).await;
    exec(&client, one, "long", "echo begun; while [ ! -e go ]; do sleep 0.01; done; echo done")
        .await
        .expect("begun");
    begun(&client, one, "long").await;
    let waiting = client.clone();
    let follower =
        tokio::spawn(async move { wait_from(&waiting, of(slot(1), "long"), (Some(0), None)).await });
    claim(&client, &cluster, &node, fence(2)).await.expect("claimed");
    assert_eq!(code(follower.await.expect("joined")), Code::Fenced);
    let mut request = of(one, "long");
    request.at.vm.fence = fence(2);
    let waiting = client.clone();
    let follower = tokio::spawn(async move { wait_from(&waiting, request, (Some(0), None)).await });
    let put = wire::VmPutRequest {
        at: wire::VmLeaseRef { vm: vm(fence(2), one, 1), lease: lease(1) },
        upload: "go".to_owned(),
        path: String::new(),
        offset: 0,
        bytes: tar(&[("go", "")]),
        last: true,
    };
    assert!(client.call::<wire::VmPut>(&put, PATIENCE).await.expect("put").done);
    assert_eq!(follower.await.expect("joined").expect("waited").0, "begun\ndone\n");
    client.call::<wire::VmDestroy>(&vm(fence(2), one, 1), PATIENCE).await.expect("destroyed");
    vmd.stop();
}

#[tokio::test]
async fn vmd_s_death_loses_vms_and_leaves_nothing() {
    let cluster = Cluster::new();
    let (node, client, mut vmd) = member(&cluster).await;
    let one = opened(&client, 1).await;
    assert_eq!(run(&client, one, "done", "echo kept; exit 3").await.2, Why::Exit(3));
    exec(&client, one, "long", "echo begun; setsid sleep 1000 & exec sleep 1000").await.expect("begun");
    begun(&client, one, "long").await;
    let init = init_of(&vmd);
    let waiting = client.clone();
    let follower = tokio::spawn(async move { wait(&waiting, slot(1), "long").await });
    vmd.kill();
    wait_for("the end of PID 1", async || kill(Pid::from_raw(init), None).is_err().then_some(())).await;
    let mut vmd = Vmd::start(&node);
    let (out, _, end) = follower.await.expect("joined");
    assert_eq!((out.as_str(), end.why), ("begun\n", Why::Lost), "the one that waited is told");
    ready(&client).await;
    assert_eq!(state(&client, one).await, Some(VmState::Lost));
    assert_eq!(code(exec(&client, one, "more", "true").await), Code::Stale);
    assert_eq!(wait(&client, one, "done").await.2.why, Why::Exit(3), "what had ended is kept");
    let groups = groups(&node);
    assert_eq!(groups, Vec::<String>::new());
    destroy(&client, one, 1).await.expect("destroyed");
    for dir in [node.root.spool_dir().join("vm"), node.root.vm_dir()] {
        assert_eq!(std::fs::read_dir(dir).expect("there").count(), 0);
    }
    vmd.stop();
}

/// Control groups of a node's VMs.
fn groups(node: &Node) -> Vec<String> {
    let dirs = std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten();
    let ours = dirs.map(|dir| dir.path().join("gantry").join(node.node.to_string()));
    let below = ours.filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    below.filter(|entry| entry.path().is_dir()).map(|entry| entry.path().display().to_string()).collect()
}

#[tokio::test]
async fn a_vm_whose_pid_1_stands_still_is_lost() {
    let cluster = Cluster::new();
    let (_node, client, mut vmd) = member(&cluster).await;
    let one = opened(&client, 1).await;
    assert_eq!(state(&client, one).await, Some(VmState::Live));
    let init = init_of(&vmd);
    kill(Pid::from_raw(init), Signal::SIGSTOP).expect("stopped");
    assert_eq!(state(&client, one).await, Some(VmState::Lost));
    destroy(&client, one, 1).await.expect("destroyed");
    vmd.stop();
}

#[tokio::test]
async fn strangers_are_killed_and_others_left() {
    let cluster = Cluster::new();
    let (mut node, client, mut vmd) = member(&cluster).await;
    opened(&client, 1).await;
    opened(&client, 2).await;
    // A node that forgot: its records are of before the second VM.
    let records = node.root.lib().join("noded.data");
    node.process.kill().expect("killed");
    node.process.wait().expect("waited");
    let db = rusqlite::Connection::open(&records).expect("opens");
    let gone = db.execute("DELETE FROM slot WHERE key = ?1", [slot(2).to_string()]).expect("deleted");
    assert_eq!(gone, 1);
    drop(db);
    // And groups nobody knows, with a process in each: one goes when noded starts.
    let (first, mut process) = stray(&node, "gantry-first");
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    wait_for("the sweep", async || (!first.exists()).then_some(())).await;
    assert!(!process.wait().expect("waited").success());
    let (group, mut stray) = stray(&node, "gantry-stray");
    let reply = client.call::<wire::Audit>(&fence(1), PATIENCE).await.expect("audited");
    assert_eq!(reply.killed.len(), 2, "{reply:?}");
    assert!(
        reply.killed[0].contains(&slot(2).to_string()) && reply.failed.is_empty() && reply.seen == 2,
        "{reply:?}"
    );
    assert!(!stray.wait().expect("waited").success());
    assert!(!group.exists());
    assert_eq!(run(&client, slot(1), "alive", "true").await.2, Why::Exit(0));
    let again = client.call::<wire::Audit>(&fence(1), PATIENCE).await.expect("audited");
    assert_eq!((again.killed.len(), again.seen), (0, 1), "{again:?}");
    destroy(&client, slot(1), 1).await.expect("destroyed");
    vmd.stop();
}

#[tokio::test]
async fn fake_vms_play_all_of_it() {
    let cluster = Cluster::new();
    let (mut node, client) = cluster.member("n1").await;
    let one = slot(1);
    create(&client, one, 1).await.expect("created");
    let above = Some(OpenLimits { memory_mib: 1 << 20, pids: 1, disk_mib: 1 });
    assert_eq!(code(open(&client, one, above).await), Code::BadRequest);
    open(&client, one, None).await.expect("opened");
    let (out, _, why) = run(&client, one, "a", "make all").await;
    assert_eq!((out.as_str(), why), ("ran: sh -c make all\n", Why::Exit(0)));
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    assert!(exec(&client, one, "a", "other").await.expect("known"));
    let (out, _, end) = wait_from(&client, of(one, "a"), (Some(5), None)).await.expect("waited");
    assert_eq!((out.as_str(), end.why), ("sh -c make all\n", Why::Exit(0)));
    assert!(put(&client, one, "in", ("out", &tar(&[("a", "x")])), 100).await.expect("put").done);
    let (files, _) = get(&client, one, "out", (true, 100)).await.expect("got");
    assert_eq!(files.into_iter().collect::<Vec<_>>(), [("a".to_owned(), "x".to_owned())]);
    node.faults(r#"{"fail": {"exec": {"class": "locked", "times": 1}}}"#);
    assert_eq!(code(exec(&client, one, "b", "x").await), Code::Stale, "it is settled");
    destroy(&client, one, 1).await.expect("destroyed");
    create(&client, slot(2), 1).await.expect("created");
    open(&client, slot(2), None).await.expect("opened");
    assert_eq!(code(exec(&client, slot(2), "b", "x").await), Code::Busy, "as the fault says");
    assert!(!exec(&client, slot(2), "b", "x").await.expect("begun"));
    destroy(&client, slot(2), 1).await.expect("destroyed");
    assert_eq!(
        std::fs::read_dir(node.root.run().join("fake"))
            .expect("there")
            .filter(|entry| { entry.as_ref().is_ok_and(|entry| entry.path().is_dir()) })
            .count(),
        0
    );
}
