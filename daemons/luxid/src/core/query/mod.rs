//! The query language over the configuration, jobs and locks (`spec/query.md`).
//!
//! A request goes three steps, all without I/O:
//! 1. [`Query`]: its fields and filter are bound to the kind's table. Errors that lie in the request show here.
//! 2. [`Query::plan`]: rows are selected by a [`Snapshot`](super::mirror::Snapshot) of the configuration;
//!    [`Needs`] says which nodes to ask and which jobs or locks to fetch. A query of configuration only needs
//!    nothing.
//! 3. [`Plan::finish`]: with what the shell fetched, the filter is applied again and the [`Answer`] is ready to
//!    be written; values are read from the borrowed state while it is.
//!
//! Must not know LUXI's envelope (that is `core::luxi`), sockets or clocks.

mod cell;
mod config_values;
mod field;
mod filter;
mod kinds;
mod live;
mod run;
mod tags;

#[cfg(test)]
mod tests;

pub use cell::{Cell, Missing, OpPart, Scalar};
pub use config_values::{QueueFlags, config_values};
pub use field::{FieldDef, ValueKind};
pub use filter::{
    Compare, DEPTH_MAX, Filter, FilterError, Operand, REGEX_BYTES_MAX, REGEX_COUNT_MAX, REGEX_MEMORY_MAX,
};
pub use kinds::job::JobFields;
pub use live::{LiveFacts, Unreachable};
pub use run::{Answer, Full, Inputs, JobsNeed, Needs, PlainRows, Plan, Query, TasksNeed};
pub use tags::{TagKind, tags};

use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::JobId;
use kinds::{
    blueprint, export, group, image, instance, job, lease, lock, network, node, pool, rule, slot, task,
};
use run::{Pick, Resource};
use serde::Serialize;

/// What a query is about (`spec/query.md` §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nodes.
    Node,
    /// Instances.
    Instance,
    /// Node groups.
    Group,
    /// Networks.
    Network,
    /// Exports.
    Export,
    /// Jobs.
    Job,
    /// Locks.
    Lock,
    /// Job filter rules.
    Filter,
    /// Pools (Gantry's own kind, as those below).
    Pool,
    /// Slots of pools.
    Slot,
    /// Leases, waiting requests for them included.
    Lease,
    /// Tasks.
    Task,
    /// Blueprints.
    Blueprint,
    /// Imported images.
    Image,
    /// Known, but served by jobs only.
    Cluster,
    /// Known, but served by jobs only.
    Os,
}

