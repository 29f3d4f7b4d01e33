//! WConfD: the only writer of the configuration and of job locks (DESIGN §5).
//!
//! ```text
//! jobs, luxid ══ wconfd.sock ══ api ── questions ─► owner ─► store (log W, locks.data)
//!                                                    │  ▲
//!                                     watch streams ◄┘  └── claim (one task a node) ══ nodeds
//! ```
//!
//! * [`core`]: pure: configuration, lock table, inventory comparison, ssconf values.
//! * [`io`]: the owner of all state, its mailbox, and the tasks that call nodes.
//! * [`api`]: the verbs. [`serve`]: the daemon. [`init`]: a new cluster. [`elect`]: a new master.
//!   [`backup`]: the cluster as a directory, and back. [`seed`]: a large one, for benchmarks.
//!
//! It runs nothing on nodes but claims, inventories and ssconf values, and never calls luxid.

pub mod api;
pub mod args;
pub mod backup;
pub mod core;
pub mod elect;
pub mod init;
pub mod io;
pub mod seed;
pub mod serve;
