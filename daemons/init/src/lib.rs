//! PID 1 of a VM (DESIGN §7) and the words it speaks with gantry-vmd.
//!
//! Its standard input is one end of a socket pair that keeps packets apart; vmd has the other. It says ready, runs
//! commands as an ordinary user when told to, says how they ended, reaps what is left to it, and ends when vmd's end
//! closes: the kernel then kills everything in the VM. It knows no limits of time or output; vmd keeps those.

pub mod command;
pub mod link;
pub mod serve;
pub mod wire;
