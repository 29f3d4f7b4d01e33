//! The protocol rules of P5 that a node keeps, one switch each. Production has all of them; tests take
//! one away and must see a promise break.

/// Which rules hold. The only value outside tests is [`Rules::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "one switch per rule, never passed on singly")]
pub struct Rules {
    /// I2: creates at or below the floor are refused, unless they attach.
    pub(super) floor: bool,
    /// I4: a destroy raises the floor even when nothing lives.
    pub(super) confirmed_floor: bool,
    /// I2: records outlive a reboot of the machine.
    pub(super) lasting_floor: bool,
    /// A record that raises the floor is flushed before anything is done, whatever else is only written.
    pub(super) flushed_floor: bool,
    /// The first record of a slot in each boot of the machine is flushed.
    pub(super) flushed_boot: bool,
    /// What died with the machine is lost, however far an older record of it had come.
    pub(super) lost_by_reboot: bool,
    /// I12: opened is stored before the VM is touched.
    pub(super) opened_first: bool,
    /// I21: the caller's (epoch, ballot) must be the node's.
    pub(super) fence: bool,
    /// P5.1: equal epochs with different ballots are two masters.
    pub(super) ballot: bool,
    /// P5.2: the inventory tells the highest generation ever, also of slots where nothing lives.
    pub(super) full_inventory: bool,
    /// P5.3: creating is stored before the driver starts (I3).
    pub(super) intent_first: bool,
    /// P5.3: destroying is stored before the driver kills.
    pub(super) doom_first: bool,
    /// P5.4: the first lease keeps the VM.
    pub(super) first_lease: bool,
    /// P5.6: a lease that was closed can't open again.
    pub(super) closed_leases: bool,
}

impl Rules {
    /// Every rule.
    pub const ALL: Self = Self {
        floor: true,
        confirmed_floor: true,
        lasting_floor: true,
        flushed_floor: true,
        flushed_boot: true,
        lost_by_reboot: true,
        opened_first: true,
        fence: true,
        ballot: true,
        full_inventory: true,
        intent_first: true,
        doom_first: true,
        first_lease: true,
        closed_leases: true,
    };
}

/// A rule that a test can take away.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Floor,
    ConfirmedFloor,
    LastingFloor,
    FlushedFloor,
    FlushedBoot,
    LostByReboot,
    OpenedFirst,
    Fence,
    Ballot,
    FullInventory,
    IntentFirst,
    DoomFirst,
    FirstLease,
    ClosedLeases,
}

#[cfg(test)]
impl Rules {
    /// All rules but `rule`.
    pub(crate) fn without(rule: Rule) -> Self {
        let mut rules = Self::ALL;
        *match rule {
            Rule::Floor => &mut rules.floor,
            Rule::ConfirmedFloor => &mut rules.confirmed_floor,
            Rule::LastingFloor => &mut rules.lasting_floor,
            Rule::FlushedFloor => &mut rules.flushed_floor,
            Rule::FlushedBoot => &mut rules.flushed_boot,
            Rule::LostByReboot => &mut rules.lost_by_reboot,
            Rule::OpenedFirst => &mut rules.opened_first,
            Rule::Fence => &mut rules.fence,
            Rule::Ballot => &mut rules.ballot,
            Rule::FullInventory => &mut rules.full_inventory,
            Rule::IntentFirst => &mut rules.intent_first,
            Rule::DoomFirst => &mut rules.doom_first,
            Rule::FirstLease => &mut rules.first_lease,
            Rule::ClosedLeases => &mut rules.closed_leases,
        } = false;
        rules
    }
}
