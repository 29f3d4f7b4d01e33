//! The half of luxid that touches the world: the task that owns the queue, the starts of job processes, the
//! connection to wconfd, the LUXI socket, the body store and the stream socket.
//!
//! ```text
//!  luxi_server ──ask──▶ actor ──batches──▶ store
//!        ▲               │  ▲ events
//!        └──── view ◀────┘  └── desk, one task per start ══ gantry-job
//!                           └── wconfd: owners, watch, owner_gone ◀── members: whose copies count
//!  stream ──▶ blob, view, feed of changes, noded, wconfd (lease_open)
//! ```

pub mod actor;
pub mod blob;
pub mod bodies;
pub mod crypto;
pub mod desk;
pub mod feed;
pub mod grabs;
pub mod kill;
pub mod leases;
pub mod life;
pub mod liveness;
pub mod luxi_server;
pub mod members;
pub mod metrics;
pub mod nodes;
pub mod proof;
pub mod spawn;
pub mod spool;
pub mod stream;
pub mod view;
pub mod wconfd;
