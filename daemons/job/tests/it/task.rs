//! OP_TASK_RUN: whole attempts with real commands, what ends them, and every crash of their job.

use crate::bed::{Bed, log};
use crate::luxid::go;
use crate::master::Side;
use crate::pool::{entries, store};
use gantry_model::config::SlotState;
use gantry_model::ids::{LeaseUuid, TaskId};
use gantry_model::job::{Report, Status};
use gantry_model::lease::{LeaseOwner, LeasedVm};
use gantry_model::task::{EndWhy, RunReport, TaskState};
use gantry_noded::core::slot::Verb;
use gantry_proto::envelope::Code;
use serde_json::{Value, json};
use std::process::Command;

const LEASE: LeaseUuid = LeaseUuid(uuid::Uuid::from_u128(77));
/// More steps than an attempt here takes.
const STEPS_MAX: usize = 16;

impl Bed {
    /// A pool of one VM that is leased.
    async fn leased(&mut self) -> LeasedVm {
        self.with_pool(1).await;
        self.succeeds(&json!({"OP_ID": "OP_SLOT_CREATE", "slots": entries(self)})).await;
        self.master.state().lend("py", LEASE, LeaseOwner::Task { task: TaskId(5), attempt: 1 })
    }

    fn starts(&self) -> Vec<u32> {
        let guests = self.master.state().guests.clone();
        guests.lock().unwrap().starts.values().copied().collect()
    }
}

fn op(vm: &LeasedVm, spec: Value) -> Value {
    json!({"OP_ID": "OP_TASK_RUN", "task": 5, "attempt": 1, "lease": LEASE, "slot": vm.slot,
           "generation": vm.generation, "node": vm.node, "spec": spec})
}

fn read(report: &Report) -> RunReport {
    serde_json::from_value(report.ops[0].result.clone()).expect("a RunReport")
}

/// A tar archive of these files.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let names = files.iter().map(|(name, _)| name);
    Command::new("tar").arg("-c").arg("-C").arg(dir.path()).args(names).output().unwrap().stdout
}

