//! The pure rules of NodeD: what a slot's durable record may become ([`slot`]), who may speak
//! ([`fence`]), who may join ([`join`]) and which ssconf files exist ([`ssconf`]). No I/O, clock or
//! randomness; the shell (`node`, `join`) stores and drives what these functions decide, in their order.

pub mod fence;
pub mod join;
mod rules;
pub mod slot;
pub mod ssconf;

#[cfg(test)]
mod world;

#[cfg(test)]
pub(crate) use rules::Rule;
pub use rules::Rules;
