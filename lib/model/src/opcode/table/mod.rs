//! The opcode table, one file per kind of object. Data only: what the entries mean is in [`super`], what
//! the types accept in [`super::types`]. Source of all values: `spec/opcodes.md`; the big lock:
//! `spec/locks.md` §5.

mod cluster;
mod group;
mod instance;
mod network;
mod node;
mod pool;
mod various;

use super::{OpcodeSpec, Relevance};

const PARTS: [&[OpcodeSpec]; 7] =
    [cluster::SPECS, group::SPECS, node::SPECS, instance::SPECS, network::SPECS, various::SPECS, pool::SPECS];

/// Number of opcodes: the 75 of Ganeti 3.0.2 and our own.
const COUNT: usize = count();

pub(super) static ALL: [OpcodeSpec; COUNT] = joined();

const fn count() -> usize {
    let mut sum = 0;
    let mut part = 0;
    while part < PARTS.len() {
        sum += PARTS[part].len();
        part += 1;
    }
    sum
}

const fn joined() -> [OpcodeSpec; COUNT] {
    let blank = OpcodeSpec { id: "", params: &[], summary: None, needs_bgl: false, relevance: Relevance::C };
    let mut all = [blank; COUNT];
    let (mut part, mut at) = (0, 0);
    while part < PARTS.len() {
        let mut one = 0;
        while one < PARTS[part].len() {
            all[at] = PARTS[part][one];
            at += 1;
            one += 1;
        }
        part += 1;
    }
    all
}
