//! Who gets no answer (`spec/confd.md` §2, §6). Each check has a datagram that only it stops.

use gantry_confd::core::wire::{Mac, seal_request};
use gantry_confd::{Form, Keys, Kind};
use gantry_model::config::Cluster;
use gantry_model::network::Network;
use gantry_rconfd::core::admit::{Dropped, Rules, admit};
use gantry_rconfd::core::options::Options;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

const NOW: u64 = 1_700_000_000;
const RSALT: &str = "00000000-0000-4000-8000-000000000001";

struct Scene {
    keys: Vec<Keys>,
    options: Options,
    from: SocketAddr,
    clock_s: u64,
}

impl Scene {
    fn new() -> Self {
        let keys =
            ["0123456789abcdef-new", "0123456789abcdef-old"].map(|text| Keys::new(text.as_bytes()).unwrap());
        let from = "192.0.2.77:5555".parse().unwrap();
        Self { keys: keys.to_vec(), options: Options::default(), from, clock_s: 300 }
    }

    fn with(key: &str, value: Value) -> Self {
        let mut cluster: Cluster = crate::objects::cluster();
        cluster.extra.insert(key.to_owned(), value);
        Self { options: Options::of(&cluster), ..Self::new() }
    }

    fn take(&self, datagram: &[u8]) -> Result<(Kind, usize), (Dropped, Option<i64>)> {
        let near: Vec<Network> = vec!["192.0.2.0/24".parse().unwrap(), "127.0.0.0/8".parse().unwrap()];
        let node: IpAddr = "203.0.113.1".parse().unwrap();
        let rules = Rules {
            options: &self.options,
            keys: &self.keys,
            near: &near,
            is_node: &|ip| ip == node,
            own: "192.0.2.1:1814".parse().unwrap(),
            clock_s: self.clock_s,
        };
        admit(&rules, datagram, self.from, NOW).map(|admitted| (admitted.request.kind, admitted.key))
    }

    fn why(&self, datagram: &[u8]) -> Dropped {
        self.take(datagram).expect_err("it is not answered").0
    }

    fn sealed(&self, form: Form, salt: &str, msg: &str) -> Vec<u8> {
        seal_request(form, &self.keys[0], salt, msg).0
    }

    fn ping(&self, form: Form) -> Vec<u8> {
        self.sealed(form, &NOW.to_string(), &message(form, &json!({})))
    }
}

fn message(form: Form, more: &Value) -> String {
    let mut all = json!({"protocol": 1, "type": 0, "query": null, "rsalt": RSALT});
    if form == Form::Second {
        all["dst"] = json!("192.0.2.1");
    }
    more.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
    all.to_string()
}

#[test]
fn good_ones_are_answered_in_both_forms_and_with_both_keys() {
    let scene = Scene::new();
    for form in [Form::Legacy, Form::Second] {
        assert_eq!(scene.take(&scene.ping(form)), Ok((Kind::Ping, 0)));
        let (old, _): (_, Mac) =
            seal_request(form, &scene.keys[1], &NOW.to_string(), &message(form, &json!({})));
        assert_eq!(scene.take(&old), Ok((Kind::Ping, 1)), "answered with the key it was made with");
    }
}

#[test]
fn each_check_stops_its_own() {
    let scene = Scene::new();
    let salt = NOW.to_string();
    for form in [Form::Legacy, Form::Second] {
        let good = scene.ping(form);
        let mut bad = good.clone();
        bad[3] = b'1';
        assert_eq!(scene.why(&bad), Dropped::Fourcc);
        assert_eq!(scene.why(&good[..good.len() - 1]), Dropped::Outer);
        let (foreign, _) =
            seal_request(form, &Keys::new(&[9; 20]).unwrap(), &salt, &message(form, &json!({})));
        assert_eq!(scene.why(&foreign), Dropped::Mac);
        let sealed = |msg: &str| scene.sealed(form, &salt, msg);
        assert_eq!(scene.why(&sealed("{}")), Dropped::Message);
        assert_eq!(scene.why(&sealed("x")), Dropped::Message);
        assert_eq!(scene.why(&sealed(&message(form, &json!({"type": 12})))), Dropped::Type);
        assert_eq!(scene.why(&sealed(&message(form, &json!({"query": []})))), Dropped::Message);
        for bad in ["", "+1700000000", " 1700000000", "1700000000.0"] {
            assert_eq!(
                scene.why(&scene.sealed(form, bad, &message(form, &json!({})))),
                Dropped::Salt,
                "{bad}"
            );
        }
    }
    assert_eq!(
        scene.why(&scene.sealed(Form::Legacy, &salt, &message(Form::Legacy, &json!({"type": 100})))),
        Dropped::Type
    );
    for dst in ["192.0.2.2", "x", ""] {
        let msg = message(Form::Second, &json!({"dst": dst}));
        assert_eq!(scene.why(&scene.sealed(Form::Second, &salt, &msg)), Dropped::Destination, "{dst}");
    }
    let mapped = message(Form::Second, &json!({"dst": "::ffff:192.0.2.1"}));
    assert!(scene.take(&scene.sealed(Form::Second, &salt, &mapped)).is_ok(), "the same address");
}

