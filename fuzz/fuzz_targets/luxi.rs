//! LUXI messages as luxid reads them from clients.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| gantry_luxid::core::luxi::fuzz(data));
