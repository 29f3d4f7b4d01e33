//! The table of `spec/mond.md` §1 over a real connection, and readers that behave badly.

use crate::stage::{Stage, receive, send, until};
use gantry_mond::io::gate::{CONNECTIONS_MAX, CONNECTIONS_OF_ONE_MAX};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::time::Instant;

/// Method, target, status, content type, body.
const TABLE: [(&str, &str, u16, &str, &str); 14] = [
    ("GET", "/", 200, "application/json", "[1]"),
    ("GET", "/1", 200, "application/json", "null"),
    ("GET", "/1/", 200, "application/json", "null"),
    ("GET", "/2", 404, "text/plain; charset=utf-8", "Resource not found"),
    ("GET", "/1/list", 404, "text/plain; charset=utf-8", "Resource not found"),
    ("GET", "/1/filter", 404, "text/plain; charset=utf-8", "Resource not found"),
    ("GET", "/1/report", 404, "text/plain; charset=utf-8", NO_REPORT),
    ("GET", "/1/report/storage", 404, "text/plain; charset=utf-8", NO_REPORT),
    ("GET", "/1/report/storage/nonsense", 404, "text/plain; charset=utf-8", NO_REPORT),
    ("GET", "/1/report/nonsense/lv", 404, "text/plain; charset=utf-8", NO_REPORT),
    ("GET", "/1/report/instance/inst-status-xen", 404, "text/plain; charset=utf-8", NO_REPORT),
    ("HEAD", "/", 200, "application/json", ""),
    ("POST", "/", 405, "text/plain; charset=utf-8", "Only GET, HEAD are answered here"),
    ("PUT", "/1/report/all", 405, "text/plain; charset=utf-8", "Only GET, HEAD are answered here"),
];
const NO_REPORT: &str = "Unable to produce a report for the requested resource";

#[test]
fn the_table_over_one_connection() {
    let stage = Stage::new();
    let mond = stage.mond(None);
    let mut stream = mond.connect();
    for (method, target, status, kind, body) in TABLE {
        // A request without a body, so that all go over one connection.
        send(&mut stream, method, target, "");
        let got = receive(&mut stream, method == "HEAD");
        assert_eq!(
            (got.status, got.header("content-type"), got.body.as_str()),
            (status, Some(kind), body),
            "{method} {target}"
        );
        assert_eq!(got.header("cache-control"), Some("no-store"));
        assert_eq!(got.header("transfer-encoding"), None);
        let length: usize = got.header("content-length").unwrap().parse().unwrap();
        assert_eq!(length, if method == "HEAD" { 3 } else { body.len() });
        assert_eq!(got.header("allow"), (status == 405).then_some("GET, HEAD"));
    }
    let log = stage.root.log().join("monitoring-daemon-access.log");
    until("a line for each request", || {
        let text = std::fs::read_to_string(&log).unwrap();
        (text.lines().count() >= TABLE.len() && text.contains("\"POST /\" 405 32")).then_some(())
    });
}

#[test]
fn a_body_nobody_wants_does_no_harm() {
    let stage = Stage::new();
    let mond = stage.mond(None);
    let mut stream = mond.connect();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    assert_eq!(receive(&mut stream, false).status, 405);
    assert_eq!(mond.get("/").status, 200);
}

#[test]
fn what_is_too_long_or_no_http_is_refused() {
    let stage = Stage::new();
    let mond = stage.mond(None);
    let long = format!("X: {}\r\n", "a".repeat(64 << 10));
    let many: String = (0..200).map(|number| format!("X{number}: a\r\n")).collect();
    for (text, status) in [
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{long}\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"), "431"),
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70_000)), "4"),
        ("\u{1}\u{2}nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let mut stream = mond.connect();
        // It may close before all was sent.
        let _ = stream.write_all(text.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert_eq!(mond.get("/").body, "[1]");
    }
}

