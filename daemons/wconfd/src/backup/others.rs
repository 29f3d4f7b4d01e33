//! What the other nodes say before a restore, or a backup: whether a master lives, whose copies have more than the backup, and the
//! highest epoch that anybody has heard of. Nothing is promised and nothing changed there.

use super::manifest::{Manifest, Place};
use futures_util::future::join_all;
use gantry_copies::link::chain;
use gantry_copies::peers::Peer;
use gantry_model::config::Node;
use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_proto::copies::{Log, LookReply};
use gantry_proto::hello::Hello;
use gantry_proto::noded;
use gantry_rpc::tls::Identity;
use gantry_rpc::{Client, ConnectError};
use std::net::SocketAddr;
use std::time::Duration;

/// How long a node may take to say what it has.
const LOOK: Duration = Duration::from_secs(5);
/// How far above everything heard of a restore begins when the clock is not above it: ballots that others won unheard stay
/// below.
const JUMP: u64 = 1_000;

/// What one node said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// Or why it said nothing.
    pub answer: Result<Answer, String>,
    /// It lives, and does not believe whoever has a certificate of the backup's CA.
    pub other_ca: bool,
}

/// See [`Other`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The epoch of which it is the master.
    pub master: Option<u64>,
    /// The highest epoch it knows of.
    pub epoch: u64,
    /// The ends of its copies of both logs that are not damaged.
    pub config: Option<Place>,
    /// Of the queue's.
    pub queue: Option<Place>,
}

/// What a restore has to say before it is done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Masters that live: nothing may be restored beside them.
    pub masters: Vec<String>,
    /// Nodes that live and would not believe the restored master, hence obey another: nothing may be restored beside them.
    pub other_ca: Vec<String>,
    /// What copies have that the backup lacks.
    pub newer: Vec<String>,
    /// The epoch to begin with.
    pub epoch: u64,
}

/// Where a node is asked. None: its address is none.
#[must_use]
pub fn peer(node: &Node) -> Option<(NodeUuid, Peer)> {
    let address = SocketAddr::new(node.primary_ip.parse().ok()?, node.noded_port);
    Some((node.uuid, Peer { name: node.name.clone(), address }))
}

/// Asks all of these at once: with `identity`, and with `own`, if any, those that do not believe it.
pub async fn ask(
    identity: &Identity,
    own: Option<&Identity>,
    cluster: ClusterUuid,
    nodes: &[(NodeUuid, Peer)],
) -> Vec<Other> {
    let asked = nodes.iter().map(|(node, peer)| async move {
        let (name, first) = (peer.name.clone(), one(identity, cluster, *node, peer).await);
        let Err(Unheard::Distrust(why)) = first else {
            return Other { name, answer: first.map_err(Unheard::text), other_ca: false };
        };
        let answer = match own {
            Some(own) => one(own, cluster, *node, peer).await.map_err(Unheard::text),
            None => Err(why),
        };
        Other { name, answer, other_ca: true }
    });
    join_all(asked).await
}

/// Why a node said nothing.
enum Unheard {
    /// It may be dead.
    Silent(String),
    /// It lives, and one side does not believe the other's certificate.
    Distrust(String),
}

impl Unheard {
    fn text(self) -> String {
        match self {
            Self::Silent(why) | Self::Distrust(why) => why,
        }
    }
}

async fn one(
    identity: &Identity,
    cluster: ClusterUuid,
    node: NodeUuid,
    peer: &Peer,
) -> Result<Answer, Unheard> {
    let mut hello = Hello::new(noded::PROTOCOL, "gantry-backup");
    (hello.node, hello.cluster) = (Some(node), Some(cluster));
    let asked = async {
        let client = Client::tls(peer.address, &hello, identity, node).await.map_err(|why| match why {
            ConnectError::Distrust(why) => Unheard::Distrust(why),
            other => Unheard::Silent(chain(&other)),
        })?;
        let fence = client.peer().epoch.unwrap_or_default();
        let reply = client.call::<noded::CopyLook>(&(), LOOK).await;
        Ok(answer(&reply.map_err(|why| Unheard::Silent(why.to_string()))?, fence))
    };
    let late = || Err(Unheard::Silent(format!("no answer within {} s", LOOK.as_secs())));
    tokio::time::timeout(LOOK, asked).await.unwrap_or_else(|_| late())
}

fn answer(reply: &LookReply, fence: u64) -> Answer {
    let mut answer = Answer {
        master: reply.master,
        epoch: fence.max(reply.master.unwrap_or_default()),
        ..Answer::default()
    };
    for (log, facts) in &reply.copies {
        answer.epoch = answer.epoch.max(facts.promised.epoch).max(facts.last.term.epoch);
        let place = Place { epoch: facts.last.term.epoch, row: facts.last.idx };
        let place = Some(place).filter(|_| facts.damaged.is_none());
        match log {
            Log::W => answer.config = place,
            Log::Q => answer.queue = place,
        }
    }
    answer
}

