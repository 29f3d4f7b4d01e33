//! The program as a process, with this test in vmd's place. Needs root, as commands run as another user; here it is
//! not PID 1, so what the kernel does at its end is tested with whole VMs, in noded's driver.

use gantry_init::link::{pair, receive, send};
use gantry_init::wire::{Exec, FDS_MAX, FromInit, How, ToInit};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};

struct Init {
    child: Child,
    socket: OwnedFd,
}

impl Init {
    fn start() -> Self {
        let (socket, its) = pair().expect("a pair");
        let child = Command::new(env!("CARGO_BIN_EXE_gantry-init")).stdin(its).spawn().expect("starts");
        let mut init = Self { child, socket };
        assert_eq!(init.hear(), Some(FromInit::Ready));
        init
    }

    /// None = its end is closed.
    fn hear(&mut self) -> Option<FromInit> {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut fds, None).expect("polled");
        let packet = receive(&self.socket).expect("a packet");
        assert!(packet.bytes.is_empty() || packet.pid == i32::try_from(self.child.id()).ok());
        (!packet.bytes.is_empty()).then(|| FromInit::decode(&packet.bytes).expect("a message"))
    }

    fn exec(&mut self, number: u32, script: &str) -> std::io::PipeReader {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let null = std::fs::File::open("/dev/null").expect("opens");
        let exec = Exec {
            number,
            uid: 1000,
            files_max: 1 << 40,
            file_bytes_max: 1 << 20,
            cwd: "/".into(),
            argv: vec!["sh".into(), "-c".into(), script.into()],
            env: vec!["PATH=/usr/bin:/bin".into(), "WORD=x=y".into()],
        };
        let bytes = ToInit::Exec(exec).encode().expect("short");
        send(&self.socket, &bytes, &[null.as_fd(), writer.as_fd(), writer.as_fd()]).expect("sent");
        reader
    }

    fn run(&mut self, script: &str) -> (String, How) {
        let mut reader = self.exec(1, script);
        let Some(FromInit::Ended { number: 1, how }) = self.hear() else { panic!("not ended") };
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        (text, how)
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn commands_run_as_an_ordinary_user_without_capabilities() {
    let mut init = Init::start();
    let script = "id -u; id -G; echo $WORD $HOME; pwd; cat /proc/self/oom_score_adj; ulimit -c; ulimit -f; \
                  grep -E 'Cap(Prm|Eff|Bnd)|SigBlk' /proc/self/status; cut -d' ' -f5,6 /proc/self/stat; readlink /proc/self/fd/0";
    let (text, how) = init.run(script);
    assert_eq!(how, How::Exit(0), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(&lines[..6], ["1000", "1000", "x=y", "/", "1000", "0"]);
    assert!(lines[6].parse::<u64>().expect("a number") <= 2048, "blocks of 512 or 1024 bytes: {text}");
    assert!(lines[7..11].iter().all(|line| line.ends_with("\t0000000000000000")), "{text}");
    assert_eq!(lines[12], "/dev/null");
}

#[test]
fn ends_are_told() {
    let mut init = Init::start();
    assert_eq!(init.run("exit 7").1, How::Exit(7));
    assert_eq!(init.run("kill -11 $$").1, How::Signal(11));
    // What it leaves in its process group does not outlive it: the output ends.
    assert_eq!(init.run("sleep 1000 & echo x"), ("x\n".to_owned(), How::Exit(0)));
    let mut reader = init.exec(5, "echo begun; exec sleep 1000");
    reader.read_exact(&mut [0; 6]).expect("it has begun");
    let signal = ToInit::Signal { number: 5, signal: 15 }.encode().expect("short");
    send(&init.socket, &signal, &[]).expect("sent");
    assert_eq!(init.hear(), Some(FromInit::Ended { number: 5, how: How::Signal(15) }));
}

#[test]
fn it_ends_with_its_input() {
    let mut init = Init::start();
    let (other, _) = pair().expect("a pair");
    drop(std::mem::replace(&mut init.socket, other));
    assert!(init.child.wait().expect("waited").success());
}

#[test]
fn it_goes_through_all_doors_or_ends() {
    let enter = ToInit::Enter.encode().expect("short");
    let mut init = Init::start();
    let doors: Vec<_> = (0..FDS_MAX).map(|_| tempfile::NamedTempFile::new().expect("a file")).collect();
    let fds: Vec<_> = doors.iter().map(|door| door.as_file().as_fd()).collect();
    send(&init.socket, &enter, &fds).expect("sent");
    assert_eq!(init.hear(), Some(FromInit::Entered));
    assert!(doors.iter().all(|door| std::fs::read_to_string(door).expect("read") == "0"));
    let shut = std::fs::File::open("/dev/null").expect("opens");
    send(&init.socket, &enter, &[fds[0], shut.as_fd()]).expect("sent");
    assert_eq!(init.hear(), None, "said nothing, and closed");
    assert!(!init.child.wait().expect("waited").success());
}
