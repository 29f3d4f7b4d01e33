//! vmd.

use crate::sheet::Sheet;
use gantry_proto::noded::{OpenLimits, OutputPiece};
use gantry_proto::vmd::{self, CommandName, Why};

fn name() -> vmd::VmName {
    vmd::VmName { vm: "gantry-1".to_owned() }
}

fn command() -> CommandName {
    CommandName { vm: "gantry-1".to_owned(), command: "c.1".to_owned() }
}

fn limits() -> vmd::VmLimits {
    vmd::VmLimits { memory_mib: 256, cpu_percent: 150, pids: 64 }
}

fn create() -> vmd::CreateRequest {
    vmd::CreateRequest {
        vm: "gantry-1".to_owned(),
        label: "notes".to_owned(),
        cgroup: "gantry/node/gantry-1".to_owned(),
        config: "{}".to_owned(),
        root: "/image".to_owned(),
        uid_base: 1_000_000,
        scratch_mib: 64,
        limits: limits(),
        ready_ms: 10_000,
    }
}

fn exec() -> vmd::ExecRequest {
    vmd::ExecRequest {
        vm: "gantry-1".to_owned(),
        command: "c.1".to_owned(),
        argv: vec!["sh".to_owned()],
        env: vec![("A".to_owned(), "b".to_owned())],
        cwd: "/".to_owned(),
        stdin: b"in".to_vec(),
        output_bytes_max: 1 << 20,
        wall_ms: 60_000,
        cpu_ms: 50_000,
    }
}

fn ends() -> Vec<vmd::CommandEnd> {
    use Why::{Cancelled, Cpu, Disk, Exit, Lost, Memory, Output, Pids, Signal, Wall};
    [Exit(1), Signal(9), Cancelled, Output, Wall, Cpu, Memory, Disk, Pids, Lost]
        .map(|why| vmd::CommandEnd {
            why,
            wall_ms: 7,
            cpu_us: 8,
            memory_peak_bytes: 9,
            truncated: why == Output,
        })
        .to_vec()
}

fn facts() -> Vec<vmd::VmFacts> {
    use vmd::VmState::{Created, Lost, Running, Starting, Stopped};
    [Created, Starting, Running, Stopped, Lost]
        .map(|state| vmd::VmFacts {
            vm: "gantry-1".to_owned(),
            label: "notes".to_owned(),
            state,
            uid_base: 1_000_000,
            scratch_mib: 64,
            limits: limits(),
            why: String::new(),
        })
        .to_vec()
}

fn usage() -> vmd::VmUsage {
    vmd::VmUsage {
        cpu_us: 1,
        memory_bytes: 2,
        memory_peak_bytes: 3,
        oom_kills: 4,
        pids: 5,
        forks_refused: 6,
        scratch_bytes: 7,
        scratch_free_bytes: 8,
        scratch_free_inodes: 9,
        io_bytes: 10,
    }
}

#[test]
fn vmd_keeps_its_bytes() {
    let info = vmd::InfoReply {
        runtime: "/usr/bin/crun".to_owned(),
        version: "crun version 1.8.1".to_owned(),
        cgroups: "v1".to_owned(),
    };
    let reads = [vmd::Stream::Out, vmd::Stream::Err].map(|stream| vmd::ReadRequest {
        of: command(),
        stream,
        offset: 300,
        bytes_max: 65_536,
    });
    let read = vmd::ReadReply { bytes: b"out".to_vec(), last: true, truncated: false };
    let signal = vmd::SignalRequest { to: command(), signal: 15 };
    let stop = vmd::StopRequest { vm: "gantry-1".to_owned(), grace_ms: 500 };
    let limit = vmd::LimitRequest { vm: "gantry-1".to_owned(), limits: limits() };
    let known = [true, false].map(|known| vmd::ExecReply { known });
    let mut sheet = Sheet::new("vmd");
    sheet.verb::<vmd::Info>(&[()], &[], &[info]);
    sheet.verb::<vmd::Create>(&[create()], &[], &[()]);
    sheet.verb::<vmd::Start>(&[name()], &[], &[()]);
    sheet.verb::<vmd::Exec>(&[exec()], &[], &known);
    sheet.verb::<vmd::Read>(&reads, &[], &[read]);
    sheet.verb::<vmd::Wait>(&[command()], &[], &ends());
    sheet.verb::<vmd::Signal>(&[signal], &[], &[()]);
    sheet.verb::<vmd::Cancel>(&[command()], &[], &[()]);
    sheet.verb::<vmd::Stop>(&[stop], &[], &[()]);
    sheet.verb::<vmd::Remove>(&[name()], &[], &[()]);
    sheet.verb::<vmd::List>(&[()], &[], &[facts()]);
    sheet.verb::<vmd::Usage>(&[name()], &[], &[usage()]);
    sheet.verb::<vmd::Limit>(&[limit], &[], &[()]);
    sheet.verb::<vmd::Show>(&[name()], &[], &[facts().remove(0)]);
    let follow = vmd::FollowRequest { of: command(), out: Some(3), err: None };
    let piece = OutputPiece { stream: vmd::Stream::Err, offset: 3, bytes: b"out".to_vec() };
    sheet.verb::<vmd::Deaths>(&[()], &[vmd::Death::Begun, vmd::Death::Of(name())], &[()]);
    sheet.verb::<vmd::Follow>(&[follow], &[piece], &ends()[..1]);
    sheet.verb::<vmd::Ping>(&[name()], &[], &[()]);
    sheet.verb::<vmd::EndWork>(&[name()], &[], &[()]);
    let room = vmd::RoomRequest { vm: "gantry-1".to_owned(), scratch_mib: 5 };
    sheet.verb::<vmd::Room>(&[room], &[], &[()]);
    let sweep = vmd::SweepRequest { cgroup: "gantry/node".to_owned() };
    let failed = vec![("gantry-3".to_owned(), "why".to_owned())];
    let swept = vmd::SweepReply { removed: vec!["gantry-2".to_owned()], failed };
    sheet.verb::<vmd::Sweep>(&[sweep], &[], &[swept]);
    let some = OpenLimits { memory_mib: 64, pids: 8, disk_mib: 4 };
    let confines = [Some(some), None].map(|limits| vmd::ConfineRequest { vm: "gantry-1".to_owned(), limits });
    sheet.verb::<vmd::Confine>(&confines, &[], &[()]);
    sheet.covers(vmd::VERBS);
    sheet.check();
}

#[test]
fn names_are_safe_as_file_names() {
    for name in ["a", "gantry-1a2b.x_3", &"x".repeat(vmd::NAME_BYTES_MAX)] {
        assert!(vmd::is_name(name), "{name}");
    }
    for name in ["", ".", "..", ".x", "a/b", "a b", "a\n", "ä", &"x".repeat(vmd::NAME_BYTES_MAX + 1)] {
        assert!(!vmd::is_name(name), "{name}");
    }
}
