//! Node roles (`spec/failover.md` §3): what a request for other flags means, or why it is refused. The order of the
//! checks and the texts are Ganeti's.

use crate::core::candidates::{Pool, promotes_itself};
use gantry_model::config::{Node, Params};
use gantry_model::error::{Ecode, GanetiError};
use serde_json::json;

/// The flags that exclude each other, in Ganeti's order.
pub const STATES: [&str; 3] = ["master_candidate", "drained", "offline"];

/// What is asked for; None: as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// Candidate, drained, offline.
    pub states: [Option<bool>; 3],
    /// May become candidate.
    pub master_capable: Option<bool>,
    /// May host VMs.
    pub vm_capable: Option<bool>,
    /// Other nodes may be promoted in its place.
    pub auto_promote: bool,
}

/// The cluster around the node.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// All nodes.
    pub nodes: &'a [Node],
    /// `candidate_pool_size`.
    pub size: u64,
    /// Whether the node is the master.
    pub is_master: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Lines for the job's log.
    pub infos: Vec<String>,
    /// Fields that change, `master_candidate` not among them.
    pub set: Params,
    /// Whether it becomes a candidate, or is one no longer.
    pub candidate: Option<bool>,
    /// The node decided on its own to become one.
    pub by_itself: bool,
    /// (field, new value) for people.
    pub told: Vec<(&'static str, bool)>,
}

impl Asked {
    /// Whether a candidate may cease to be one by this.
    pub fn might_demote(&self) -> bool {
        let [candidate, drained, offline] = self.states;
        candidate == Some(false)
            || drained == Some(true)
            || offline == Some(true)
            || self.master_capable == Some(false)
    }

    /// Whether nothing is asked for.
    pub fn is_nothing(&self) -> bool {
        self.states == [None; 3] && self.master_capable.is_none() && self.vm_capable.is_none()
    }

    /// Checks that need no node.
    ///
    /// # Errors
    /// More than one flag or capability is to be true.
    pub fn check(&self) -> Result<(), GanetiError> {
        let all = self.states.iter().chain([&self.master_capable, &self.vm_capable]);
        if all.filter(|flag| **flag == Some(true)).count() > 1 {
            return Err(GanetiError::prereq(
                "Can't set the node into more than one state at the same time",
                Ecode::WrongInput,
            ));
        }
        Ok(())
    }
}

/// What `asked` means for `node`.
///
/// # Errors
/// It is against a rule.
pub fn plan(asked: &Asked, node: &Node, around: Around<'_>) -> Result<Plan, GanetiError> {
    allowed(asked, node, around)?;
    let mut infos = Vec::new();
    let before = [node.master_candidate, node.drained, node.offline];
    let mut states = asked.states;
    for ((state, was), name) in states.iter_mut().zip(before).zip(STATES) {
        if *state == Some(false) && !was {
            infos.push(format!("Ignoring request to unset flag {name}, already unset"));
            *state = None;
        }
    }
    let returns = states[1] == Some(false) || states[2] == Some(false);
    let gains = asked.master_capable == Some(true) && !node.master_capable;
    let after = Node {
        drained: node.drained && states[1] != Some(false),
        offline: node.offline && states[2] != Some(false),
        master_capable: asked.master_capable.unwrap_or(node.master_capable),
        ..node.clone()
    };
    let able = crate::core::candidates::may_be(&after) && states[0].is_none() && !node.master_candidate;
    let stays = states[1] != Some(true) && states[2] != Some(true);
    let by_itself =
        (returns || gains) && able && stays && promotes_itself(around.nodes, around.size, node.uuid);
    if by_itself {
        infos.push("Auto-promoting node to master candidate".to_owned());
        states[0] = Some(true);
    }
    if asked.master_capable == Some(false) && node.master_candidate {
        infos.push("Demoting from master candidate".to_owned());
        states[0] = Some(false);
    }
    Ok(changes(asked, node, before, states, infos, by_itself))
}

