//! What follows a sound hello, as a server and as a client reads it; the input is the bytes of the stream, and once
//! more the body of one frame.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let after_hello = |bytes: &[u8]| [gantry_fuzz::hello_frame(), bytes.to_vec()].concat();
    gantry_fuzz::serve(&after_hello(data));
    gantry_fuzz::answer(after_hello(data));
    gantry_fuzz::serve(&after_hello(&gantry_fuzz::framed(data)));
    gantry_fuzz::answer(after_hello(&gantry_fuzz::framed(data)));
});
