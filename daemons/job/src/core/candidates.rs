//! The candidate pool (`spec/failover.md` §4): how many master candidates there should be, and who becomes one.

use gantry_model::config::Node;
use gantry_model::ids::NodeUuid;
use gantry_proto::copies::{Log, LookReply};

/// How the pool stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Candidates there are.
    pub actual: u64,
    /// Candidates there should be: as many as are possible, at most as many as wanted.
    pub target: u64,
}

impl Pool {
    /// Of `nodes` but those in `without`; `size` is the cluster's `candidate_pool_size`.
    pub fn of(nodes: &[Node], size: u64, without: &[NodeUuid]) -> Self {
        let rest = || nodes.iter().filter(|node| !without.contains(&node.uuid));
        let possible = rest().filter(|node| may_be(node)).count() as u64;
        let actual = rest().filter(|node| node.master_candidate).count() as u64;
        Self { actual, target: possible.min(size) }
    }

    /// Whether there are fewer than there should be.
    pub fn is_short(self) -> bool {
        self.actual < self.target
    }
}

/// Whether a node has copies of another history than the master's: one that was given up for this.
pub fn of_another_history(master: &LookReply, node: &LookReply) -> bool {
    let history = |reply: &LookReply, log| {
        reply.copies.iter().find(|(of, _)| *of == log).map(|(_, facts)| facts.history)
    };
    let another = |log| history(node, log).is_some_and(|theirs| history(master, log) != Some(theirs));
    another(Log::W) || another(Log::Q)
}

/// Whether a node may be a candidate.
pub fn may_be(node: &Node) -> bool {
    !node.offline && !node.drained && node.master_capable
}

/// Whether a node that comes into service should become a candidate. Computed as if it were not there yet.
pub fn promotes_itself(nodes: &[Node], size: u64, node: NodeUuid) -> bool {
    let others = Pool::of(nodes, size, &[node]);
    others.actual < (others.target + 1).min(size)
}

/// The next node to promote while the pool is short, drawn from those who may be: `draw` takes a number below its
/// argument. None: the pool is full, or nobody is left.
pub fn next<'a>(
    nodes: &'a [Node],
    size: u64,
    without: &[NodeUuid],
    draw: impl FnOnce(usize) -> usize,
) -> Option<&'a Node> {
    if !Pool::of(nodes, size, without).is_short() {
        return None;
    }
    let able: Vec<&Node> = nodes
        .iter()
        .filter(|node| may_be(node) && !node.master_candidate && !without.contains(&node.uuid))
        .collect();
    if able.is_empty() {
        return None;
    }
    able.get(draw(able.len())).copied()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use gantry_model::config::{NODED_PORT, Params, Stamp};
    use gantry_model::ids::GroupUuid;
    use proptest::prelude::*;
    use uuid::Uuid;

    /// A node of that number; flags: candidate, drained, offline, master_capable.
    pub fn node(number: u128, flags: [bool; 4]) -> Node {
        let [master_candidate, drained, offline, master_capable] = flags;
        Node {
            uuid: NodeUuid(Uuid::from_u128(number)),
            name: format!("node{number}"),
            primary_ip: String::new(),
            secondary_ip: String::new(),
            master_candidate,
            offline,
            drained,
            group: GroupUuid(Uuid::nil()),
            master_capable,
            vm_capable: true,
            ndparams: Params::new(),
            powered: true,
            noded_port: NODED_PORT,
            stamp: Stamp::new(1.0),
            extra: Params::new(),
        }
    }

    /// Any node with at most one state, and no candidate that may be none.
    fn flags() -> impl Strategy<Value = [bool; 4]> {
        prop_oneof![
            Just([true, false, false, true]),
            any::<bool>().prop_map(|able| [false, true, false, able]),
            any::<bool>().prop_map(|able| [false, false, true, able]),
            any::<bool>().prop_map(|able| [false, false, false, able]),
        ]
    }

    fn nodes() -> impl Strategy<Value = Vec<Node>> {
        let numbered = |all: Vec<[bool; 4]>| (1..).zip(all).map(|(n, flags)| node(n, flags)).collect();
        prop::collection::vec(flags(), 0..14).prop_map(numbered)
    }

    /// Promotes until nobody is left to promote; who was.
    fn fill(nodes: &mut [Node], size: u64, without: &[NodeUuid], draws: &[usize]) -> Vec<NodeUuid> {
        let mut done = Vec::new();
        for number in 0.. {
            let draw = |n: usize| draws[number % draws.len()] % n;
            let Some(uuid) = next(nodes, size, without, draw).map(|node| node.uuid) else { break };
            nodes.iter_mut().filter(|node| node.uuid == uuid).for_each(|node| node.master_candidate = true);
            done.push(uuid);
        }
        done
    }

    proptest! {
        #[test]
        fn filling_reaches_the_target_and_touches_only_who_may_be(
            before in nodes(),
            size in 1u64..12,
            left_out in prop::option::of(0usize..14),
            draws in prop::collection::vec(any::<usize>(), 1..6),
        ) {
            let without: Vec<NodeUuid> =
                left_out.and_then(|at| before.get(at)).map(|node| node.uuid).into_iter().collect();
            let mut after = before.clone();
            let promoted = fill(&mut after, size, &without, &draws);
            let (was, is) = (Pool::of(&before, size, &without), Pool::of(&after, size, &without));
            prop_assert_eq!(is.target, was.target, "candidates are possible candidates");
            prop_assert_eq!(is.actual, was.actual.max(was.target), "never more than wanted, never fewer");
            prop_assert_eq!(promoted.len() as u64, is.actual - was.actual);
            for (old, new) in before.iter().zip(&after) {
                if promoted.contains(&old.uuid) {
                    prop_assert!(may_be(old) && !old.master_candidate && !without.contains(&old.uuid));
                } else {
                    prop_assert_eq!(old, new, "nobody else changes, and nobody is demoted");
                }
            }
        }

        /// Nodes that come one after the other fill the pool just as filling would.
        #[test]
        fn nodes_that_promote_themselves_make_a_full_pool(count in 1usize..14, size in 1u64..12) {
            let mut all: Vec<Node> = Vec::new();
            for number in 1..=count as u128 {
                let mut new = node(number, [false, false, false, true]);
                all.push(new.clone());
                new.master_candidate = promotes_itself(&all, size, new.uuid);
                all.pop();
                all.push(new);
                let pool = Pool::of(&all, size, &[]);
                prop_assert_eq!(pool.actual, pool.target);
            }
        }
    }

    #[test]
    fn a_pool_of_one_keeps_to_its_master() {
        let master = node(1, [true, false, false, true]);
        let nodes = [master, node(2, [false, false, false, true])];
        assert!(!promotes_itself(&nodes, 1, nodes[1].uuid));
        assert!(promotes_itself(&nodes, 10, nodes[1].uuid));
        assert!(next(&nodes, 1, &[], |_| 0).is_none());
        assert_eq!(next(&nodes, 10, &[], |_| 0).unwrap().uuid, nodes[1].uuid);
        let short = Pool::of(&nodes, 10, &[nodes[0].uuid]);
        assert!(short.is_short(), "without the only candidate");
    }
}