/// Named pipes on which a command and its test wait for each other.
fn gates() -> (tempfile::TempDir, [String; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let gate = |name: &str| {
        let path = dir.path().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let gates = ["begun", "go"].map(gate);
    (dir, gates)
}

fn steps(commands: &[&str]) -> Value {
    commands.iter().map(|command| json!({"command": command})).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_on_the_own_node_asks_wconfd_nothing() {
    let mut bed = Bed::new().await;
    let vm = bed.leased().await;
    let here = go(crate::start(1), &[]).master;
    bed.master.serve_here(&bed.luxid.root, here);
    bed.master.stop.cancel();
    let vm = LeasedVm { node: here, ..vm };
    let report = bed.report(&op(&vm, json!({"pool": "py", "execute": steps(&["echo hello"])}))).await;
    let run = read(&report);
    assert_eq!((run.state, run.why), (TaskState::Success, None));
    assert_eq!(run.result.steps[0].out.text.as_deref(), Some("hello\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_compiles_executes_and_brings_its_files() {
    let mut bed = Bed::new().await;
    let vm = bed.leased().await;
    let input =
        store(&bed, &archive(&[("prog.sh", "cat; echo \"$GREETING\"; echo oops >&2"), ("in.txt", "data\n")]));
    let spec = json!({
        "pool": "py", "input": input, "env": {"GREETING": "hello"},
        "compile": {"command": "cp prog.sh prog && mkdir out"},
        "execute": [
            {"command": "sh prog; echo \"$0\" >out/who", "stdin": "in.txt", "name": "first"},
            {"command": "head -c 5000 /dev/zero | tr '\\0' x; printf '\\377' >&2; ln -s who out/link"},
        ],
    });
    let report = bed.report(&op(&vm, spec)).await;
    let run = read(&report);
    assert_eq!((run.state, &run.why), (TaskState::Success, &None));
    assert_eq!(report.stage, Some(TaskState::Running));
    let result = run.result;
    let [compile, first, second] = &result.steps[..] else { panic!("{:?}", result.steps) };
    assert!(compile.compile && compile.name == "compile" && compile.is_ok());
    assert_eq!((first.name.as_str(), first.out.text.as_deref()), ("first", Some("data\nhello\n")));
    assert_eq!((first.err.text.as_deref(), first.wall_ms, first.cpu_us), (Some("oops\n"), 5, 7));
    let body =
        |digest: &Option<String>| std::fs::read(bed.luxid.root.blob(digest.as_ref().unwrap())).unwrap();
    assert_eq!((second.out.bytes, &second.out.text), (5000, &None));
    assert_eq!(body(&second.out.digest), vec![b'x'; 5000]);
    assert_eq!((second.name.as_str(), body(&second.err.digest)), ("2", vec![0xff]), "no text: a body");
    assert_eq!((result.cpu_us, result.wall_ms, result.memory_peak_bytes), (1234, 15, 4321));
    assert_eq!(result.io_bytes, 99);
    assert_eq!((result.artifacts.len(), result.refused), (1, 1));
    assert_eq!((result.artifacts[0].path.as_str(), result.artifacts[0].bytes), ("who", 8));
    let archive = result.archive.unwrap();
    let path = bed.luxid.root.blob(&archive.digest);
    let listed = Command::new("tar").arg("-tf").arg(&path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "who\n");
    assert_eq!(std::fs::metadata(path).unwrap().len(), archive.bytes);
    // Its limits reached the node, and the lease is marked as opened.
    let state = bed.master.state();
    assert!(state.slots("py")["py-1"].opened);
    let guests = state.guests.lock().unwrap();
    assert_eq!(guests.vms[&(vm.slot, vm.generation)].limits.unwrap().memory_mib, 256);
    let unfinished = bed.luxid.root.blob_dir().join("tmp");
    assert_eq!(std::fs::read_dir(unfinished).unwrap().count(), 0, "nothing half written is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_ends_a_task_unless_it_keeps_going() {
    let mut bed = Bed::new().await;
    for (spec, state, why, ran) in [
        (
            json!({"compile": {"command": "exit 3"}, "execute": steps(&["true"]), "keep_going": true}),
            TaskState::CompileFailed,
            "compile: exit code 3",
            1,
        ),
        (
            json!({"execute": steps(&["true", "kill -9 $$", "true"])}),
            TaskState::RunFailed,
            "step 2: signal 9",
            2,
        ),
        (
            json!({"execute": steps(&["exit 4", "exit 5", "true"]), "keep_going": true}),
            TaskState::RunFailed,
            "step 1: exit code 4",
            3,
        ),
        (
            json!({"execute": [{"command": "sleep 60", "wall_s": 1, "name": "slow"}]}),
            TaskState::RunFailed,
            "step 1 (slow): wall limit",
            1,
        ),
        (
            json!({"execute": steps(&["head -c 3000 /dev/zero; exit 1"]), "limits": {"output_kib": 1}}),
            TaskState::RunFailed,
            "step 1: output limit",
            1,
        ),
    ] {
        bed.master.reset();
        let vm = bed.leased().await;
        let mut spec = spec;
        spec["pool"] = json!("py");
        let run = read(&bed.report(&op(&vm, spec)).await);
        assert_eq!((run.state, run.why.as_deref()), (state, Some(why)));
        assert_eq!(run.result.steps.len(), ran, "{why}");
        assert_eq!((run.result.archive, run.result.refused), (None, 0), "there is no out/");
        if why.contains("output") {
            let step = &run.result.steps[0];
            assert!(step.truncated && step.why == EndWhy::Output && step.out.bytes == 1024, "{step:?}");
        }
    }
}

/// A flipped byte on the master's disk: never the user's fault, however the archive reads with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_input_is_never_the_users_fault_and_is_mended_under_way() {
    let mut bed = Bed::new().await;
    let vm = bed.leased().await;
    let whole = archive(&[("a", "right")]);
    let input = store(&bed, &whole);
    let (root, digest) = (bed.luxid.root.clone(), input.digest.clone());
    let mut wrong = whole.clone();
    let at = wrong.windows(5).position(|bytes| bytes == b"right").unwrap();
    wrong[at] ^= 1;
    std::fs::write(root.blob(&digest), wrong).unwrap();
    // What luxid does as soon as another candidate gives it.
    let mend = tokio::spawn(async move {
        while !gantry_body::is_damaged(&root, &digest) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let new = root.blob(&digest).with_extension("new");
        std::fs::write(&new, whole).unwrap();
        std::fs::rename(new, root.blob(&digest)).unwrap();
    });
    let spec = json!({"pool": "py", "input": input, "execute": steps(&["cat a"])});
    let run = read(&bed.report(&op(&vm, spec)).await);
    mend.await.unwrap();
    assert_eq!((run.state, run.why), (TaskState::Success, None));
    assert_eq!(run.result.steps[0].out.text.as_deref(), Some("right"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_or_an_out_of_no_use_is_the_users() {
    let mut bed = Bed::new().await;
    for (code, text, class) in
        [(Code::BadRequest, "'../x' is not plain", "refused"), (Code::Busy, "full", "no-space")]
    {
        bed.master.reset();
        let vm = bed.leased().await;
        bed.master.state().guests.lock().unwrap().refuses_input = Some((code, text, class));
        let input = store(&bed, &archive(&[("a", "b")]));
        let spec = json!({"pool": "py", "input": input, "execute": steps(&["true"])});
        let run = read(&bed.report(&op(&vm, spec)).await);
        assert_eq!((run.state, run.why), (TaskState::RunFailed, Some(format!("input: {text}"))));
        assert!(run.result.steps.is_empty() && bed.starts().is_empty(), "nothing ran");
    }
    bed.master.reset();
    let vm = bed.leased().await;
    let run = read(&bed.report(&op(&vm, json!({"pool": "py", "execute": steps(&["ln -s / out"])}))).await);
    assert_eq!((run.state, run.result.archive, run.result.refused), (TaskState::Success, None, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_users_ends_the_job_in_error() {
    let mut bed = Bed::new().await;
    let plain = || json!({"pool": "py", "execute": steps(&["true"])});
    let vm = bed.leased().await;
    let guests = bed.master.state().guests.clone();
    guests.lock().unwrap().lose = true;
    let (class, text, _) = bed.fails(&op(&vm, plain())).await;
    assert_eq!(class, "OpExecError");
    assert!(text.contains("node node1") && text.contains("step 1 is gone without an end"), "{text}");
    bed.master.reset();
    let vm = bed.leased().await;
    let mut spec = plain();
    spec["input"] = json!({"digest": "0".repeat(64), "bytes": 5});
    assert!(bed.fails(&op(&vm, spec)).await.1.contains("is not in the body store"));
    bed.master.reset();
    let mut vm = bed.leased().await;
    vm.generation.0 += 1;
    let (_, text, _) = bed.fails(&op(&vm, plain())).await;
    assert!(text.contains("generation 2 is not the current one"), "{text}");
    assert!(bed.master.state().guests.lock().unwrap().vms.is_empty(), "the node heard nothing");
    bed.master.reset();
    let vm = bed.leased().await;
    bed.master.state().lose_vm(vm.slot);
    let (_, text, _) = bed.fails(&op(&vm, plain())).await;
    assert!(text.contains("is lost, not live"), "{text}");
    // The VM goes after its last step: that it has no out/ is not the user's.
    bed.master.reset();
    let vm = bed.leased().await;
    let (gate, [begun, go]) = gates();
    let command = format!("echo >{begun}; read line <{go}");
    let state = bed.master.restart();
    let watcher = tokio::task::spawn_blocking(move || {
        std::fs::read(begun).unwrap();
        state.lose(vm.slot);
        std::fs::write(go, "\n").unwrap();
        drop(gate);
    });
    let (_, text, _) = bed.fails(&op(&vm, json!({"pool": "py", "execute": steps(&[&command])}))).await;
    watcher.await.unwrap();
    assert!(text.ends_with("the VM is gone"), "{text}");
    let (_, _, code) = bed.fails(&json!({"OP_ID": "OP_TASK_RUN", "task": 1, "attempt": 1})).await;
    assert_eq!(code, "wrong_input");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_memory_ended_is_the_users_and_ends_the_steps() {
    let mut bed = Bed::new().await;
    for out in ["mkdir -p out; echo kept > out/kept", "rm -rf out"] {
        bed.master.reset();
        let vm = bed.leased().await;
        let (gate, [begun, go]) = gates();
        bed.master.state().guests.lock().unwrap().memory = true;
        let state = bed.master.restart();
        let command = format!("{out}; echo >{begun}; read line <{go}; exit 1");
        let watcher = tokio::task::spawn_blocking(move || {
            std::fs::read(begun).unwrap();
            state.lose(vm.slot);
            std::fs::write(go, "\n").unwrap();
            drop(gate);
        });
        let spec = json!({"pool": "py", "execute": steps(&[&command, "true"]), "keep_going": true});
        let run = read(&bed.report(&op(&vm, spec)).await);
        watcher.await.unwrap();
        assert_eq!((run.state, run.result.steps.len()), (TaskState::RunFailed, 1), "{out}");
        assert_eq!(run.why.as_deref(), Some("step 1: memory limit"));
        assert_eq!(run.result.artifacts.len(), usize::from(out.starts_with("mkdir")), "{out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_goes_on_where_a_stream_broke() {
    let mut bed = Bed::new().await;
    let vm = bed.leased().await;
    let guests = bed.master.state().guests.clone();
    guests.lock().unwrap().breaks = 6;
    let lines: String = (1..=3000).map(|n| format!("{n}\n")).collect();
    let spec =
        json!({"pool": "py", "execute": steps(&["mkdir out; seq 3000; seq 3000 >&2; seq 3000 >out/seq"])});
    let run = read(&bed.report(&op(&vm, spec)).await);
    assert_eq!(guests.lock().unwrap().breaks, 0, "it was tried");
    let step = &run.result.steps[0];
    for digest in [&step.out.digest, &step.err.digest] {
        let stored = std::fs::read(bed.luxid.root.blob(digest.as_ref().unwrap())).unwrap();
        assert_eq!(String::from_utf8(stored).unwrap(), lines);
    }
    assert_eq!(run.result.artifacts[0].bytes, lines.len() as u64);
    assert_eq!(bed.starts(), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_noded_that_restarts_ends_no_attempt() {
    let mut bed = Bed::new().await;
    let vm = bed.leased().await;
    let (gate, [begun, go]) = gates();
    let command = format!("echo before; echo >{begun}; read line <{go}; echo after");
    let operation = op(&vm, json!({"pool": "py", "execute": steps(&[&command])}));
    let restart = bed.master.restart();
    let watcher = tokio::spawn(async move {
        tokio::task::spawn_blocking(move || std::fs::read(begun).unwrap()).await.unwrap();
        restart.nodes().await;
        tokio::task::spawn_blocking(move || std::fs::write(go, "\n").unwrap()).await.unwrap();
        drop(gate);
    });
    let run = read(&bed.report(&operation).await);
    watcher.await.unwrap();
    assert_eq!(run.result.steps[0].out.text.as_deref(), Some("before\nafter\n"));
    assert_eq!(bed.starts(), [1]);
}

/// Also when the answer to its start did not come yet.
#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_the_running_command() {
    let mut bed = Bed::new().await;
    for mute in [false, true] {
        bed.master.reset();
        let vm = bed.leased().await;
        bed.master.state().guests.lock().unwrap().mute = mute;
        let (_gate, [begun, _]) = gates();
        let spec = json!({"pool": "py", "execute": steps(&[&format!("echo >{begun}; sleep 600")])});
        // The command begins soon after the stage is told.
        let begun = |report: &Report| {
            let stage = report.stage == Some(TaskState::Running);
            if stage {
                std::fs::read(&begun).unwrap();
            }
            stage
        };
        let (owner, report) = bed.run_until(&op(&vm, spec), None, begun).await;
        let report = report.unwrap();
        assert_eq!((report.ops[0].status, log(&report)), (Status::Canceled, vec![]), "mute: {mute}");
        assert_eq!(bed.master.state().steps.last(), Some(&"cancel"), "mute: {mute}");
        bed.master.state().owner_gone(owner);
    }
}

/// Killed anywhere, the same attempt again (its job never began, for luxid) attaches: nothing runs twice. And an order
/// of the dead that comes late does no harm.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_attempt_runs_nothing_twice() {
    let mut bed = Bed::new().await;
    for step in 0..STEPS_MAX {
        for side in [Side::Before, Side::After] {
            bed.master.reset();
            let vm = bed.leased().await;
            let input = store(&bed, &archive(&[("n", "0")]));
            // Each step leaves a mark: twice would show.
            let spec = json!({"pool": "py", "input": input, "compile": {"command": "echo c >>marks"},
                "execute": steps(&["echo 1 >>marks", "echo 2 >>marks; mkdir out; cp marks out/"])});
            let attempt = op(&vm, spec);
            let (owner, report) = bed.run(&attempt, Some((step, side))).await;
            let at = format!("killed {side:?} step {step}");
            if report.is_some() {
                assert_eq!(bed.master.state().steps, ["open", "put", "exec", "exec", "exec"]);
                return;
            }
            let late = bed.master.state().late.take();
            bed.master.state().owner_gone(owner);
            let run = read(&bed.report(&attempt).await);
            assert_eq!((run.state, run.result.artifacts[0].bytes), (TaskState::Success, 6), "{at}");
            assert_eq!(bed.starts(), [1, 1, 1], "{at}");
            let slot = bed.master.state().slots("py")["py-1"].clone();
            assert_eq!((slot.state, slot.opened), (SlotState::Leased, true), "{at}");
            if let Some((slot, verb)) = late {
                assert!(matches!(verb, Verb::Open { .. }), "{at}: {verb:?}");
                let _ = bed.master.state().node(slot, &verb);
            }
        }
    }
    panic!("an attempt takes more than {STEPS_MAX} steps")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_of_out_is_told() {
    let mut bed = Bed::new().await;
    let vm = bed.leased().await;
    let many = "mkdir out; i=0; while [ $i -lt 1010 ]; do : >out/$i; i=$((i+1)); done";
    let report = bed.report(&op(&vm, json!({"pool": "py", "execute": steps(&[many])}))).await;
    let run = read(&report);
    assert_eq!((run.result.artifacts.len(), run.result.unnamed, run.result.refused), (1000, 10, 0));
    assert!(!log(&report).iter().any(|text| text.contains("entries of out/")), "{:?}", log(&report));
    let mut bed = Bed::new().await;
    let vm = bed.leased().await;
    let link = "mkdir out; ln -s /etc/passwd out/link; echo one > out/one";
    let report = bed.report(&op(&vm, json!({"pool": "py", "execute": steps(&[link])}))).await;
    let run = read(&report);
    assert_eq!((run.result.artifacts.len(), run.result.unnamed, run.result.refused), (1, 0, 1));
    assert!(log(&report).iter().any(|text| text.starts_with("1 entries of out/")), "{:?}", log(&report));
}
