//! Which nodes are away, and for how long. Kept in memory only: an overseer that was restarted is patient anew.

use crate::core::seen::Node;
use gantry_model::ids::NodeUuid;
use std::collections::BTreeMap;

/// Since when nodes are away.
#[derive(Debug, Clone, Default)]
pub struct Away {
    /// Milliseconds of the caller's clock.
    since: BTreeMap<NodeUuid, u64>,
}

impl Away {
    /// Takes a new look at all nodes: notes how long each has been away; says which have come back.
    pub fn look(&mut self, now: u64, nodes: &mut [Node]) -> Vec<NodeUuid> {
        let mut back = Vec::new();
        let mut since = BTreeMap::new();
        for node in nodes.iter_mut() {
            let before = self.since.get(&node.uuid).copied();
            if !node.offline && node.mtotal.is_some() {
                node.away_s = None;
                back.extend(before.map(|_| node.uuid));
                continue;
            }
            let begun = before.unwrap_or(now);
            node.away_s = Some(now.saturating_sub(begun) / 1_000);
            since.insert(node.uuid, begun);
        }
        self.since = since;
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
        }
    }

    #[test]
    fn time_away_counts_from_the_first_look_and_a_return_is_told_once() {
        let mut away = Away::default();
        let mut look = |now, answers, offline| {
            let mut nodes = [node(1, answers, offline), node(2, true, false)];
            let back = away.look(now, &mut nodes);
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
}
