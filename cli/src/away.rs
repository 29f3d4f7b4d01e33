//! Why the master's daemons do not answer, and what to do: what boot says of them, and the last words in their logs.

use crate::error::CliError;
use crate::local::boot;
use gantry_model::root::Root;
use gantry_proto::boot::{DaemonState, DaemonStatus, Status};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::time::Duration;

/// How long boot may take to say how the daemons stand.
const BOOT_ANSWER: Duration = Duration::from_secs(5);
/// What a client needs, in the order in which one needs the other.
const NEEDED: [&str; 2] = ["wconfd", "luxid"];
/// Failed starts after which a daemon is not waited for any more.
const STARTS_MIN: u64 = 3;
/// So much of a log's end is looked through.
const LOG_BYTES_MAX: u64 = 64 << 10;
/// What `gantry_rt::daemon` writes when a daemon gives up, before its reason.
const LAST_WORDS: &str = "daemon failed error=";

/// "luxid does not answer", with what to do.
pub async fn luxid_away(root: &Root, error: &io::Error) -> CliError {
    let all = statuses(root).await;
    match all.iter().find(|daemon| daemon.name == "luxid") {
        Some(luxid) if luxid.state == DaemonState::Stopped => return stopped(root),
        Some(luxid) => return does_not_stay_up(root, culprit(&all).unwrap_or(luxid)),
        None => {}
    }
    CliError::plain(format!(
        "Cannot communicate with the master daemon.\nIs the process running and listening for connections?\n\
         ({}: {error})\nStart the node's daemons with \"gantry-boot --root {} --daemonize\"; the logs are in {}.",
        root.socket("luxi.sock").display(),
        root.path().display(),
        root.log().display()
    ))
}

/// That luxid was stopped on purpose, with what to do; none when it was not, or boot can't say.
pub async fn luxid_stopped(root: &Root) -> Option<CliError> {
    let luxid = statuses(root).await.into_iter().find(|daemon| daemon.name == "luxid")?;
    (luxid.state == DaemonState::Stopped).then(|| stopped(root))
}

/// That waiting for luxid is in vain, with what to do: a daemon that it takes gives up again and again.
pub async fn luxid_in_vain(root: &Root) -> Option<CliError> {
    let all = statuses(root).await;
    let culprit = culprit(&all).filter(|daemon| daemon.starts >= STARTS_MIN)?;
    Some(does_not_stay_up(root, culprit))
}

/// The daemon that gave up by itself; one that was killed is waited for.
fn culprit(all: &[DaemonStatus]) -> Option<&DaemonStatus> {
    let named = |name: &&str| all.iter().find(|daemon| daemon.name == **name);
    let gave_up = |daemon: &&DaemonStatus| daemon.pid.is_none() && daemon.why.contains("exit status");
    NEEDED.iter().filter_map(named).find(gave_up)
}

fn stopped(root: &Root) -> CliError {
    CliError::plain(format!(
        "Cannot communicate with the master daemon: luxid was stopped.\n\
         Start this node's daemons with \"gantry daemon start --root {}\".",
        root.path().display()
    ))
}

fn does_not_stay_up(root: &Root, daemon: &DaemonStatus) -> CliError {
    let (name, log) = (&daemon.name, root.log().join(format!("{}.log", daemon.name)));
    let said = last_words(&log).filter(|_| daemon.state != DaemonState::Ready);
    let why = if daemon.why.is_empty() { "no reason known" } else { &daemon.why };
    let mut text = format!(
        "Cannot communicate with the master daemon: {name} does not stay up ({why}; started {} times by boot).\n",
        daemon.starts
    );
    match &said {
        Some(said) => text.push_str(&format!("It says: {said}\n")),
        None => text.push_str("The last lines of its log say why. "),
    }
    text.push_str(&format!("Boot starts it again until it lives; its log is {}.", log.display()));
    if said.is_some_and(|said| said.contains("damaged") || said.contains("is missing")) {
        text.push_str(
            "\nThis node's copies are damaged or gone. Let another candidate take over: run \"gnt-cluster master-failover\" there; then \
             have this node fed anew with \"gnt-node modify -C no\" and \"-C yes\". Where no other candidate is left, go back to a \
             backup: \"gnt-cluster restore DIR\" here.",
        );
    }
    CliError::plain(text)
}

/// Why a daemon gave up last, from its log.
fn last_words(log: &std::path::Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let (_, words) = text.lines().rev().find_map(|line| line.split_once(LAST_WORDS))?;
    let words = words.strip_prefix('"').and_then(|words| words.strip_suffix('"')).unwrap_or(words);
    Some(crate::output::text::safe(words))
}

/// What boot says of this node's daemons; nothing when no boot answers.
async fn statuses(root: &Root) -> Vec<DaemonStatus> {
    let Ok(Some(boot)) = boot(root).await else { return Vec::new() };
    boot.call::<Status>(&(), BOOT_ANSWER).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(name: &str, pid: Option<u32>, why: &str) -> DaemonStatus {
        let state = DaemonState::Starting;
        DaemonStatus { name: name.into(), state, held: false, pid, starts: 4, why: why.into() }
    }

    #[test]
    fn the_first_that_gave_up_is_the_culprit() {
        let waits = daemon("luxid", None, "waits until wconfd is ready");
        let gave_up = daemon("wconfd", None, "ended with exit status 1");
        assert_eq!(culprit(&[waits.clone(), gave_up]).map(|d| d.name.as_str()), Some("wconfd"));
        assert!(culprit(&[waits.clone(), daemon("wconfd", None, "killed by signal 9")]).is_none());
        assert!(culprit(&[waits, daemon("wconfd", Some(7), "ended with exit status 1")]).is_none());
    }

    #[test]
    fn last_words_are_those_of_the_last_failure() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("wconfd.log");
        assert_eq!(last_words(&log), None);
        let lines = "t ERROR gantry_rt::daemon: daemon failed error=\"first\"\nt INFO x: begins\n\
                     t ERROR gantry_rt::daemon: daemon failed error=\"row 2 \u{1b} is damaged\"\nt INFO x: begins\n";
        std::fs::write(&log, lines).unwrap();
        let said = last_words(&log).unwrap();
        assert!(
            said.starts_with("row 2 ") && said.ends_with(" is damaged") && !said.contains('\u{1b}'),
            "{said}"
        );
    }
}
