//! Golden bytes of everything inside protocols put on the wire (DESIGN §4): what a release wrote, the next one
//! must read. A changed or missing line fails; `GANTRY_BLESS=1 cargo test -p gantry-proto` rewrites the files,
//! which before release 0.1.0 is allowed, and after it only for new lines.
//!
//! A sheet is a file of lines `NUMBER VERB PART INDEX HEX`; the samples name every variant of every enum.

mod base;
mod copies;
mod daemons;
mod effects;
mod noded;
mod roundtrip;
mod sheet;
mod stream;
mod vmd;
mod wconfd;
