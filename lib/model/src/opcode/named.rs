//! Types of the table with a name of their own: they stand at several parameters or list many words
//! (`spec/opcodes.md`).

use super::Type;
use super::Type::{
    Any, Below, Int, JobRef, List, Map as Object, OneInt, OneName, OneOf, Secret, Str, Text, Tuple, Uint, Val,
};

pub(super) const TEXTS: Type = List(&Text);
pub(super) const OBJECT: Type = Object(&Str, &Any);
pub(super) const OBJECTS: Type = Object(&Str, &OBJECT);
pub(super) const SECRETS: Type = Object(&Str, &Secret(&Any));
pub(super) const SECRETS_BY_OS: Type = Object(&Str, &SECRETS);
pub(super) const UID_RANGES: Type = List(&Tuple(&[Int, Int]));
pub(super) const OS_CHANGES: Type = List(&Tuple(&[OneName(&["add", "remove"]), Text]));
/// Ganeti allows 16 disks per instance.
pub(super) const DISK_INDEX: Type = Below(16);
pub(super) const RECREATED_DISKS: Type = OneOf(&[List(&Uint), List(&Tuple(&[Uint, Object(&Text, &Val)]))]);

pub(super) const SUBMIT_PRIORITY: Type = OneInt(&[-10, 0, 10]);
pub(super) const DEPENDENCIES: Type =
    List(&Tuple(&[JobRef, List(&OneName(&["canceled", "error", "success"]))]));
pub(super) const REASON_TRAIL: Type = List(&Tuple(&[Str, Str, Int]));

/// Ganeti's six and our own back ends, which clients send unchecked (`spec/luxi.md` §8.1).
pub(super) const HYPERVISOR: Type =
    OneName(&["chroot", "fake", "kvm", "lxc", "xen-hvm", "xen-pvm", "openvz", "oci"]);
pub(super) const DISK_TEMPLATE: Type =
    OneName(&["blockdev", "diskless", "drbd", "ext", "file", "gluster", "plain", "rbd", "sharedfile"]);
pub(super) const STORAGE_TYPE: Type =
    OneName(&["file", "sharedfile", "gluster", "lvm-pv", "lvm-vg", "diskless", "blockdev", "rados", "ext"]);
pub(super) const FILE_DRIVER: Type = OneName(&["blktap", "blktap2", "loop"]);
pub(super) const ALLOC_POLICY: Type = OneName(&["last_resort", "preferred", "unallocable"]);
pub(super) const TAG_KIND: Type = OneName(&["cluster", "instance", "network", "node", "nodegroup"]);
pub(super) const MIGRATION_MODE: Type = OneName(&["live", "non-live"]);
pub(super) const EVACUATION_MODE: Type = OneName(&["all", "primary-only", "secondary-only"]);
pub(super) const EXPORT_MODE: Type = OneName(&["local", "remote"]);
pub(super) const SSH_KEY_TYPE: Type = OneName(&["dsa", "ecdsa", "rsa"]);
pub(super) const QUERY_KIND: Type = OneName(&[
    "cluster",
    "export",
    "extstorage",
    "filter",
    "group",
    "instance",
    "job",
    "lock",
    "network",
    "node",
    "os",
]);
pub(super) const VERIFY_CHECK: Type = OneName(&["nplusone_mem"]);
/// What cluster verify can find (`spec/failover.md` §7).
pub(super) const VERIFY_CODE: Type = OneName(&[
    "ECLUSTERCFG",
    "ECLUSTERCERT",
    "ECLUSTERCLIENTCERT",
    "ECLUSTERFILECHECK",
    "ECLUSTERDANGLINGNODES",
    "ECLUSTERDANGLINGINST",
    "ENODERPC",
    "ENODEVERSION",
    "ENODETIME",
    "ENODESETUP",
    "ENODESSH",
    "ENODENET",
    "ENODEHV",
    "ENODEHOOKS",
    "ENODEOS",
    "ENODEFILECHECK",
    "ENODEUSERSCRIPTS",
    "ENODEOOBPATH",
    "ENODEN1",
    "ENODEORPHANINSTANCE",
    "ENODEORPHANLV",
    "ENODELVM",
    "EGROUPDIFFERENTPVSIZE",
    "ENODEDRBD",
    "ENODEDRBDHELPER",
    "ENODEDRBDVERSION",
    "ENODEFILESTORAGEPATHS",
    "ENODEFILESTORAGEPATHUNUSABLE",
    "ENODESHAREDFILESTORAGEPATHUNUSABLE",
    "ENODEGLUSTERSTORAGEPATHUNUSABLE",
    "EINSTANCEDOWN",
    "EINSTANCEWRONGNODE",
    "EINSTANCEBADNODE",
    "EINSTANCEMISSINGDISK",
    "EINSTANCEFAULTYDISK",
    "EINSTANCELAYOUT",
    "EINSTANCEPOLICY",
    "EINSTANCESPLITGROUPS",
    "EINSTANCEUNSUITABLENODE",
    "EINSTANCEMISSINGCFGPARAMETER",
    "EEXTAGS",
]);
