//! The node's fence (P5.1, P5.2): the (epoch, ballot) of the one master it obeys. It rises by a claim
//! alone; a ballot of an election never touches it.

use super::Rules;
use gantry_model::ids::Fence;

/// A caller whose (epoch, ballot) is not the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FenceError {
    /// The node obeys a newer master, or another of the same epoch.
    #[error("epoch {} is out of date: this node obeys epoch {} with its ballot", given.epoch, current.epoch)]
    Old {
        /// What the caller said.
        given: Fence,
        /// What the node has.
        current: Fence,
    },
    /// The caller's master has not claimed this node yet.
    #[error("epoch {} has not claimed this node: claim it first", given.epoch)]
    Unclaimed {
        /// What the caller said.
        given: Fence,
        /// What the node has, if any master ever claimed it.
        current: Option<Fence>,
    },
}

impl FenceError {
    /// The node's own fence.
    #[must_use]
    pub fn current(&self) -> Option<Fence> {
        match self {
            Self::Old { current, .. } => Some(*current),
            Self::Unclaimed { current, .. } => *current,
        }
    }
}

/// What a claim does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// The node has this fence already.
    Same,
    /// This fence is to be stored; verbs of the old one end before the inventory is answered.
    Raised(Fence),
}

/// Whether a verb of `given` may run on a node at `current`.
///
/// # Errors
/// When the two are not the same claim.
pub fn admit(rules: Rules, current: Option<Fence>, given: Fence) -> Result<(), FenceError> {
    if !rules.fence {
        return Ok(());
    }
    match current {
        Some(current) if same(rules, current, given) => Ok(()),
        Some(current) if given.epoch <= current.epoch => Err(FenceError::Old { given, current }),
        Some(_) | None => Err(FenceError::Unclaimed { given, current }),
    }
}

/// What the claim `given` does to a node at `current`.
///
/// # Errors
/// [`FenceError::Old`] when the epoch is lower, or equal with another ballot.
pub fn claim(rules: Rules, current: Option<Fence>, given: Fence) -> Result<Claimed, FenceError> {
    match current {
        None => Ok(Claimed::Raised(given)),
        Some(current) if same(rules, current, given) => Ok(Claimed::Same),
        Some(current) if rules.fence && given.epoch <= current.epoch => {
            Err(FenceError::Old { given, current })
        }
        Some(_) => Ok(Claimed::Raised(given)),
    }
}

fn same(rules: Rules, current: Fence, given: Fence) -> bool {
    current.epoch == given.epoch && (current.ballot == given.ballot || !rules.ballot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(epoch: u64, ballot: u8) -> Fence {
        Fence { epoch, ballot: [ballot; 16] }
    }

    #[test]
    fn only_the_claimed_pair_may_speak() {
        let now = Some(fence(3, 1));
        assert_eq!(admit(Rules::ALL, now, fence(3, 1)), Ok(()));
        assert!(matches!(admit(Rules::ALL, now, fence(3, 2)), Err(FenceError::Old { .. })));
        assert!(matches!(admit(Rules::ALL, now, fence(2, 1)), Err(FenceError::Old { .. })));
        assert!(matches!(admit(Rules::ALL, now, fence(4, 1)), Err(FenceError::Unclaimed { .. })));
        assert!(matches!(admit(Rules::ALL, None, fence(1, 1)), Err(FenceError::Unclaimed { .. })));
    }

    #[test]
    fn claims_only_rise() {
        let now = Some(fence(3, 1));
        assert_eq!(claim(Rules::ALL, None, fence(1, 1)), Ok(Claimed::Raised(fence(1, 1))));
        assert_eq!(claim(Rules::ALL, now, fence(3, 1)), Ok(Claimed::Same));
        assert_eq!(claim(Rules::ALL, now, fence(4, 9)), Ok(Claimed::Raised(fence(4, 9))));
        for old in [fence(3, 2), fence(2, 1)] {
            let refused = claim(Rules::ALL, now, old).expect_err("refused");
            assert_eq!(refused.current(), now);
        }
    }
}