/// What follows from it. `now`, milliseconds since 1970, is above any epoch that was counted up from 1, also at nodes that
/// do not answer, and above that of every restore before: also of one that was killed and that no file tells of any more,
/// though this node's own noded has heard its epoch.
#[must_use]
pub fn judge(manifest: &Manifest, others: &[Other], now: u64) -> Verdict {
    let mut verdict = Verdict::default();
    let mut highest = manifest.epoch.max(manifest.config.epoch).max(manifest.queue.epoch);
    for Other { name, answer, other_ca } in others {
        if *other_ca {
            verdict.other_ca.push(name.clone());
        }
        let Ok(answer) = answer else { continue };
        highest = highest.max(answer.epoch);
        if let Some(epoch) = answer.master {
            verdict.masters.push(format!("{name} (epoch {epoch})"));
        }
        let logs =
            [("configuration", answer.config, manifest.config), ("job queue", answer.queue, manifest.queue)];
        for (log, theirs, ours) in logs {
            let Some(theirs) = theirs.filter(|theirs| (theirs.epoch, theirs.row) > (ours.epoch, ours.row))
            else {
                continue;
            };
            verdict.newer.push(format!(
                "{name} has the {log} to row {} of epoch {}, the backup to row {} of epoch {}",
                theirs.row, theirs.epoch, ours.row, ours.epoch
            ));
        }
    }
    verdict.epoch = if now > highest { now } else { highest + JUMP };
    verdict
}

/// One node's answer, for people.
#[must_use]
pub fn tell(other: &Other) -> String {
    let name = &other.name;
    let answer = match &other.answer {
        Err(why) if other.other_ca => {
            return format!("{name} lives, and has certificates of another CA: {why}");
        }
        Err(why) => return format!("{name} does not answer: {why}"),
        Ok(answer) => answer,
    };
    let copy = |log: &str, place: Option<Place>| match place {
        Some(Place { epoch, row }) => format!("{log} to row {row} of epoch {epoch}"),
        None => format!("no {log}"),
    };
    let copies = match (answer.config, answer.queue) {
        (None, None) => "no copies".to_owned(),
        (config, queue) => format!("{}, {}", copy("configuration", config), copy("queue", queue)),
    };
    let master = answer.master.map_or(String::new(), |epoch| format!("; it is master of epoch {epoch}"));
    let other_ca = if other.other_ca { "; its certificates are of another CA" } else { "" };
    format!("{name} answers: {copies}{master}{other_ca}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn manifest() -> Manifest {
        Manifest {
            cluster: ClusterUuid(Uuid::from_u128(1)),
            cluster_name: String::new(),
            made_at: 0,
            release: String::new(),
            node: NodeUuid(Uuid::from_u128(2)),
            node_name: String::new(),
            epoch: 7,
            config: Place { epoch: 7, row: 20 },
            queue: Place { epoch: 7, row: 50 },
            files: Vec::new(),
            bodies: Vec::new(),
            absent: Vec::new(),
        }
    }

    fn other(answer: Answer) -> Other {
        Other { name: "n".to_owned(), answer: Ok(answer), other_ca: false }
    }

    #[test]
    fn whoever_has_more_is_named_and_the_epoch_is_above_all() {
        let place = |epoch, row| Some(Place { epoch, row });
        let same = other(Answer { epoch: 7, config: place(7, 20), queue: place(7, 49), ..Answer::default() });
        let verdict = judge(&manifest(), std::slice::from_ref(&same), 0);
        assert_eq!(verdict, Verdict { epoch: 7 + JUMP, ..Verdict::default() });
        // A later epoch wins over more rows, as in a recovery.
        let later = other(Answer { epoch: 9, config: place(8, 3), queue: place(7, 51), ..Answer::default() });
        let verdict = judge(&manifest(), &[same.clone(), later], 0);
        assert_eq!((verdict.newer.len(), verdict.epoch), (2, 9 + JUMP));
        let silent = Other { name: "s".to_owned(), answer: Err("away".to_owned()), other_ca: false };
        let verdict = judge(&manifest(), &[same, silent], 1_700_000_000);
        assert_eq!(verdict.epoch, 1_700_000_000, "above what the silent may have heard of");
        // One restore after another, of which the next hears or does not: each is above the one before.
        let restored = other(Answer { epoch: 1_700_000_000, ..Answer::default() });
        assert_eq!(judge(&manifest(), std::slice::from_ref(&restored), 1_700_000_001).epoch, 1_700_000_001);
        assert_eq!(
            judge(&manifest(), &[restored], 1_600_000_000).epoch,
            1_700_000_000 + JUMP,
            "a clock that is behind"
        );
    }

    #[test]
    fn a_living_master_is_named() {
        let master = other(Answer { master: Some(7), epoch: 7, ..Answer::default() });
        assert_eq!(judge(&manifest(), &[master], 0).masters, ["n (epoch 7)"]);
    }

    /// One whose certificate is of another CA lives, whether it could be asked all the same or not: it is no silent one.
    #[test]
    fn who_does_not_believe_the_backups_ca_is_named() {
        let mute = Other { name: "m".to_owned(), answer: Err("another CA".to_owned()), other_ca: true };
        let asked =
            Other { other_ca: true, ..other(Answer { master: Some(9), epoch: 9, ..Answer::default() }) };
        let silent = Other { name: "s".to_owned(), answer: Err("away".to_owned()), other_ca: false };
        assert!(tell(&mute).starts_with("m lives, and") && tell(&asked).contains("of another CA"));
        let verdict = judge(&manifest(), &[mute, asked, silent], 0);
        assert_eq!(verdict.other_ca, ["m", "n"]);
        assert_eq!((verdict.masters, verdict.epoch), (vec!["n (epoch 9)".to_owned()], 9 + JUMP));
    }
}
