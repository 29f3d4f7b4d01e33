//! What each collector makes of the texts it reads.

pub mod containers;
pub mod daemons;
pub mod diskstats;
pub mod drbd;
pub mod instances;
pub mod lease;
pub mod load;
pub mod lv;
pub mod node;
pub mod resources;
pub mod slots;

/// Most values of one label in MonD's own metrics: disks, devices, mounts. A machine has dozens.
pub const LABELS_MAX: usize = 256;
