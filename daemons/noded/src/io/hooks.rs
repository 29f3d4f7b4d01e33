//! Runs hooks: one after the other, each a process group of its own, without a terminal, with a time limit; what they say
//! is read while they run and the last of it kept. A future that is dropped kills the hook that runs.

use crate::core::hooks::{ALL_MS_MAX, FILES_MAX, HOOK_MS_MAX, OUTPUT_BYTES_MAX, is_hook_name, said};
use gantry_proto::effects::{HookEnd, HookStatus};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid, getpgid, getsid};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::time::{Instant, timeout, timeout_at};

/// How long what a hook said is read after its end: something it left behind may hold the pipe open for ever.
const REST: Duration = Duration::from_millis(200);

/// One file of a directory of hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Where it lies.
    pub path: PathBuf,
    /// `DIRECTORY/FILE`.
    pub name: String,
    /// Whether it is one: by its name, a file, executable.
    pub runs: bool,
}

/// The files of a directory, in byte order; none when there is no such directory.
///
/// # Errors
/// When it can't be read, or has more than [`FILES_MAX`].
pub fn list(dir: &Path) -> io::Result<Vec<Hook>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let parent = dir.file_name().unwrap_or_default().to_string_lossy();
    let mut names = Vec::new();
    for entry in entries.take(FILES_MAX + 1) {
        names.push(entry?.file_name());
    }
    if names.len() > FILES_MAX {
        return Err(io::Error::other(format!("it has more than {FILES_MAX} files")));
    }
    names.sort();
    let hook = |name: std::ffi::OsString| {
        let path = dir.join(&name);
        let executable = std::fs::metadata(&path)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        let runs = executable && name.to_str().is_some_and(is_hook_name);
        Hook { path, name: format!("{parent}/{}", name.to_string_lossy()), runs }
    };
    Ok(names.into_iter().map(hook).collect())
}

/// Runs them in their order, whatever becomes of each; all together within [`ALL_MS_MAX`].
pub async fn run(hooks: &[Hook], env: &[(String, String)]) -> Vec<HookEnd> {
    run_until(hooks, env, Instant::now() + Duration::from_millis(ALL_MS_MAX)).await
}

async fn run_until(hooks: &[Hook], env: &[(String, String)], until: Instant) -> Vec<HookEnd> {
    let mut ends = Vec::new();
    for hook in hooks {
        let end = |status, output: String| HookEnd { script: hook.name.clone(), status, output };
        if !hook.runs {
            ends.push(end(HookStatus::Skipped, String::new()));
            continue;
        }
        if Instant::now() >= until {
            ends.push(end(HookStatus::Failed, "(not run: the time of all hooks was over)".to_owned()));
            continue;
        }
        let limit = until.min(Instant::now() + Duration::from_millis(HOOK_MS_MAX));
        let (status, output) = match one(&hook.path, env, limit).await {
            Ok((Some(status), output)) if status.success() => (HookStatus::Succeeded, output),
            Ok((Some(status), output)) => (HookStatus::Failed, with(output, &status.to_string())),
            Ok((None, output)) => (HookStatus::Failed, with(output, "killed: it did not end in time")),
            Err(why) => (HookStatus::Failed, format!("can't be run: {why}")),
        };
        ends.push(end(status, output));
    }
    ends
}

fn with(output: String, why: &str) -> String {
    if output.is_empty() { format!("({why})") } else { format!("{output}\n({why})") }
}

/// The process group of a hook: killed unless the hook has ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }
}

/// Runs one until `limit`; no status when it was killed then.
async fn one(
    path: &Path,
    env: &[(String, String)],
    limit: Instant,
) -> io::Result<(Option<ExitStatus>, String)> {
    let (reader, writer) = io::pipe()?;
    let mut output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let mut command = Command::new(path);
    command.env_clear().envs(env.iter().map(|(name, value)| (name, value)));
    command.current_dir("/").stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    drop(command); // With its ends of the pipe.
    let mut group = Group(child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw));
    let mut kept = Kept::default();
    let ended = timeout_at(limit, async {
        tokio::select! {
            biased;
            status = child.wait() => return status,
            () = kept.read(&mut output) => {}
        }
        child.wait().await
    });
    let status = match ended.await {
        Ok(status) => {
            group.0 = None;
            Some(status?)
        }
        Err(_) => {
            drop(group);
            // It may have left its group, or be beyond killing for now: nobody waits for it.
            let _ = child.start_kill();
            let _ = timeout(REST, child.wait()).await;
            None
        }
    };
    let _ = timeout(REST, kept.read(&mut output)).await;
    Ok((status, kept.text()))
}

