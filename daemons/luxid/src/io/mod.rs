//! The half of luxid that touches the world: the task that owns the queue, the starts of job processes, the
//! connection to wconfd, the LUXI socket.
//!
//! ```text
//!  luxi_server ──ask──▶ actor ──batches──▶ store
//!        ▲               │  ▲ events
//!        └──── view ◀────┘  └── desk, one task per start ══ gantry-job
//!                           └── wconfd: owners, watch, owner_gone
//! ```

pub mod actor;
pub mod bodies;
pub mod desk;
pub mod kill;
pub mod leases;
pub mod liveness;
pub mod luxi_server;
pub mod metrics;
pub mod nodes;
pub mod spawn;
pub mod spool;
pub mod view;
pub mod wconfd;
