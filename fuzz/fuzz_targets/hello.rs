//! The first frame, as a server and as a client reads it; the input is the frame's body, and once more the frame.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    gantry_fuzz::serve(&gantry_fuzz::framed(data));
    gantry_fuzz::serve(data);
    gantry_fuzz::answer(gantry_fuzz::framed(data));
});
