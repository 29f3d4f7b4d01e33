//! The real program: files that come, change and go under it, keys that are renewed, what it must not answer twice.

use crate::objects::{changed, meta, node, node_uuid, row, rows};
use crate::world::{KEY, World, exchange, ping, seconds, until};
use gantry_confd::core::wire::{Outer, seal_request};
use gantry_confd::{Form, Keys, Kind, Query};
use gantry_model::config::{Node, kind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;

const BOTH: [Form; 2] = [Form::Legacy, Form::Second];
/// No bound that a test could meet.
const WIDE: &str = "rate = 1000000";

#[test]
fn both_forms_are_answered_on_both_families() {
    for ip in ["127.0.0.1", "::1"] {
        let mut world = World::at(ip.parse().unwrap(), WIDE);
        // Other tests have the port of the address that all machines have.
        world.addr.set_port(20_000 + u16::try_from(std::process::id() % 10_000).unwrap());
        let port = world.addr.port();
        let text = fs::read_to_string(world.root.node_toml()).unwrap();
        fs::write(world.root.node_toml(), format!("confd_port = {port}\n{text}")).unwrap();
        world.configure();
        world.start();
        for form in BOTH {
            let heard = world.ask(form, Kind::Master, &Query::Null).expect("an answer");
            assert_eq!(
                (heard.ok, heard.serial, heard.answer),
                (true, 40, json!("node1.example.test")),
                "{ip}"
            );
            let second = form == Form::Second;
            assert_eq!(
                (heard.config_serial, heard.node.as_str()),
                if second { (77, "node1.example.test") } else { (0, "") }
            );
        }
    }
}

#[test]
fn changes_are_served_without_reading_all_again() {
    let world = World::running(WIDE);
    for serial in 80..84 {
        let ip = format!("192.0.2.{serial}");
        world.write(&[
            meta(serial),
            row(kind::NODE, node_uuid(2), &Node { primary_ip: ip.clone(), ..node(2) }),
        ]);
        until("the change is served", || {
            let heard = world.ask(Form::Second, Kind::NodeIps, &Query::Null)?;
            (heard.config_serial == serial && heard.answer[1] == ip).then_some(())
        });
    }
    let said = world.said();
    assert_eq!(said.matches("read the configuration").count(), 1, "{said}");
}

#[test]
fn a_form_is_silenced_by_the_cluster_and_a_changed_default_link_moves_addresses() {
    let world = World::running(WIDE);
    let all = rows();
    assert!(world.ask(Form::Legacy, Kind::Ping, &Query::Null).is_some());
    world.write(&[changed(&all[1], "confd_digest", json!("sha256"))]);
    let socket = world.socket();
    until("the legacy form is silent", || {
        exchange(&socket, &ping(Form::Legacy, world.addr.ip(), seconds()).0).is_none().then_some(())
    });
    assert!(world.ask(Form::Second, Kind::Ping, &Query::Null).is_some());
    let mut cluster = crate::objects::cluster();
    cluster.nicparams.get_mut("default").unwrap().insert("link".to_owned(), json!("br1"));
    world.write(&[row(kind::CLUSTER, kind::CLUSTER_KEY, &cluster)]);
    until("addresses without a link have moved", || {
        let heard = world.ask(Form::Second, Kind::InstanceIps, &Query::Null)?;
        (heard.answer == json!(["198.51.100.1", "198.51.100.9"])).then_some(())
    });
}

#[test]
fn without_a_key_nobody_is_answered_and_a_key_that_comes_is_noticed() {
    let mut world = World::new(WIDE);
    world.configure();
    fs::remove_file(world.root.hmac_key()).unwrap();
    world.start();
    let socket = world.socket();
    assert!(exchange(&socket, &ping(Form::Legacy, world.addr.ip(), seconds()).0).is_none());
    world.write(&[meta(78)]);
    until("it goes on reading", || world.said().contains("read the configuration").then_some(()));
    assert!(exchange(&socket, &ping(Form::Legacy, world.addr.ip(), seconds()).0).is_none());
    assert_eq!(world.said().matches("no hmac.key").count(), 1, "said once: {}", world.said());
    gantry_rt::files::atomic_write(&world.root.hmac_key(), KEY.as_bytes(), 0o640).unwrap();
    until("it answers", || exchange(&socket, &ping(Form::Legacy, world.addr.ip(), seconds()).0).map(drop));
}

#[test]
fn a_renewed_key_counts_beside_the_old_one_until_that_is_gone() {
    let world = World::running(WIDE);
    let socket = world.socket();
    let renewed = "fedcba9876543210fedcba9876543210\n";
    let new = Keys::new(renewed.as_bytes()).unwrap();
    let by_new = || {
        let rsalt = uuid::Uuid::new_v4().to_string();
        let msg = json!({"protocol": 1, "type": 0, "rsalt": rsalt}).to_string();
        let (datagram, mac) = seal_request(Form::Legacy, &new, &seconds().to_string(), &msg);
        let reply = exchange(&socket, &datagram)?;
        Outer::parse(&reply).unwrap().is_reply_of(&new, &mac).then_some(())
    };
    let by_old = || exchange(&socket, &ping(Form::Legacy, world.addr.ip(), seconds()).0).map(drop);
    assert!(by_old().is_some() && by_new().is_none());
    // As noded stores it.
    gantry_rt::files::atomic_write(&world.root.old_hmac_key(), KEY.as_bytes(), 0o640).unwrap();
    gantry_rt::files::atomic_write(&world.root.hmac_key(), renewed.as_bytes(), 0o640).unwrap();
    until("the new key counts", by_new);
    assert!(by_old().is_some(), "and the old one for a while");
    fs::remove_file(world.root.old_hmac_key()).unwrap();
    until("the old one is dead", || by_old().is_none().then_some(()));
    assert!(by_new().is_some());
}

#[test]
fn a_configuration_that_comes_late_or_goes() {
    let mut world = World::new(WIDE);
    world.start();
    let ask = |world: &World, form| {
        world.ask(form, Kind::NodeRole, &Query::Text("node1".to_owned())).expect("an answer")
    };
    for form in BOTH {
        let heard = ask(&world, form);
        assert!(
            !heard.ok && heard.serial == 0 && heard.answer.as_str().is_some_and(|text| !text.contains('/'))
        );
    }
    world.configure();
    until("it is served", || ask(&world, Form::Second).ok.then_some(()));
    world.unconfigure();
    until("it is noticed", || world.said().contains("no new configuration").then_some(()));
    assert!(ask(&world, Form::Legacy).ok, "the last one is served for a minute");
    // A whole new history under the same names.
    world.configure();
    world.write(&[meta(9_000)]);
    until("the new one is served", || (ask(&world, Form::Second).config_serial == 9_000).then_some(()));
}

#[test]
fn no_request_is_answered_twice_not_even_after_a_crash() {
    let mut world = World::running(WIDE);
    let socket = world.socket();
    let sent: Vec<Vec<u8>> = BOTH.iter().map(|form| ping(*form, world.addr.ip(), seconds()).0).collect();
    // The floor of the start: two seconds of which an earlier process may have answered.
    until("the start is over", || {
        exchange(&socket, &ping(Form::Legacy, world.addr.ip(), seconds()).0).map(drop)
    });
    for datagram in &sent {
        let first = exchange(&socket, datagram);
        assert!(first.is_some() && exchange(&socket, datagram).is_none());
        // Nor is its answer a request.
        assert!(exchange(&socket, &first.unwrap()).is_none());
    }
    until("the clock goes on", || {
        let salt: u64 = seconds();
        (salt >= began(&sent[0]) + 4).then_some(())
    });
    world.kill();
    world.start();
    until("it answers", || exchange(&socket, &ping(Form::Legacy, world.addr.ip(), seconds()).0).map(drop));
    for datagram in &sent {
        assert!(exchange(&socket, datagram).is_none(), "a captured request after a restart");
    }
}

/// The time in a request's salt.
fn began(datagram: &[u8]) -> u64 {
    Outer::parse(datagram).unwrap().salt.parse().unwrap()
}

#[test]
fn a_source_gets_its_share_and_no_more() {
    let world = World::running("rate = 1\nburst = 5");
    let socket = world.socket();
    let sent: Vec<Vec<u8>> = (0..50).map(|_| ping(Form::Legacy, world.addr.ip(), seconds()).0).collect();
    sent.iter().for_each(|datagram| {
        socket.send(datagram).unwrap();
    });
    let mut buffer = [0; 4096];
    let mut answers = 0;
    while socket.recv(&mut buffer).is_ok() {
        answers += 1;
    }
    assert!((5..10).contains(&answers), "{answers} answers");
}

#[test]
fn it_ends_when_told_and_a_second_one_cannot_begin() {
    let mut world = World::running(WIDE);
    let pid = Pid::from_raw(i32::try_from(world.pid()).unwrap());
    let other = World::at(world.addr.ip(), WIDE);
    let tried = std::process::Command::new(env!("CARGO_BIN_EXE_gantry-rconfd"))
        .arg("--root")
        .arg(other.root.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&tried.stderr).into_owned();
    assert!(
        !tried.status.success() && said.contains("is the port free") | said.contains("the port free"),
        "{said}"
    );
    kill(pid, Signal::SIGTERM).unwrap();
    until("it has ended", || (!world.is_alive()).then_some(()));
    assert!(world.said().contains("ends"), "{}", world.said());
}
