//! Whether a node was still the master when its snapshots were made. One that was replaced while it was cut off, or stood
//! still, does not know; its backup would lack what the new master has acknowledged, and nobody would see it.
//!
//! Asked after the snapshots: a majority that has promised no later epoch then had none before. Nothing is promised and nothing
//! changed by it.

use super::others::{self, Other};
use super::{BackupError, say};
use gantry_copies::link::chain;
use gantry_copies::peers::Peer;
use gantry_model::ids::NodeUuid;
use gantry_model::role::RoleFile;
use gantry_model::root::Root;
use gantry_rpc::tls::Identity;
use gantry_store::LogKind;

/// What the candidates make of a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A majority has heard of nobody later.
    Confirmed,
    /// Too few answered to know. Who did not.
    Unknown(Vec<String>),
    /// There is, or may be, another one: what says so.
    Replaced(String),
}

/// Judges by what the other candidates say. `own` is the highest epoch that this node's copies have promised.
#[must_use]
pub fn judge(epoch: u64, own: u64, others: &[Other]) -> Standing {
    let answers =
        || others.iter().filter_map(|other| Some((other.name.as_str(), other.answer.as_ref().ok()?)));
    let confirm = answers().filter(|(_, answer)| answer.epoch <= epoch).count() + usize::from(own <= epoch);
    if let Some((name, _)) = answers().find(|(_, answer)| answer.master.is_some_and(|theirs| theirs > epoch))
    {
        return Standing::Replaced(format!("{name} is the master now"));
    }
    if 2 * confirm > others.len() + 1 {
        return Standing::Confirmed;
    }
    let later = answers().find(|(_, answer)| answer.epoch > epoch);
    let later = later.map(|(name, answer)| format!("{name} has heard of epoch {}", answer.epoch));
    let later = later.or_else(|| (own > epoch).then(|| format!("its own copies have promised epoch {own}")));
    later.map_or_else(|| Standing::Unknown(silent(others)), Standing::Replaced)
}

fn silent(others: &[Other]) -> Vec<String> {
    others.iter().filter(|other| other.answer.is_err()).map(others::tell).collect()
}

/// Refuses when this master was replaced; says so when nobody knows.
///
/// # Errors
/// It was replaced.
pub fn check(root: &Root, role: &RoleFile, candidates: &[(NodeUuid, Peer)]) -> Result<(), BackupError> {
    let answers = ask(root, role, candidates);
    match judge(role.epoch, promised(root), &answers) {
        Standing::Confirmed => Ok(()),
        Standing::Unknown(silent) => {
            silent.iter().for_each(|line| say(line));
            say(
                "warning: no majority of the candidates confirms that this node is still the master: if another has taken over, \
                 what it has acknowledged is not in this backup",
            );
            Ok(())
        }
        Standing::Replaced(what) => Err(BackupError::NotMaster(format!(
            "this node was the master of epoch {}, and has been replaced: {what}. Its copies lack what was acknowledged since; \
             run the command on the master (gnt-cluster getmaster on another node names it)",
            role.epoch
        ))),
    }
}

fn ask(root: &Root, role: &RoleFile, candidates: &[(NodeUuid, Peer)]) -> Vec<Other> {
    // A master whose certificate is broken is backed up too; it only can't ask.
    let asked = Identity::load(&root.secrets()).map_err(|why| chain(&why)).and_then(|identity| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|why| why.to_string())?;
        Ok(runtime.block_on(others::ask(&identity, None, role.cluster, candidates)))
    });
    asked.unwrap_or_else(|why| {
        let silent = |(_, peer): &(NodeUuid, Peer)| Other {
            name: peer.name.clone(),
            answer: Err(why.clone()),
            other_ca: false,
        };
        candidates.iter().map(silent).collect()
    })
}

/// The highest epoch that this node's own copies have promised.
fn promised(root: &Root) -> u64 {
    let ends = [LogKind::W, LogKind::Q].map(|log| gantry_store::end_of(&root.lib(), log).ok().flatten());
    ends.into_iter().flatten().map(|end| end.promised).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::others::Answer;

    fn heard(epoch: u64) -> Other {
        let answer = Ok(Answer { epoch, ..Answer::default() });
        Other { name: format!("heard{epoch}"), answer, other_ca: false }
    }

    fn away() -> Other {
        Other { name: "away".to_owned(), answer: Err("no route".to_owned()), other_ca: false }
    }

    fn master(epoch: u64) -> Other {
        let answer = Ok(Answer { master: Some(epoch), epoch, ..Answer::default() });
        Other { name: "m".to_owned(), answer, other_ca: false }
    }

    #[test]
    fn a_majority_confirms_a_master() {
        assert_eq!(judge(4, 4, &[]), Standing::Confirmed, "the only candidate");
        assert_eq!(judge(4, 4, &[heard(4), away()]), Standing::Confirmed);
        assert_eq!(judge(4, 4, &[heard(4), heard(3)]), Standing::Confirmed, "a copy that is behind");
        assert_eq!(judge(4, 4, &[heard(4), heard(5)]), Standing::Confirmed, "a ballot that could not be won");
        let unknown = Standing::Unknown(vec!["away does not answer: no route".to_owned()]);
        assert_eq!(judge(4, 4, &[away()]), unknown, "one of two");
    }

    #[test]
    fn a_replaced_master_is_told_by_whom() {
        let replaced = |others: &[Other], own| match judge(4, own, others) {
            Standing::Replaced(what) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(replaced(&[master(5), heard(5)], 4), "m is the master now");
        assert_eq!(
            replaced(&[master(5), heard(4)], 4),
            "m is the master now",
            "also with one that has not heard"
        );
        assert_eq!(replaced(&[heard(5), away()], 4), "heard5 has heard of epoch 5");
        assert_eq!(replaced(&[heard(4), away()], 5), "its own copies have promised epoch 5");
        assert_eq!(judge(4, 4, &[master(3), heard(4)]), Standing::Confirmed, "one that was master before");
    }
}