#[test]
fn a_mac_is_looked_at_before_what_it_covers() {
    let scene = Scene::new();
    // Everything inside is wrong too; only the outside is told apart, and not to who asks.
    let (bad, _) = seal_request(Form::Legacy, &Keys::new(&[9; 20]).unwrap(), "x", "{");
    assert_eq!(scene.why(&bad), Dropped::Mac);
}

#[test]
fn clocks() {
    let mut scene = Scene::new();
    let at = |scene: &Scene, salt: u64| {
        let datagram = scene.sealed(Form::Legacy, &salt.to_string(), &message(Form::Legacy, &json!({})));
        scene.take(&datagram).map(drop)
    };
    for salt in [NOW - 300, NOW - 299, NOW, NOW + 299, NOW + 300] {
        assert_eq!(at(&scene, salt), Ok(()), "{salt}");
    }
    assert_eq!(at(&scene, NOW - 301), Err((Dropped::Clock, Some(-301))));
    assert_eq!(at(&scene, NOW + 301), Err((Dropped::Clock, Some(301))));
    assert_eq!(at(&scene, u64::MAX), Err((Dropped::Clock, Some(i64::MAX))));
    scene.clock_s = 30;
    assert_eq!((at(&scene, NOW - 30), at(&scene, NOW - 31)), (Ok(()), Err((Dropped::Clock, Some(-31)))));
}

#[test]
fn sources() {
    let mut scene = Scene::new();
    let ping = scene.ping(Form::Legacy);
    for (from, answered) in [
        ("192.0.2.77:1", true),
        ("127.0.0.1:9999", true),
        ("[::ffff:192.0.2.77]:9999", true),
        ("198.51.100.1:9999", false),
        ("[2001:db8::1]:9999", false),
        ("203.0.113.1:9999", true),
        ("192.0.2.77:0", false),
        ("192.0.2.77:1814", false),
        ("203.0.113.1:1814", true),
        ("203.0.113.1:0", false),
    ] {
        scene.from = from.parse().unwrap();
        assert_eq!(scene.take(&ping).is_ok(), answered, "{from}");
    }
    let mut wide = Scene::with("confd_allowed_networks", json!(["198.51.100.0/24"]));
    for (from, answered) in [("198.51.100.1:9", true), ("192.0.2.77:9", false), ("203.0.113.1:9", false)] {
        wide.from = from.parse().unwrap();
        assert_eq!(wide.take(&ping).is_ok(), answered, "{from}");
    }
    assert!(Scene::with("confd_allowed_networks", json!([])).take(&ping).is_ok(), "an empty list is none");
}

#[test]
fn forms_by_option() {
    for (value, legacy, second) in [
        (json!("sha1"), true, false),
        (json!("both"), true, true),
        (json!("sha256"), false, true),
        // Of a newer program, or broken: the careful one.
        (json!("sha3"), false, true),
        (json!(7), false, true),
    ] {
        let scene = Scene::with("confd_digest", value.clone());
        for (form, spoken) in [(Form::Legacy, legacy), (Form::Second, second)] {
            let taken = scene.take(&scene.ping(form)).map_err(|(why, _)| why);
            assert_eq!(taken.map(drop), if spoken { Ok(()) } else { Err(Dropped::Form) }, "{value}");
        }
    }
    let scene = Scene::with("confd_legacy_networks", json!(["127.0.0.0/8"]));
    assert_eq!(scene.why(&scene.ping(Form::Legacy)), Dropped::Form);
    assert!(scene.take(&scene.ping(Form::Second)).is_ok());
    let scene = Scene::with("confd_legacy_types", json!([1, 2]));
    assert_eq!(scene.why(&scene.ping(Form::Legacy)), Dropped::Type);
    assert!(scene.take(&scene.ping(Form::Second)).is_ok());
}

#[test]
fn who_is_told_parts_of_the_configuration() {
    let (own, far): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
    let loopback: IpAddr = "127.0.0.1".parse().unwrap();
    for (value, told) in
        [("on", [true, true, true]), ("local", [true, true, false]), ("off", [false; 3]), ("x", [false; 3])]
    {
        let options = Scene::with("confd_config_query", json!(value)).options;
        assert_eq!([loopback, own, far].map(|from| options.tells_config(from, own)), told, "{value}");
    }
}

#[test]
fn long_ones_are_dropped_whole() {
    let scene = Scene::new();
    let salt = NOW.to_string();
    let empty = scene.sealed(Form::Second, &salt, &message(Form::Second, &json!({"more": ""}))).len();
    let with = |bytes: usize| {
        scene.sealed(Form::Second, &salt, &message(Form::Second, &json!({"more": "x".repeat(bytes)})))
    };
    assert_eq!(with(4096 - empty).len(), 4096);
    assert!(scene.take(&with(4096 - empty)).is_ok());
    assert_eq!(scene.why(&with(4097 - empty)), Dropped::Long);
}