/// Readers that send half a request, or never read, cost a place for a bounded time and delay nobody.
#[test]
fn ten_slow_scrapes_at_once_delay_nobody() {
    let stage = Stage::new();
    let mond = stage.mond(None);
    mond.report("default/node-resources");
    let mut slow: Vec<_> = (0..10).map(|_| mond.connect()).collect();
    for (number, stream) in slow.iter_mut().enumerate() {
        if number % 2 == 0 {
            stream.write_all(b"GET /metrics HTT").unwrap();
        } else {
            send(stream, "GET", "/1/report/all", "");
        }
    }
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(mond.get("/1/report/all").status, 200);
        assert_eq!(mond.get("/metrics").status, 200);
    }
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    // Those that were whole have their answers; the others are closed when their time is over.
    for (number, stream) in slow.iter_mut().enumerate() {
        if number % 2 == 1 {
            assert!(receive(stream, false).body.starts_with('['));
        } else {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            let rest = String::from_utf8_lossy(&rest);
            assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
        }
    }
}

#[test]
fn more_connections_than_places_wait_and_are_served() {
    let stage = Stage::new();
    let mond = stage.mond(None);
    // As many of each source as it may have; five sources are more than there are places.
    let held: Vec<_> = (2..=6)
        .flat_map(|last| std::iter::repeat_n(Ipv4Addr::new(127, 0, 0, last), CONNECTIONS_OF_ONE_MAX))
        .map(|from| mond.connect_from(from))
        .collect();
    assert!(held.len() > CONNECTIONS_MAX);
    // Idle ones are closed after their time; then there is room again.
    assert_eq!(mond.get("/").body, "[1]");
    drop(held);
}

#[test]
fn one_source_does_not_keep_others_out() {
    let stage = Stage::new();
    let mond = stage.mond(None);
    let greedy = Ipv4Addr::new(127, 0, 0, 9);
    let mut held: Vec<_> = (0..CONNECTIONS_OF_ONE_MAX).map(|_| mond.connect_from(greedy)).collect();
    // Each has a place.
    for stream in &mut held {
        send(stream, "GET", "/", "");
        assert_eq!(receive(stream, false).status, 200);
    }
    let mut more = mond.connect_from(greedy);
    send(&mut more, "GET", "/", "");
    let got = receive(&mut more, false);
    assert_eq!((got.status, got.header("connection")), (429, Some("close")));
    assert!(got.body.contains("32 connections from this address"), "{}", got.body);
    assert_eq!(more.read(&mut [0]).unwrap(), 0);
    assert_eq!(mond.get("/").status, 200);
    // Those that go make room.
    held.truncate(1);
    until("a place is free", || {
        let mut again = mond.connect_from(greedy);
        send(&mut again, "GET", "/", "");
        (receive(&mut again, false).status == 200).then_some(())
    });
}

#[test]
fn only_named_networks_may_ask() {
    let stage = Stage::new().settings("[mond]\nallow = [\"127.0.0.8/29\", \"192.0.2.1\"]\n");
    let mond = stage.mond(None);
    for (last, status) in [(7, 403), (8, 200), (15, 200), (16, 403), (1, 403)] {
        let mut stream = mond.connect_from(Ipv4Addr::new(127, 0, 0, last));
        send(&mut stream, "GET", "/", "");
        let got = receive(&mut stream, false);
        assert_eq!(got.status, status, "{last}: {}", got.body);
        assert_eq!(got.body.contains("[mond] allow"), status == 403, "{}", got.body);
        // One that may not ask is told before it has said anything, and closed.
        assert_eq!(got.header("connection"), (status == 403).then_some("close"));
    }
    let mut silent = mond.connect();
    assert_eq!(receive(&mut silent, false).status, 403);
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_network_that_is_none_is_said_at_the_start() {
    let stage = Stage::new().settings("[mond]\nallow = [\"10.0.0.0/8\", \"10.0.0.0/40\"]\n");
    let said = stage.refused();
    assert!(said.contains("[mond] allow in node.toml: '10.0.0.0/40' is no network such as"), "{said}");
}
