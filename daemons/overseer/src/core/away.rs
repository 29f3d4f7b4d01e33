//! Which nodes are away, and for how long. Kept in memory only: an overseer that was restarted is patient anew.

use crate::core::seen::Node;
use gantry_model::ids::NodeUuid;
use std::collections::BTreeMap;

/// A node that came back counts as settled after this part of the time after which one that is away is lost.
const SETTLE_PART: u64 = 5;

/// Since when nodes are away, or back.
#[derive(Debug, Clone, Default)]
pub struct Away {
    /// Milliseconds of the caller's clock.
    since: BTreeMap<NodeUuid, u64>,
    /// Those that have not settled yet.
    back: BTreeMap<NodeUuid, u64>,
}

impl Away {
    /// Takes a new look at all nodes: notes how long each has been away, and which have settled; says which have come back.
    /// `lost_s`: after how long one that is away is lost.
    pub fn look(&mut self, now: u64, nodes: &mut [Node], lost_s: u64) -> Vec<NodeUuid> {
        let mut back = Vec::new();
        let mut since = BTreeMap::new();
        for node in nodes.iter_mut() {
            let before = self.since.get(&node.uuid).copied();
            if !node.offline && node.mtotal.is_some() {
                node.away_s = None;
                if before.is_some() {
                    back.push(node.uuid);
                    self.back.insert(node.uuid, now);
                }
                let settle_ms = lost_s.saturating_mul(1_000) / SETTLE_PART;
                node.settled =
                    self.back.get(&node.uuid).is_none_or(|at| now.saturating_sub(*at) >= settle_ms);
                if node.settled {
                    self.back.remove(&node.uuid);
                }
                continue;
            }
            node.settled = false;
            self.back.remove(&node.uuid);
            let begun = before.unwrap_or(now);
            node.away_s = Some(now.saturating_sub(begun) / 1_000);
            since.insert(node.uuid, begun);
        }
        self.since = since;
        self.back.retain(|uuid, _| nodes.iter().any(|node| node.uuid == *uuid));
        back
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn node(number: u128, answers: bool, offline: bool) -> Node {
        Node {
            uuid: NodeUuid(Uuid::from_u128(number)),
            name: format!("n{number}"),
            offline,
            drained: false,
            vm_capable: true,
            mtotal: answers.then_some(1),
            away_s: None,
            settled: false,
        }
    }

    #[test]
    fn time_away_counts_from_the_first_look_and_a_return_is_told_once() {
        let mut away = Away::default();
        let mut look = |now, answers, offline| {
            let mut nodes = [node(1, answers, offline), node(2, true, false)];
            let back = away.look(now, &mut nodes, 50);
            assert_eq!(nodes[1].away_s, None);
            (nodes[0].away_s, back.len())
        };
        assert_eq!(look(1_000, true, false), (None, 0));
        assert_eq!(look(2_000, false, false), (Some(0), 0));
        assert_eq!(look(62_000, false, false), (Some(60), 0));
        assert_eq!(look(63_000, true, true), (Some(61), 0), "marked offline: away, though it answers");
        assert_eq!(look(64_000, true, false), (None, 1));
        assert_eq!(look(65_000, true, false), (None, 0));
        assert_eq!(look(70_000, false, false), (Some(0), 0), "counts anew");
    }

    #[test]
    fn one_that_came_back_settles_after_a_while() {
        let mut away = Away::default();
        let mut settled = |now, answers| {
            let mut nodes = [node(1, answers, false)];
            away.look(now, &mut nodes, 50);
            nodes[0].settled
        };
        assert!(settled(1_000, true), "nothing else is known of it");
        assert!(!settled(2_000, false));
        assert!(!settled(3_000, true) && !settled(12_999, true));
        assert!(settled(13_000, true));
        assert!(!settled(14_000, false) && !settled(15_000, true) && !settled(24_999, true), "counts anew");
    }
}
