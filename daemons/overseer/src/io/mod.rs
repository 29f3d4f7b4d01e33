//! Sockets and clocks: the LUXI client, the stream of events, looks at nodes, and the loop that drives the core.

pub mod luxi;
pub mod metrics;
pub mod nodes;
pub mod shell;
pub mod submit;
pub mod watch;
