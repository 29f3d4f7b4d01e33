//! The passes by name (`model.md` §2.8).

use std::fmt;
use std::str::FromStr;

/// One reconciler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pass {
    /// DIRTY slots are destroyed and made anew.
    DestroyDirty,
    /// ABSENT slots get VMs.
    CreateSlots,
    /// Pools get the slots they lack.
    ExpandPools,
    /// Pools lose what they have too many; what is outdated goes, a few at a time.
    DrainSlots,
    /// CLEAN VMs are looked at.
    HealthCheck,
    /// Leases on nodes that do not come back are broken.
    NodeRepair,
    /// What lives on a node is compared with what should.
    AuditNodes,
}

/// There is no pass of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no pass '{name}'; there are {}", names())]
pub struct NoSuchPass {
    name: String,
}

fn names() -> String {
    Pass::ALL.map(Pass::name).join(", ")
}

impl Pass {
    /// All, in the order in which they run when several are due: what a client waits for comes first.
    pub const ALL: [Self; 7] = [
        Self::DestroyDirty,
        Self::CreateSlots,
        Self::ExpandPools,
        Self::DrainSlots,
        Self::HealthCheck,
        Self::NodeRepair,
        Self::AuditNodes,
    ];

    /// Its name, also that of its period in node.toml with `_` and `_s`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DestroyDirty => "destroy-dirty",
            Self::CreateSlots => "create-slots",
            Self::ExpandPools => "expand-pools",
            Self::DrainSlots => "drain-slots",
            Self::HealthCheck => "health-check",
            Self::NodeRepair => "node-repair",
            Self::AuditNodes => "audit-nodes",
        }
    }

    /// Whether it costs little when nothing is to be done: such passes run at once after every start and loss of events,
    /// while the others keep to their periods.
    #[must_use]
    pub fn is_quick(self) -> bool {
        !matches!(self, Self::HealthCheck | Self::AuditNodes)
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Pass {
    type Err = NoSuchPass;

    fn from_str(text: &str) -> Result<Self, NoSuchPass> {
        Self::ALL
            .into_iter()
            .find(|pass| pass.name() == text)
            .ok_or_else(|| NoSuchPass { name: text.to_owned() })
    }
}
