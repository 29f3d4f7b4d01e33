//! Who answers and who does not, said once each time it changes.

use std::collections::BTreeSet;
use uuid::Uuid;

/// The silent as of the last look.
#[derive(Debug, Default)]
pub(crate) struct Roll(BTreeSet<Uuid>);

impl Roll {
    /// Takes all copies there are, each with whether it is silent now. Those that fell silent since the last look, and those
    /// that answer again.
    pub fn call(&mut self, copies: impl Iterator<Item = (Uuid, bool)>) -> (Vec<Uuid>, Vec<Uuid>) {
        let (mut fell, mut back, mut there) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (copy, silent) in copies {
            there.insert(copy);
            if silent && self.0.insert(copy) {
                fell.push(copy);
            } else if !silent && self.0.remove(&copy) {
                back.push(copy);
            }
        }
        self.0.retain(|copy| there.contains(copy));
        (fell, back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut roll = Roll::default();
        let none = (Vec::new(), Vec::new());
        assert_eq!(roll.call([(a, false), (b, false)].into_iter()), none);
        assert_eq!(roll.call([(a, true), (b, false)].into_iter()), (vec![a], Vec::new()));
        assert_eq!(roll.call([(a, true), (b, false)].into_iter()), none);
        assert_eq!(roll.call([(a, false), (b, true)].into_iter()), (vec![b], vec![a]));
        // Taken out, it is forgotten; added again, it is told anew.
        assert_eq!(roll.call([(a, false)].into_iter()), none);
        assert_eq!(roll.call([(a, false), (b, true)].into_iter()), (vec![b], Vec::new()));
    }
}