impl Kind {
    const ALL: [(&'static str, Self); 16] = [
        ("node", Self::Node),
        ("instance", Self::Instance),
        ("group", Self::Group),
        ("network", Self::Network),
        ("export", Self::Export),
        ("job", Self::Job),
        ("lock", Self::Lock),
        ("filter", Self::Filter),
        ("pool", Self::Pool),
        ("slot", Self::Slot),
        ("lease", Self::Lease),
        ("task", Self::Task),
        ("blueprint", Self::Blueprint),
        ("image", Self::Image),
        ("cluster", Self::Cluster),
        ("os", Self::Os),
    ];

    /// The kind of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

fn not_supported(kind: Kind) -> GanetiError {
    GanetiError::generic(format!("Queries of '{}' are not supported, submit a job instead", kind.as_str()))
}

impl Query {
    /// The method `Query`.
    ///
    /// # Errors
    /// A filter field that does not exist; a kind served by jobs only.
    pub fn full(kind: Kind, fields: &[String], filter: Option<&Filter>) -> Result<Self, GanetiError> {
        match kind {
            Kind::Node => Self::new::<node::Nodes>(fields, filter),
            Kind::Instance => Self::new::<instance::Instances>(fields, filter),
            Kind::Group => Self::new::<group::Groups>(fields, filter),
            Kind::Network => Self::new::<network::Networks>(fields, filter),
            Kind::Export => Self::new::<export::Exports>(fields, filter),
            Kind::Job => Self::new::<job::Jobs>(fields, filter),
            Kind::Lock => Self::new::<lock::Locks>(fields, filter),
            Kind::Filter => Self::new::<rule::Rules>(fields, filter),
            Kind::Pool => Self::new::<pool::Pools>(fields, filter),
            Kind::Slot => Self::new::<slot::Slots>(fields, filter),
            Kind::Lease => Self::new::<lease::Leases>(fields, filter),
            Kind::Task => Self::new::<task::Tasks>(fields, filter),
            Kind::Blueprint => Self::new::<blueprint::Blueprints>(fields, filter),
            Kind::Image => Self::new::<image::Images>(fields, filter),
            Kind::Cluster | Kind::Os => Err(not_supported(kind)),
        }
    }

    /// The methods `QueryNodes`, `QueryGroups`, `QueryNetworks`, `QueryInstances`: objects whose name or uuid
    /// is among `names`, all when there are none.
    ///
    /// # Errors
    /// An output field that does not exist; `locking`, which no server since Ganeti 2.12 offers.
    pub fn named(
        kind: Kind,
        names: &[String],
        fields: &[String],
        locking: bool,
    ) -> Result<Self, GanetiError> {
        if locking {
            return Err(GanetiError::prereq("Sync queries are not allowed", Ecode::WrongInput));
        }
        let pick = if names.is_empty() { Pick::All } else { Pick::Matching(names.to_vec()) };
        match kind {
            Kind::Node => Self::classic::<node::Nodes>(pick, fields),
            Kind::Instance => Self::classic::<instance::Instances>(pick, fields),
            Kind::Group => Self::classic::<group::Groups>(pick, fields),
            Kind::Network => Self::classic::<network::Networks>(pick, fields),
            Kind::Export => Self::classic::<export::Exports>(pick, fields),
            Kind::Filter => Self::classic::<rule::Rules>(pick, fields),
            // These came after the classic queries.
            Kind::Job
            | Kind::Lock
            | Kind::Pool
            | Kind::Slot
            | Kind::Lease
            | Kind::Task
            | Kind::Blueprint
            | Kind::Image
            | Kind::Cluster
            | Kind::Os => Err(not_supported(kind)),
        }
    }

    /// The method `QueryJobs`: these jobs, all live ones when there are none.
    ///
    /// # Errors
    /// An output field that does not exist.
    pub fn jobs(ids: &[JobId], fields: &[String]) -> Result<Self, GanetiError> {
        let name = |id: &JobId| Operand::Text(id.to_string());
        let pick = if ids.is_empty() { Pick::All } else { Pick::Named(ids.iter().map(name).collect()) };
        Self::classic::<job::Jobs>(pick, fields)
    }
}

/// Result of `QueryFields`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldsReply {
    /// The fields asked for; all, by name, when none was.
    pub fields: Vec<FieldDef>,
}

/// The method `QueryFields`.
///
/// # Errors
/// A kind served by jobs only.
pub fn query_fields(kind: Kind, names: &[String]) -> Result<FieldsReply, GanetiError> {
    let fields = match kind {
        Kind::Node => node::Nodes::fields().defs(names),
        Kind::Instance => instance::Instances::fields().defs(names),
        Kind::Group => group::Groups::fields().defs(names),
        Kind::Network => network::Networks::fields().defs(names),
        Kind::Export => export::Exports::fields().defs(names),
        Kind::Job => job::Jobs::fields().defs(names),
        Kind::Lock => lock::Locks::fields().defs(names),
        Kind::Filter => rule::Rules::fields().defs(names),
        Kind::Pool => pool::Pools::fields().defs(names),
        Kind::Slot => slot::Slots::fields().defs(names),
        Kind::Lease => lease::Leases::fields().defs(names),
        Kind::Task => task::Tasks::fields().defs(names),
        Kind::Blueprint => blueprint::Blueprints::fields().defs(names),
        Kind::Image => image::Images::fields().defs(names),
        Kind::Cluster | Kind::Os => return Err(not_supported(kind)),
    };
    Ok(FieldsReply { fields })
}
