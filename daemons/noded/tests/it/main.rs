//! gantry-noded as a real process, over real TLS connections.

mod bed;
mod copies;
mod crash;
mod crypto;
mod effects;
mod fence;
mod hostile;
mod image;
mod join;
mod losses;
mod node;
mod oci;
mod vm;
mod work;