/// The rules that refuse.
fn allowed(asked: &Asked, node: &Node, around: Around<'_>) -> Result<(), GanetiError> {
    let wrong = |text: &str| Err(GanetiError::prereq(text, Ecode::WrongInput));
    let state = |text: String| Err(GanetiError::prereq(text, Ecode::WrongState));
    if around.is_master && asked.states.iter().any(Option::is_some) {
        return wrong("The master role can be changed only via master-failover");
    }
    if around.is_master && asked.master_capable == Some(false) {
        return wrong("Master must remain master capable");
    }
    if asked.states[0] == Some(true) && !asked.master_capable.unwrap_or(node.master_capable) {
        return state(format!("Node {} is not master capable, cannot make it a master candidate", node.name));
    }
    if node.master_candidate && asked.might_demote() && !asked.auto_promote {
        let others = Pool::of(around.nodes, around.size, &[node.uuid]);
        if others.is_short() {
            return state(
                "Not enough master candidates, please pass auto promote option to allow promotion (--auto-promote or \
                 RAPI auto_promote=True)"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

/// The role that follows from the flags, as Ganeti computes it: one that is set, or none when one is taken away.
fn changes(
    asked: &Asked,
    node: &Node,
    before: [bool; 3],
    states: [Option<bool>; 3],
    infos: Vec<String>,
    by_itself: bool,
) -> Plan {
    let (mut set, mut told) = (Params::new(), Vec::new());
    let capabilities = [
        ("master_capable", asked.master_capable, node.master_capable),
        ("vm_capable", asked.vm_capable, node.vm_capable),
    ];
    for (name, wanted, was) in capabilities {
        if let Some(wanted) = wanted {
            told.push((name, wanted));
            if wanted != was {
                set.insert(name.to_owned(), json!(wanted));
            }
        }
    }
    let after = match states.iter().position(|state| *state == Some(true)) {
        Some(on) => std::array::from_fn(|at| at == on),
        None if states.contains(&Some(false)) => [false; 3],
        None => before,
    };
    for ((name, was), is) in STATES.into_iter().zip(before).zip(after) {
        if was != is {
            told.push((name, is));
            if name != STATES[0] {
                set.insert(name.to_owned(), json!(is));
            }
        }
    }
    let candidate = (before[0] != after[0]).then_some(after[0]);
    Plan { infos, set, candidate, by_itself, told }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::candidates::tests::node;

    const C: [bool; 4] = [true, false, false, true];
    const D: [bool; 4] = [false, true, false, true];
    const O: [bool; 4] = [false, false, true, true];
    const R: [bool; 4] = [false, false, false, true];

    fn asked(candidate: Option<bool>, drained: Option<bool>, offline: Option<bool>) -> Asked {
        Asked { states: [candidate, drained, offline], ..Asked::default() }
    }

    /// A master of number 1, the node asked about of number 2, and others.
    fn try_on(asked: &Asked, flags: [bool; 4], others: &[[bool; 4]], size: u64) -> Result<Plan, GanetiError> {
        let flags: Vec<_> = [C, flags].iter().chain(others).copied().collect();
        let nodes: Vec<Node> = (1..).zip(flags).map(|(number, flags)| node(number, flags)).collect();
        plan(asked, &nodes[1], Around { nodes: &nodes, size, is_master: false })
    }

    fn refused(tried: Result<Plan, GanetiError>) -> (String, String) {
        let error = tried.unwrap_err();
        (error.ecode().unwrap().to_owned(), error.to_string())
    }

    #[test]
    fn every_role_leads_to_every_other() {
        let cases = [
            (asked(Some(true), None, None), R, Some(true), vec![("master_candidate", true)]),
            (
                asked(Some(true), None, None),
                D,
                Some(true),
                vec![("master_candidate", true), ("drained", false)],
            ),
            (asked(Some(false), None, None), C, Some(false), vec![("master_candidate", false)]),
            (
                asked(None, Some(true), None),
                C,
                Some(false),
                vec![("master_candidate", false), ("drained", true)],
            ),
            (
                asked(None, None, Some(true)),
                C,
                Some(false),
                vec![("master_candidate", false), ("offline", true)],
            ),
            (asked(None, None, Some(true)), D, None, vec![("drained", false), ("offline", true)]),
            (asked(None, Some(true), None), D, None, vec![]),
            (asked(None, Some(false), None), R, None, vec![]),
        ];
        for (asked, flags, candidate, told) in cases {
            // A pool of two that the third fills: nobody is missed, nobody promotes itself.
            let plan = try_on(&asked, flags, &[C], 2).unwrap();
            assert_eq!((plan.candidate, &plan.told), (candidate, &told), "{asked:?} of {flags:?}");
            let own: Vec<_> = told.iter().filter(|(name, _)| *name != "master_candidate").collect();
            assert_eq!(plan.set.len(), own.len());
            assert!(own.iter().all(|(name, value)| plan.set[*name] == json!(value)));
        }
    }

    #[test]
    fn who_returns_fills_a_short_pool_by_itself() {
        for (asked, flags) in [
            (asked(None, Some(false), None), D),
            (asked(None, None, Some(false)), O),
            (Asked { master_capable: Some(true), ..Asked::default() }, [false; 4]),
        ] {
            let plan = try_on(&asked, flags, &[], 10).unwrap();
            assert!(plan.by_itself && plan.candidate == Some(true), "{asked:?}");
            assert_eq!(plan.infos, ["Auto-promoting node to master candidate"]);
            let full = try_on(&asked, flags, &[C], 2).unwrap();
            assert!(!full.by_itself && full.candidate.is_none(), "{asked:?}");
        }
        // Drained no longer, but offline, or not capable.
        let both = Asked { master_capable: Some(false), ..asked(None, Some(false), None) };
        assert_eq!(try_on(&both, D, &[], 10).unwrap().candidate, None);
        let moved = asked(None, Some(false), Some(true));
        assert_eq!(try_on(&moved, D, &[], 10).unwrap().candidate, None);
    }

    #[test]
    fn a_pool_is_not_made_short_without_leave() {
        let cases = [
            asked(Some(false), None, None),
            asked(None, Some(true), None),
            asked(None, None, Some(true)),
            Asked { master_capable: Some(false), ..Asked::default() },
        ];
        for asked in cases {
            let (code, text) = refused(try_on(&asked, C, &[R], 10));
            assert_eq!(code, "wrong_state");
            assert!(
                text.starts_with("Not enough master candidates, please pass auto promote option"),
                "{text}"
            );
            let leave = Asked { auto_promote: true, ..asked };
            assert_eq!(try_on(&leave, C, &[R], 10).unwrap().candidate, Some(false));
            // Nobody could take its place: the pool is not short without it.
            assert_eq!(try_on(&asked, C, &[O], 10).unwrap().candidate, Some(false));
        }
    }

    #[test]
    fn the_master_keeps_its_role_and_capability() {
        let nodes = [node(1, C), node(2, C)];
        let around = Around { nodes: &nodes, size: 1, is_master: true };
        for states in
            [asked(Some(false), None, None), asked(None, Some(true), None), asked(None, None, Some(false))]
        {
            let error = plan(&states, &nodes[0], around).unwrap_err();
            assert_eq!(error.to_string(), "The master role can be changed only via master-failover");
            assert_eq!(error.ecode(), Some("wrong_input"));
        }
        let incapable = Asked { master_capable: Some(false), ..Asked::default() };
        assert!(plan(&incapable, &nodes[0], around).is_err());
    }

    #[test]
    fn what_contradicts_itself_is_refused_and_what_is_so_is_told() {
        assert!(asked(Some(true), Some(true), None).check().is_err());
        assert!(Asked { vm_capable: Some(true), ..asked(Some(true), None, None) }.check().is_err());
        assert!(asked(Some(true), Some(false), None).check().is_ok());
        let incapable = [false; 4];
        let (code, text) = refused(try_on(&asked(Some(true), None, None), incapable, &[], 10));
        assert_eq!(code, "wrong_state");
        assert!(text.ends_with("is not master capable, cannot make it a master candidate"));
        let plan = try_on(&asked(None, Some(false), None), R, &[], 10).unwrap();
        assert_eq!(plan.infos, ["Ignoring request to unset flag drained, already unset"]);
        assert!(plan.told.is_empty() && plan.set.is_empty() && plan.candidate.is_none());
    }
}
