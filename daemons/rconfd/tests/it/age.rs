//! A configuration that is too old to be served: everybody who was answered from it is told so, to the millisecond, and
//! nobody is met with silence.

use crate::objects::{rows, snapshot};
use crate::world::{keys, seconds};
use gantry_confd::core::reply::{Heard, open};
use gantry_confd::core::wire::{Outer, seal_request};
use gantry_confd::{Form, Kind, Query, Request};
use gantry_rconfd::core::gate::{Gate, Limits, Now, Rate};
use gantry_rconfd::core::keep::STALE_MS_MAX;
use gantry_rconfd::io::serve::{Worker, bind};
use gantry_rconfd::io::shared::{Serving, Shared};
use std::net::SocketAddr;
use std::sync::Arc;

const WIDE: Rate = Rate { per_s: 1_000, burst: 1_000 };

/// A thread that serves the tests' cluster, and nobody near it.
fn worker(shared: &Arc<Shared>) -> Worker {
    let socket = Arc::new(bind("127.0.0.1:0".parse().unwrap()).unwrap());
    Worker::new(socket, Arc::clone(shared)).unwrap()
}

fn shared() -> Arc<Shared> {
    let limits = Limits { replays: 1_000, requests: WIDE, bytes: Rate { per_s: 1 << 30, burst: 1 << 30 } };
    let gate = Gate::new(limits, Now { ms: 0, s: seconds() - 10 });
    let shared = Shared::new(gate, Vec::new(), "\"n1\"".to_owned(), 300);
    let snapshot = snapshot(&rows());
    let nodes = snapshot.nodes.values().map(|node| node.primary_ip.parse().unwrap()).collect();
    shared.serve(Serving {
        options: snapshot.options(),
        snapshot: Some(Arc::new(snapshot)),
        keys: Arc::new(vec![keys()]),
        nodes: Arc::new(nodes),
    });
    Arc::new(shared)
}

/// One question of another node; None = silence.
fn ask(worker: &mut Worker, own: SocketAddr, ms: u64) -> Option<Heard> {
    let rsalt = uuid::Uuid::new_v4().to_string();
    let dst = Some(own.ip().to_string());
    let request = Request { kind: Kind::Master, query: Query::Null, rsalt: rsalt.clone(), dst };
    let s = seconds();
    let msg = request.message(Form::Second).unwrap();
    let (datagram, mac) = seal_request(Form::Second, &keys(), &s.to_string(), &msg);
    let from = "192.0.2.2:5000".parse().unwrap();
    let (to, reply) = worker.answer(&[(from, &datagram)], Now { ms, s }).pop()?;
    assert_eq!(to, from);
    Some(open(Form::Second, &keys(), &mac, &rsalt, &Outer::parse(&reply).unwrap(), s).unwrap())
}

#[test]
fn when_the_last_configuration_is_too_old_nodes_are_told_so_and_not_ignored() {
    let shared = shared();
    let mut worker = worker(&shared);
    let own = "127.0.0.1:0".parse().unwrap();
    let mut good = |ms| {
        let heard = ask(&mut worker, own, ms).expect("no silence");
        assert_eq!(
            heard.answer.as_str().is_some_and(|text| text.contains("no valid configuration")),
            !heard.ok
        );
        assert_eq!(heard.config_serial, if heard.ok { 77 } else { 0 });
        heard.ok
    };
    assert!(!good(0), "nobody said yet that the files are good");
    shared.good_until(STALE_MS_MAX);
    assert!(good(STALE_MS_MAX - 1));
    assert!(!good(STALE_MS_MAX) && !good(STALE_MS_MAX + 17_000));
    shared.good_until(2 * STALE_MS_MAX);
    assert!(good(STALE_MS_MAX), "the files are good again");
}
