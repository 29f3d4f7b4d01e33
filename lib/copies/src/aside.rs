//! Which rows were put aside on the nodes of the copies (P1.9): on the disk of a master that came back, not on that of the
//! one who is asked.

use crate::link::{Link, LinkError};
use futures_util::future::join_all;
use gantry_model::ids::NodeUuid;
use gantry_proto::copies::AsideReply;
use gantry_proto::noded;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a node may take: who wants to know how the copies stand waits for it.
const LOOK: Duration = Duration::from_secs(1);

/// Asks all these nodes at once. One that does not answer, or whose program does not know the question, says nothing.
///
/// `link` must not be one that senders use: it is for them to hear that a connection was lost.
pub async fn aside<L: Link>(link: &L, nodes: BTreeSet<NodeUuid>) -> Vec<(NodeUuid, AsideReply)> {
    let ask = |node| async move {
        let asked = match link.call::<noded::CopyAside>(node, (), LOOK).await {
            Err(LinkError::Lost) => link.call::<noded::CopyAside>(node, (), LOOK).await,
            answer => answer,
        };
        asked.ok().map(|reply| (node, reply))
    };
    join_all(nodes.into_iter().map(ask)).await.into_iter().flatten().collect()
}

/// For people: the newest names, each with its node's, and how many there are besides.
#[must_use]
pub fn lines(name: &str, reply: &AsideReply) -> Vec<String> {
    let mut lines: Vec<String> = reply.newest.iter().map(|file| format!("{name}: {file}")).collect();
    let more = reply.count.saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("{name}: and {more} older ones"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_is_counted() {
        let reply = |count| AsideReply { count, newest: vec!["W-5-12".to_owned()] };
        assert_eq!(lines("n1", &reply(1)), ["n1: W-5-12"]);
        assert_eq!(lines("n1", &reply(9)), ["n1: W-5-12", "n1: and 8 older ones"]);
        assert!(lines("n1", &AsideReply::default()).is_empty());
    }
}
