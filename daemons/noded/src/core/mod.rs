//! The pure rules of NodeD: what a slot's durable record may become ([`slot`]), who may speak
//! ([`fence`]), who may join ([`join`]), which ssconf files exist ([`ssconf`]), what is a hook ([`hooks`]), who asks ConfD in its old form ([`legacy`]) and when the cluster's
//! address is here ([`master_ip`]). No I/O, clock or
//! randomness; the shell (`node`, `join`) stores and drives what these functions decide, in their order.

pub mod fence;
pub mod hooks;
pub mod join;
pub mod legacy;
pub mod master_ip;
mod rules;
pub mod slot;
pub mod ssconf;

#[cfg(test)]
mod world;

#[cfg(test)]
pub(crate) use rules::Rule;
pub use rules::Rules;
