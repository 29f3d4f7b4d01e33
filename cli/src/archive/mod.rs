//! Tar archives: local files packed the same way each time, archives from elsewhere unpacked without trusting them,
//! images made plain.

mod image;
mod pack;
mod unpack;

pub use gantry_model::path::ENTRIES_MAX;
pub use image::{ImageNotes, normalise};
pub use pack::{PackError, Packed, Source, fits, pack, sources};
pub use unpack::{UnpackError, Unpacked, unpack};

use tar::{EntryType, Header};

/// A header that says nothing of this machine: no owner, no time.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}
