//! What `--no-voting` said may be lost, kept until it is done. Once the own copies have begun a history of their own, nobody
//! else is in their lists, so the same command, given again because the first died on the way, would find nobody who has
//! more and say less.
//!
//! Written before anything is changed, durably. It counts while a copy ends with the row that began its new history, which no
//! writer has followed; another `--no-voting` replaces it, a restore takes it away with the logs.

use gantry_model::root::Root;
use gantry_proto::copies::LookReply;
use gantry_rt::files;
use std::path::PathBuf;

/// Its name: that of what belongs to the configuration's log.
const NAME: &str = "wconf.alone";

/// The lines of one command.
pub struct Told {
    path: PathBuf,
    /// Those of an earlier one that did not end.
    earlier: Option<Vec<String>>,
}

impl Told {
    /// In the state directory of `root`.
    pub fn new(root: &Root) -> Self {
        Self { path: root.lib().join(NAME), earlier: None }
    }

    /// What the own node says of its copies.
    pub fn own(&mut self, reply: &LookReply) {
        if half_way(reply) {
            let text = std::fs::read_to_string(&self.path).ok();
            self.earlier = text.map(|text| text.lines().map(str::to_owned).collect());
        }
    }

    /// What is said for `lines`.
    pub fn say(&self, lines: Vec<String>) -> Vec<String> {
        let Some(earlier) = &self.earlier else { return lines };
        let head = "an earlier --no-voting on this node was not carried out to its end; it said:".to_owned();
        std::iter::once(head).chain(earlier.iter().cloned()).collect()
    }

    /// Keeps `lines` before they come true, unless an earlier command's are. What is said in their place when that fails: a
    /// disk without room is no reason not to go on.
    pub fn keep(&self, lines: &[String]) -> Option<String> {
        if self.earlier.is_some() {
            return None;
        }
        let kept = files::atomic_write(&self.path, format!("{}\n", lines.join("\n")).as_bytes(), 0o600);
        let warning = |why| format!("warning: can't keep what may be lost in {}: {why}", self.path.display());
        kept.err().map(warning)
    }
}

/// Whether a copy has begun a history alone in which nobody has written yet.
fn half_way(reply: &LookReply) -> bool {
    reply.copies.iter().any(|(_, facts)| facts.promised.run == 0 && facts.last.term == facts.promised)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ids::{ClusterUuid, NodeUuid};
    use gantry_proto::copies::{Facts, List, Log, Place, Term};
    use uuid::Uuid;

    /// A node whose copy of the configuration promises `promised` and ends with a row of `last`.
    fn look(promised: (u64, u64), last: (u64, u64)) -> LookReply {
        let term = |(epoch, run)| Term { epoch, run };
        let nil = Uuid::nil();
        let place = |of| Place { term: term(of), idx: 9 };
        let facts = Facts {
            promised: term(promised),
            ballot: [0; 16],
            nonce: [0; 16],
            cluster: ClusterUuid(nil),
            history: nil,
            copy_id: nil,
            token: None,
            base: place((0, 0)),
            last: place(last),
            list_at: 0,
            list: List { n: 0, prev: 0, members: Vec::new() },
            applied: 0,
            tokens: Vec::new(),
            damaged: None,
        };
        LookReply { node: NodeUuid(nil), master: None, copies: vec![(Log::W, facts)] }
    }

    fn said(root: &Root, own: &LookReply, lines: &[&str], really: bool) -> Vec<String> {
        let mut told = Told::new(root);
        told.own(own);
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        if really {
            assert_eq!(told.keep(&lines), None);
        }
        told.say(lines)
    }

    #[test]
    fn a_command_that_died_half_way_is_not_said_less_of_when_it_is_given_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Root::new(dir.path());
        files::make_dirs(&root).expect("made");
        let (before, begun, led) =
            (look((3, 1), (3, 1)), look((1_003, 0), (1_003, 0)), look((1_003, 1), (1_003, 1)));
        // The founder of a cluster that was never led looks alike, and nothing was said there.
        assert_eq!(said(&root, &look((1, 0), (1, 0)), &["new"], false), ["new"]);
        assert_eq!(said(&root, &before, &["asked only"], false), ["asked only"]);
        assert_eq!(said(&root, &before, &["LOST: 5", "LOST: 7"], true), ["LOST: 5", "LOST: 7"]);
        for really in [false, true, true] {
            let again = said(&root, &begun, &["nothing"], really);
            assert!(again[0].contains("an earlier --no-voting"), "{again:?}");
            assert_eq!(again[1..], ["LOST: 5", "LOST: 7"], "also the third time");
        }
        // An election that was won and not yet led ends with a row of the epoch before.
        for own in [led, look((1_004, 0), (1_003, 1))] {
            assert_eq!(said(&root, &own, &["later"], false), ["later"]);
        }
        assert_eq!(said(&root, &before, &["another"], true), ["another"]);
        assert_eq!(said(&root, &begun, &["nothing"], false)[1..], ["another"]);
    }

    #[test]
    fn a_disk_without_room_is_told_and_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let told = Told::new(&Root::new(dir.path().join("none")));
        assert!(told.keep(&["x".to_owned()]).is_some_and(|why| why.starts_with("warning: can't keep")));
    }
}
