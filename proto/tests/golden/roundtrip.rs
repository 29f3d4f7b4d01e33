//! What is written is read back, and what is not written is refused.

use gantry_proto::codec::{self, FRAME_BYTES_MAX, Json};
use gantry_proto::envelope::{Code, Envelope, Fail, Part};
use gantry_proto::hello::Hello;
use gantry_proto::noded::{NodeInfoReply, SlotFacts};
use gantry_proto::wconfd::{LockRequest, LockRow, Want, WatchItem};
use proptest::prelude::*;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..200)
}

fn part() -> impl Strategy<Value = Part> {
    let code = proptest::sample::select(vec![Code::UnknownVerb, Code::Ganeti, Code::Internal]);
    prop_oneof![
        (any::<u16>(), any::<u64>(), any::<String>(), bytes())
            .prop_map(|(verb, deadline_ms, trace, body)| Part::Request { verb, deadline_ms, trace, body }),
        bytes().prop_map(|body| Part::Reply { body }),
        (code, any::<String>(), bytes()).prop_map(|(code, text, body)| Part::Fail(Fail { code, text, body })),
        bytes().prop_map(|body| Part::Item { body }),
        Just(Part::Cancel),
        any::<u32>().prop_map(|items| Part::Credit { items }),
    ]
}

fn want() -> impl Strategy<Value = Want> {
    proptest::sample::select(vec![Want::Shared, Want::Exclusive, Want::Release])
}

fn refuses_noise(bytes: &[u8]) {
    let _ = codec::decode::<Envelope>(bytes);
    let _ = codec::decode::<NodeInfoReply>(bytes);
    let _ = codec::decode::<Vec<SlotFacts>>(bytes);
    let _ = codec::decode::<Vec<LockRow>>(bytes);
    let _ = codec::decode::<WatchItem>(bytes);
    let _ = codec::decode::<Json<Vec<u64>>>(bytes).map(|json| json.read());
    let _ = serde_json::from_slice::<Hello>(bytes);
}

proptest! {
    #[test]
    fn envelopes(id in any::<u64>(), part in part()) {
        let envelope = Envelope { id, part };
        let mut bytes = codec::encode(&envelope).expect("encodes");
        prop_assert_eq!(&codec::decode::<Envelope>(&bytes).expect("decodes"), &envelope);
        bytes.push(0);
        prop_assert!(codec::decode::<Envelope>(&bytes).is_err(), "a byte more");
        bytes.truncate(bytes.len() - 2);
        prop_assert!(codec::decode::<Envelope>(&bytes).is_err(), "a byte less");
    }

    #[test]
    fn lock_requests(priority in any::<i32>(), wants in proptest::collection::vec((any::<String>(), want()), 0..9)) {
        let request = LockRequest { owner: crate::sheet::ids::OWNER, priority, wants };
        let bytes = codec::encode(&request).expect("encodes");
        prop_assert_eq!(codec::decode::<LockRequest>(&bytes).expect("decodes"), request);
    }

    #[test]
    fn hellos(protocol in any::<String>(), versions in any::<Vec<u32>>(), refused in any::<Option<String>>()) {
        let hello = Hello { versions, refused, ..Hello::new(&protocol, "c") };
        let text = serde_json::to_string(&hello).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<Hello>(&text).expect("a hello"), hello);
    }

    #[test]
    fn noise_is_refused_without_harm(noise in bytes()) {
        refuses_noise(&noise);
    }
}

#[test]
fn raw_bytes_are_written_like_any_list() {
    #[derive(serde::Serialize)]
    enum Plain {
        Reply { body: Vec<u8> },
    }
    #[derive(serde::Serialize, serde::Deserialize)]
    enum Raw {
        Reply {
            #[serde(with = "codec::raw")]
            body: Vec<u8>,
        },
    }
    let body: Vec<u8> = (0..=255).collect();
    let plain = codec::encode(&Plain::Reply { body: body.clone() }).expect("encodes");
    assert_eq!(codec::encode(&Raw::Reply { body: body.clone() }).expect("encodes"), plain);
    let Raw::Reply { body: back } = codec::decode(&plain).expect("decodes");
    assert_eq!(back, body);
}

#[test]
fn forged_lengths_are_refused_at_once() {
    // A list of 2^60 elements: variable-length marker, then eight bytes.
    let forged = [&[253_u8][..], &(1_u64 << 60).to_le_bytes()].concat();
    assert!(codec::decode::<Vec<LockRow>>(&forged).is_err());
    assert!(codec::decode::<String>(&forged).is_err());
}

#[test]
fn what_is_over_the_limit_is_not_written() {
    assert!(codec::encode(&vec![0_u8; FRAME_BYTES_MAX]).is_err());
    assert!(codec::encode(&vec![0_u8; FRAME_BYTES_MAX - 5]).is_ok());
}
