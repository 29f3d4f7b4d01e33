//! What touches the machine: the durable records ([`data`]), files ([`files`]), live facts ([`facts`]), hooks
//! ([`hooks`]) and the cluster's address ([`address`]).

pub mod address;
pub mod data;
pub mod facts;
pub mod files;
pub mod hooks;
pub mod images;
pub mod room;
pub mod rootfs;
pub mod uploads;