/// Kills the hooks that a noded of this state left behind when it died: nobody limits their time any more, and their job asks
/// for them again. What a hook has put into a session of its own is left alone. How many there were.
///
/// # Errors
/// When `/proc` can't be read.
pub fn end_left_behind(data_dir: &str) -> io::Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let pid = Pid::from_raw(pid);
        if leads_a_hook(pid, data_dir) && killpg(pid, Signal::SIGKILL).is_ok() {
            count += 1;
        }
    }
    Ok(count)
}

/// Whether a process is what [`one`] started, by its group and variables. One that has ended since is none.
fn leads_a_hook(pid: Pid, data_dir: &str) -> bool {
    let leads = getpgid(Some(pid)) == Ok(pid) && getsid(Some(pid)).is_ok_and(|session| session != pid);
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let ours = || std::fs::metadata(&dir).is_ok_and(|meta| meta.uid() == geteuid().as_raw());
    if !leads || !ours() {
        return false;
    }
    let Ok(environ) = std::fs::read(dir.join("environ")) else { return false };
    let mark = format!("GANETI_DATA_DIR={data_dir}");
    let mut variables = environ.split(|byte| *byte == 0);
    variables.clone().any(|variable| variable == mark.as_bytes())
        && variables.any(|variable| variable.starts_with(b"GANETI_HOOKS_PATH="))
}

/// The last of what a hook said.
#[derive(Default)]
struct Kept {
    bytes: VecDeque<u8>,
    left_out: u64,
}

