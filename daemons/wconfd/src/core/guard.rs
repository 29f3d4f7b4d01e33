//! Which lock a job must hold for a command (`spec/locks.md` §4). A job whose locks were freed, since
//! it was thought dead, changes nothing any more.
//!
//! Slots are guarded by their generation instead (DESIGN §5), leases by their uuid, and the cluster object, pools and
//! what they are made from by their revision.

use super::config::Config;
use super::locks::{Level, LockName, Mode};
use gantry_model::ids::InstanceUuid;
use gantry_proto::wconfd::{Command, TagTarget};

/// The lock that the asking job must hold exclusively; None = none.
/// Objects that do not exist need none: the command will be refused for that.
#[must_use]
pub fn needed(config: &Config, command: &Command) -> Option<LockName> {
    match command {
        Command::NodeAdd { .. } | Command::NodeRemove { .. } => Some(LockName::bgl()),
        Command::NodeSet { node, .. } | Command::TagsAdd { target: TagTarget::Node(node), .. } => {
            named(Level::Node, &node.to_string())
        }
        Command::TagsDel { target: TagTarget::Node(node), .. } => named(Level::Node, &node.to_string()),
        Command::GroupAdd { group } => named(Level::NodeGroup, &group.uuid.to_string()),
        Command::GroupRemove { group } | Command::GroupSet { group, .. } => {
            named(Level::NodeGroup, &group.to_string())
        }
        Command::InstanceAdd { instance } => named(Level::Instance, &instance.name),
        Command::InstanceRemove { instance }
        | Command::InstanceSetState { instance, .. }
        | Command::InstanceSet { instance, .. }
        | Command::TagsAdd { target: TagTarget::Instance(instance), .. }
        | Command::TagsDel { target: TagTarget::Instance(instance), .. } => named_instance(config, *instance),
        Command::ClusterSet { .. }
        | Command::GroupAssign { .. }
        | Command::TagsAdd { target: TagTarget::Cluster | TagTarget::Group(_), .. }
        | Command::TagsDel { target: TagTarget::Cluster | TagTarget::Group(_), .. }
        | Command::SlotBegin { .. }
        | Command::SlotReady { .. }
        | Command::SlotDirty { .. }
        | Command::SlotBeginDestroy { .. }
        | Command::SlotAbsent { .. }
        | Command::BlueprintAdd { .. }
        | Command::BlueprintSet { .. }
        | Command::BlueprintRemove { .. }
        | Command::PoolAdd { .. }
        | Command::PoolSet { .. }
        | Command::PoolRemove { .. }
        | Command::ImageAdd { .. }
        | Command::ImageRemove { .. }
        | Command::SlotAdd { .. }
        | Command::SlotRemove { .. }
        | Command::SlotDrain { .. }
        | Command::SlotUnstick { .. }
        | Command::LeaseGrab { .. }
        | Command::LeaseRenew { .. }
        | Command::LeaseOpen { .. }
        | Command::LeaseReturn { .. }
        | Command::LeaseEnd { .. }
        | Command::LeaseDestroy { .. }
        | Command::LeaseForget { .. } => None,
    }
}

/// Whether only luxid may send it, which is no job: who else granted and ended leases would take VMs from under others.
/// A job ends the lease of its own attempt with [`Command::LeaseDestroy`], which names its VM as well.
#[must_use]
pub fn luxid_only(command: &Command) -> bool {
    matches!(
        command,
        Command::LeaseGrab { .. }
            | Command::LeaseRenew { .. }
            | Command::LeaseReturn { .. }
            | Command::LeaseEnd { .. }
            | Command::LeaseForget { .. }
    )
}

fn named(level: Level, name: &str) -> Option<LockName> {
    LockName::named(level, name).ok()
}

fn named_instance(config: &Config, uuid: InstanceUuid) -> Option<LockName> {
    named(Level::Instance, &config.instance(uuid)?.name)
}

/// Whether a job that holds `held` may do what needs `lock`: it has the lock, its level's group lock,
/// or the big lock, exclusively.
#[must_use]
pub fn covers<'a>(held: impl IntoIterator<Item = (&'a LockName, Mode)>, lock: &LockName) -> bool {
    let (group, big) = (lock.group(), LockName::bgl());
    held.into_iter().any(|(name, mode)| {
        mode == Mode::Exclusive && (name == lock || Some(name) == group.as_ref() || *name == big)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_lock_and_the_big_lock_cover() {
        let wanted: LockName = "instance/a".parse().unwrap();
        for (held, mode, want) in [
            ("instance/a", Mode::Exclusive, true),
            ("instance/a", Mode::Shared, false),
            ("instance/[lockset]", Mode::Exclusive, true),
            ("cluster/BGL", Mode::Exclusive, true),
            ("cluster/BGL", Mode::Shared, false),
            ("instance/b", Mode::Exclusive, false),
            ("node/[lockset]", Mode::Exclusive, false),
        ] {
            let name: LockName = held.parse().unwrap();
            assert_eq!(covers([(&name, mode)], &wanted), want, "{held} {mode}");
        }
    }
}
