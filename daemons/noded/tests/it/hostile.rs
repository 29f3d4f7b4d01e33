//! Hostile leases over the wire: what they leave is bounded, told truly, and nobody else's.

use crate::bed::*;
use crate::oci::{Vmd, member, request};
use crate::work::{at, begun, exec, get, open, opened, run};
use gantry_model::ids::InstanceUuid;
use gantry_proto::envelope::Code;
use gantry_proto::noded::{self as wire, VmState, Why};
use gantry_proto::vmd::place;
use gantry_rpc::Client;
use std::path::PathBuf;

/// Highest memory of a process so far, KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

async fn large(client: &Client, number: u128, memory_mib: u64, disk_mib: u64) -> InstanceUuid {
    let mut request = request(slot(number), 1);
    (request.spec.memory_mib, request.spec.disk_mib) = (memory_mib, disk_mib);
    client.call::<wire::VmCreate>(&request, PATIENCE).await.expect("created");
    open(client, slot(number), None).await.expect("opened");
    slot(number)
}

#[tokio::test]
async fn a_million_files_cost_the_node_no_memory_and_few_answers() {
    let cluster = Cluster::new();
    let (node, client, mut vmd) = member(&cluster).await;
    let one = large(&client, 1, 1024, 900).await;
    let script = "/usr/bin/python3 -c 'import os\nos.chdir(\"out\")\nfor i in range(1000000): os.close(os.open(str(i), os.O_CREAT))'";
    let (_, _, why) = run(&client, one, "files", script).await;
    assert!(matches!(why, Why::Disk | Why::Memory), "{why:?}");
    let before = (peak_kib(node.process.id()), peak_kib(vmd.pid()));
    let (files, reply) = get(&client, one, "out", (true, 1 << 20)).await.expect("got");
    assert!(
        files.len() <= 10_000 && reply.files.len() == files.len() && reply.refused > 0,
        "{}",
        files.len()
    );
    let after = (peak_kib(node.process.id()), peak_kib(vmd.pid()));
    assert!(after.0 - before.0 < 64 << 10 && after.1 - before.1 < 16 << 10, "{before:?} {after:?}");
    destroy(&client, one, 1).await.expect("destroyed");
    vmd.stop();
}

#[tokio::test]
async fn results_are_those_at_the_stop_whatever_still_wrote() {
    let cluster = Cluster::new();
    let (_node, client, mut vmd) = member(&cluster).await;
    let one = opened(&client, 1).await;
    let daemon = "(setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i >> out/late; : > out/f$((i % 50)); done' \
        > /dev/null 2>&1 < /dev/null &) & wait; while ! [ -s out/late ]; do :; done; echo good > out/good";
    assert_eq!(run(&client, one, "daemon", daemon).await.2, Why::Exit(0));
    // While it writes, an archive is whole all the same.
    get(&client, one, "out", (false, 1 << 24)).await.expect("got");
    let (first, told) = get(&client, one, "out", (true, 1 << 24)).await.expect("got");
    assert_eq!(first["good"], "good\n");
    let usage = client.call::<wire::VmUsage>(&vm(fence(1), one, 1), PATIENCE).await.expect("usage");
    assert_eq!(usage.pids, 0, "nothing lives in it");
    for _ in 0..3 {
        let (again, same) = get(&client, one, "out", (true, 1 << 24)).await.expect("got");
        assert!(again == first && same == told, "results changed after the stop");
    }
    destroy(&client, one, 1).await.expect("destroyed");
    vmd.stop();
}

#[tokio::test]
async fn a_vm_the_kernel_ends_for_memory_still_has_results_and_its_user_s_reason() {
    let cluster = Cluster::new();
    let (_node, client, mut vmd) = member(&cluster).await;
    let one = large(&client, 1, 128, 32).await;
    let hold = "echo kept > out/kept; /usr/bin/python3 -c 'import ctypes\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\n\
        for i in range(26):\n  at = libc.shmat(libc.shmget(0, 4 << 20, 0o1600), None, 0)\n  ctypes.memset(ctypes.c_void_p(at), 1, 4 << 20)'";
    assert_eq!(run(&client, one, "hold", hold).await.2, Why::Exit(0));
    // A shell smaller than PID 1 and as dear to the kernel takes the rest.
    let rest = "echo 0 > /proc/self/oom_score_adj || exit 7; \
        while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done > /dev/shm/x";
    assert_eq!(run(&client, one, "rest", rest).await.2, Why::Memory);
    assert_eq!(state(&client, one).await, Some(VmState::Lost), "PID 1 was the victim");
    let usage = client.call::<wire::VmUsage>(&vm(fence(1), one, 1), PATIENCE).await.expect("usage");
    assert!(usage.oom_kills > 0, "{usage:?}");
    let (files, _) = get(&client, one, "out", (true, 1 << 20)).await.expect("got");
    assert_eq!(files["kept"], "kept\n");
    destroy(&client, one, 1).await.expect("destroyed");
    vmd.stop();
}

