//! What touches the machine: the durable records ([`data`]), files ([`files`]) and live facts ([`facts`]).

pub mod data;
pub mod facts;
pub mod files;
pub mod images;
pub mod room;
pub mod rootfs;
pub mod uploads;