impl Kept {
    /// Reads to the end. What was read stays when this is dropped.
    async fn read(&mut self, from: &mut pipe::Receiver) {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            self.bytes.extend(&piece[..count]);
            let over = self.bytes.len().saturating_sub(OUTPUT_BYTES_MAX);
            self.bytes.drain(..over);
            self.left_out += over as u64;
        }
    }

    fn text(&mut self) -> String {
        said(self.bytes.make_contiguous(), self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};

    fn put(dir: &Path, name: &str, text: &str, mode: u32) {
        let path = dir.join(name);
        write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        set_permissions(&path, Permissions::from_mode(mode)).expect("set");
    }

    fn dir(hooks: &[(&str, &str, u32)]) -> (tempfile::TempDir, PathBuf) {
        let top = tempfile::tempdir().expect("dir");
        let dir = top.path().join("x-pre.d");
        std::fs::create_dir(&dir).expect("made");
        hooks.iter().for_each(|(name, text, mode)| put(&dir, name, text, *mode));
        (top, dir)
    }

    fn env() -> Vec<(String, String)> {
        vec![("PATH".to_owned(), "/bin:/usr/bin".to_owned()), ("GANETI_X".to_owned(), "a b".to_owned())]
    }

    #[tokio::test]
    async fn hooks_run_in_order_and_others_are_skipped() {
        let (_top, dir) = dir(&[
            ("20-b", "echo \"$GANETI_X\"; echo two >&2; tty; exit 3", 0o755),
            ("10-a", "pwd; env | grep -c HOME", 0o755),
            ("15-no", "echo never", 0o644),
            ("a.sh", "echo never", 0o755),
        ]);
        std::fs::create_dir(dir.join("sub")).expect("made");
        let ends = run(&list(&dir).expect("listed"), &env()).await;
        let shown: Vec<_> = ends.iter().map(|end| (end.script.as_str(), end.status)).collect();
        let wanted = [
            ("x-pre.d/10-a", HookStatus::Failed), // grep finds nothing: the environment was cleared.
            ("x-pre.d/15-no", HookStatus::Skipped),
            ("x-pre.d/20-b", HookStatus::Failed),
            ("x-pre.d/a.sh", HookStatus::Skipped),
            ("x-pre.d/sub", HookStatus::Skipped),
        ];
        assert_eq!(shown, wanted);
        assert_eq!(ends[0].output, "/\n0\n(exit status: 1)");
        assert_eq!(ends[2].output, "a b\ntwo\nnot a tty\n(exit status: 3)");
        assert_eq!(list(&dir.join("none")).expect("no directory, no hooks"), []);
    }

    #[tokio::test]
    async fn much_output_is_read_and_the_last_is_kept() {
        let (_top, dir) =
            dir(&[("a", "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done", 0o755)]);
        let ends = run(&list(&dir).expect("listed"), &env()).await;
        assert_eq!(ends[0].status, HookStatus::Succeeded);
        assert!(ends[0].output.ends_with("line 29999"), "{}", ends[0].output);
        assert!(ends[0].output.starts_with('[') && ends[0].output.len() < OUTPUT_BYTES_MAX + 64);
    }

    /// A hook that does not end is killed with all it has started.
    #[tokio::test]
    async fn late_hooks_are_killed_and_so_are_those_nobody_waits_for() {
        let (top, dir) = dir(&[("a", "echo begun; sleep 1000 & echo $! > $GANETI_PID; wait", 0o755)]);
        let pid_file = top.path().join("pid");
        let mut env = env();
        env.push(("GANETI_PID".to_owned(), pid_file.display().to_string()));
        let child = || -> Option<u32> { std::fs::read_to_string(&pid_file).ok()?.trim().parse().ok() };
        let gone = async |pid: u32| {
            let stat = format!("/proc/{pid}/stat");
            while std::fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let path = dir.join("a");
        let limit = Instant::now() + Duration::from_millis(500);
        let (status, output) = one(&path, &env, limit).await.expect("run");
        assert_eq!((status, output.as_str()), (None, "begun"));
        gone(child().expect("it got so far")).await;
        std::fs::remove_file(&pid_file).expect("removed");
        let running = one(&path, &env, Instant::now() + Duration::from_secs(1000));
        let begun = async {
            while child().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = running => panic!("it ended"),
            () = begun => {}
        }
        gone(child().expect("it got so far")).await;
    }

    #[tokio::test]
    async fn what_is_not_reached_in_time_is_not_begun() {
        let (top, dir) = dir(&[("a", "sleep 1000", 0o755), ("b", "touch $GANETI_RAN", 0o755)]);
        let mark = top.path().join("ran");
        let mut env = env();
        env.push(("GANETI_RAN".to_owned(), mark.display().to_string()));
        let until = Instant::now() + Duration::from_millis(300);
        let ends = run_until(&list(&dir).expect("listed"), &env, until).await;
        assert!(ends.iter().all(|end| end.status == HookStatus::Failed), "{ends:?}");
        assert!(ends[0].output.contains("did not end in time"), "{ends:?}");
        assert!(ends[1].output.contains("not run") && !mark.exists(), "{ends:?}");
    }

    /// Its own group can't be killed: it is in ours.
    #[tokio::test]
    async fn a_hook_that_leaves_its_group_is_killed_in_time() {
        let (_top, dir) = dir(&[("a", "exec perl -e 'setpgrp(0, getpgrp(getppid())); sleep 1000'", 0o755)]);
        let begun = Instant::now();
        let limit = begun + Duration::from_millis(500);
        let (status, _) = one(&dir.join("a"), &env(), limit).await.expect("run");
        assert_eq!(status, None);
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[tokio::test]
    async fn what_a_dead_noded_left_is_ended_and_nothing_else() {
        let (top, dir) = dir(&[("a", "echo begun > $GANETI_RAN; sleep 1000", 0o755)]);
        let (mark, data_dir) = (top.path().join("ran"), top.path().join("lib").display().to_string());
        let mut env = env();
        env.push(("GANETI_RAN".to_owned(), mark.display().to_string()));
        env.push(("GANETI_DATA_DIR".to_owned(), data_dir.clone()));
        env.push(("GANETI_HOOKS_PATH".to_owned(), "x".to_owned()));
        let path = dir.join("a");
        let running = one(&path, &env, Instant::now() + Duration::from_secs(1000));
        let ending = async {
            while !mark.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(end_left_behind("/elsewhere").expect("looked"), 0, "another state's");
            end_left_behind(&data_dir).expect("looked")
        };
        let (ended, count) = tokio::join!(running, ending);
        assert_eq!(count, 1);
        let (status, _) = ended.expect("run");
        assert_eq!(status.and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status)), Some(9));
    }

    #[tokio::test]
    async fn what_a_hook_leaves_behind_holds_nobody_up() {
        let (_top, dir) = dir(&[("a", "sleep 30 & echo $!", 0o755)]);
        let begun = Instant::now();
        let ends = run(&list(&dir).expect("listed"), &env()).await;
        assert_eq!(ends[0].status, HookStatus::Succeeded);
        assert!(begun.elapsed() < Duration::from_secs(20));
        let pid: i32 = ends[0].output.parse().expect("a pid");
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a daemon of the hook's lives on");
    }

    #[tokio::test]
    async fn what_can_not_be_run_has_failed() {
        let (_top, dir) = dir(&[]);
        write(dir.join("a"), "#!/no/such/interpreter\n").expect("written");
        set_permissions(dir.join("a"), Permissions::from_mode(0o755)).expect("set");
        let ends = run(&list(&dir).expect("listed"), &env()).await;
        assert_eq!(ends[0].status, HookStatus::Failed);
        assert!(ends[0].output.contains("can't be run"), "{}", ends[0].output);
    }
}