#[tokio::test]
async fn a_lease_that_was_ended_stops_and_closes_nobody_s_vm() {
    let cluster = Cluster::new();
    let (_node, client, mut vmd) = member(&cluster).await;
    let one = slot(1);
    client.call::<wire::VmCreate>(&request(one, 1), PATIENCE).await.expect("created");
    let close = async |number| {
        let at = wire::VmLeaseRef { lease: lease(number), ..at(one, 1) };
        client.call::<wire::VmClose>(&at, PATIENCE).await
    };
    assert_eq!(code(close(1).await), Code::Stale, "it never opened it");
    open(&client, one, None).await.expect("opened");
    assert_eq!(run(&client, one, "mine", "echo one > out/one").await.2, Why::Exit(0));
    assert_eq!(code(close(2).await), Code::Stale);
    close(1).await.expect("closed");
    close(1).await.expect("closed again");
    assert_eq!(code(get(&client, one, "out", (true, 100)).await), Code::Stale, "it may not stop it any more");
    assert_eq!(get(&client, one, "out", (false, 100)).await.expect("it may look").0["one"], "one\n");
    let second = wire::VmOpenRequest { at: wire::VmLeaseRef { lease: lease(2), ..at(one, 1) }, limits: None };
    client.call::<wire::VmOpen>(&second, PATIENCE).await.expect("opened by the next");
    assert_eq!(code(get(&client, one, "out", (true, 100)).await), Code::Stale);
    assert_eq!(code(close(1).await), Code::Stale);
    let mut command = crate::work::exec_request(one, "second", "exit 3");
    command.of.at.lease = lease(2);
    client.call::<wire::VmExec>(&command, PATIENCE).await.expect("the VM runs for the second");
    destroy(&client, one, 1).await.expect("destroyed");
    vmd.stop();
}

/// A group of a VM nobody knows, with a process in it.
pub fn stray(node: &Node, name: &str) -> (PathBuf, std::process::Child) {
    let stray = std::process::Command::new("sleep").arg("1000").spawn().expect("starts");
    let group = PathBuf::from(format!("/sys/fs/cgroup/pids/gantry/{}/{name}", node.node));
    std::fs::create_dir_all(&group).expect("made");
    std::fs::write(group.join("cgroup.procs"), stray.id().to_string()).expect("moved");
    (group, stray)
}

#[tokio::test]
async fn leftovers_go_at_the_start_and_live_vms_stay() {
    let cluster = Cluster::new();
    let (mut node, client, mut vmd) = member(&cluster).await;
    let one = opened(&client, 1).await;
    exec(&client, one, "long", "echo begun; while [ ! -e go ]; do sleep 0.01; done; exit 5")
        .await
        .expect("begun");
    begun(&client, one, "long").await;
    node.process.kill().expect("killed");
    node.process.wait().expect("waited");
    let (group, mut process) = stray(&node, "gantry-stray");
    let stage = PathBuf::from(format!("/proc/{}/root{}/bundle", vmd.pid(), place::vm("gantry-stray")));
    std::fs::create_dir_all(&stage).expect("made");
    node.kill_and_start();
    // No master says anything yet.
    wait_for("the sweep", async || (!group.exists() && !stage.exists()).then_some(())).await;
    assert!(!process.wait().expect("waited").success());
    let client = cluster.connect(&node).await;
    assert_eq!(run(&client, one, "alive", "touch go; exit 3").await.2, Why::Exit(3));
    assert_eq!(crate::work::wait(&client, one, "long").await.2.why, Why::Exit(5));
    // Also when vmd comes only later.
    vmd.kill();
    node.process.kill().expect("killed");
    node.process.wait().expect("waited");
    let (group, mut process) = stray(&node, "gantry-stray");
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    let mut vmd = Vmd::start(&node);
    wait_for("the sweep", async || (!group.exists()).then_some(())).await;
    assert!(!process.wait().expect("waited").success());
    crate::oci::ready(&client).await;
    assert_eq!(state(&client, one).await, Some(VmState::Lost));
    destroy(&client, one, 1).await.expect("destroyed");
    vmd.stop();
}
