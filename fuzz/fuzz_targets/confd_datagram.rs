//! ConfD's datagrams: as they come from anybody, and signed, so that what is behind the signature is reached too.
#![no_main]

use gantry_confd::core::wire::{Outer, seal_request};
use gantry_confd::{Form, Keys};
use gantry_rconfd::core::admit::{Rules, admit};
use gantry_rconfd::core::answer::answer;
use gantry_rconfd::core::options::Options;
use gantry_rconfd::core::snapshot::Snapshot;
use libfuzzer_sys::fuzz_target;

const NOW: u64 = 1_700_000_000;

fn take(datagram: &[u8], keys: &[Keys]) -> bool {
    let options = Options::default();
    let rules = Rules {
        options: &options,
        keys,
        near: &["0.0.0.0/0".parse().expect("a network")],
        is_node: &|_| false,
        own: "192.0.2.1:1814".parse().expect("an address"),
        clock_s: 300,
    };
    let from = "192.0.2.2:9".parse().expect("an address");
    let Ok(admitted) = admit(&rules, datagram, from, NOW) else { return false };
    let said = answer(&Snapshot::default(), admitted.form, admitted.request.kind, &admitted.request.query);
    assert!(said.text.is_ascii());
    true
}

fuzz_target!(|data: &[u8]| {
    let keys = [Keys::new(b"0123456789abcdef").expect("a key")];
    let signed = Outer::parse(data).is_ok_and(|outer| outer.is_request_of(&keys[0]));
    assert!(!take(data, &keys) || signed, "answers what is not signed");
    if let Ok(msg) = std::str::from_utf8(data) {
        for form in [Form::Legacy, Form::Second] {
            take(&seal_request(form, &keys[0], &NOW.to_string(), msg).0, &keys);
        }
    }
});
