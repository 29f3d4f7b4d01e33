//! Targets and Accept headers of MonD's HTTP requests, and the metrics of other daemons that it reads.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| gantry_mond::core::fuzz(data));
