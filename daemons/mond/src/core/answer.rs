//! The answer to a request (`spec/mond.md` §1).

use super::accept::form;
use super::board::{Board, Millis};
use super::exposition::render;
use super::route::{Route, route};
use std::sync::Arc;

/// No such place.
pub const NOT_FOUND: &str = "Resource not found";
/// A place of reports without one.
pub const NO_REPORT: &str = "Unable to produce a report for the requested resource";
/// What may be asked.
pub const ALLOWED: &str = "GET, HEAD";

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP's.
    pub status: u16,
    /// Of the body.
    pub content_type: &'static str,
    /// How to prove oneself, where that is what is missing (WWW-Authenticate).
    pub challenge: Option<&'static str>,
    /// The body; a HEAD request gets its length only.
    pub body: Body,
}

/// A body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Made for this answer, or a fixed text.
    Text(String),
    /// A report as it lies on the board.
    Report(Arc<str>),
}

impl Body {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Report(text) => text,
        }
    }
}

fn text(status: u16, text: impl Into<String>) -> Answer {
    Answer { status, content_type: TEXT, challenge: None, body: Body::Text(text.into()) }
}

fn json(text: impl Into<String>) -> Answer {
    reported(JSON, Body::Text(text.into()))
}

fn reported(content_type: &'static str, body: Body) -> Answer {
    Answer { status: 200, content_type, challenge: None, body }
}

/// What somebody gets who has neither a certificate of the cluster nor a token, or the wrong one.
#[must_use]
pub fn stranger(has_token: bool) -> Answer {
    // RFC 6750 §3: without a token the scheme alone, with a wrong one that it is wrong.
    let (challenge, what) = if has_token {
        (r#"Bearer realm="gantry-mond", error="invalid_token""#, "This node does not know that token")
    } else {
        (r#"Bearer realm="gantry-mond""#, "Who asks here must prove itself")
    };
    let how = "send a client certificate of this cluster's CA, or Authorization: Bearer TOKEN with a token of the node's token_file";
    Answer { challenge: Some(challenge), ..text(401, format!("{what}: {how}")) }
}

/// What a request gets, whatever it is.
#[must_use]
pub fn answer(board: &Board, method: &str, target: &str, accept: Option<&str>, now: Millis) -> Answer {
    if !matches!(method, "GET" | "HEAD") {
        return text(405, format!("Only {ALLOWED} are answered here"));
    }
    match route(target) {
        Route::Versions => json("[1]"),
        Route::Version => json("null"),
        Route::Collectors => json(board.list().to_string()),
        Route::All => json(board.all()),
        Route::Report { category, name } => match board.one(category, name) {
            Some(Ok(report)) => reported(JSON, Body::Report(report)),
            Some(Err(why)) => text(503, format!("The collector {name} has no report: {why}")),
            None => text(404, NO_REPORT),
        },
        Route::NoReport => text(404, NO_REPORT),
        Route::Metrics => {
            let form = form(accept);
            let body = Body::Text(render(&board.metrics(now), form));
            reported(form.content_type(), body)
        }
        Route::Nowhere => text(404, NOT_FOUND),
    }
}

/// What is sent to a connection that gets no place, before anything is read of it.
#[must_use]
pub fn unread(status: u16, reason: &str, text: &str) -> String {
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {TEXT}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::board::Look;
    use crate::core::catalogue::index;
    use crate::core::report::Gathered;
    use crate::core::settings::Settings;
    use proptest::prelude::*;
    use serde_json::json;

    fn board() -> Board {
        let settings = Settings::read(&json!({"diskstats": {"active": false}}));
        let mut board = Board::new(&settings);
        let found =
            Ok(Gathered::figures(json!({"cpu_number": 1, "cpus": [0.5], "cpu_total": 0.5}), Vec::new()));
        board.put(index("cpu-avg-load").unwrap(), Look { at: 0, epoch: 1.5, took_s: 0.0, found });
        board
    }

    /// The table of `spec/mond.md` §1, line by line.
    #[test]
    fn the_table() {
        let board = board();
        let load = r#"{"name":"cpu-avg-load","version":"B","format_version":1,"timestamp":1500000000,"category":null,"kind":0,"data":{"cpu_number":1,"cpu_total":0.5,"cpus":[0.5]}}"#;
        let failed = "The collector lv has no report: it has not looked yet";
        for (method, target, status, kind, body) in [
            ("GET", "/", 200, JSON, "[1]"),
            ("GET", "/1", 200, JSON, "null"),
            ("GET", "/1/", 200, JSON, "null"),
            ("GET", "/2", 404, TEXT, NOT_FOUND),
            ("GET", "/1/list", 404, TEXT, NOT_FOUND),
            ("GET", "/1/filter", 404, TEXT, NOT_FOUND),
            ("GET", "/1/report", 404, TEXT, NO_REPORT),
            ("GET", "/1/report/storage", 404, TEXT, NO_REPORT),
            ("GET", "/1/report/nonsense/lv", 404, TEXT, NO_REPORT),
            ("GET", "/1/report/storage/nonsense", 404, TEXT, NO_REPORT),
            ("GET", "/1/report/storage/diskstats", 404, TEXT, NO_REPORT),
            ("GET", "/1/report/default/cpu-avg-load", 200, JSON, load),
            ("GET", "/1/report/default/cpu-avg-load?verbose=1", 200, JSON, load),
            ("GET", "/1/report/storage/lv", 503, TEXT, failed),
            ("HEAD", "/", 200, JSON, "[1]"),
            ("POST", "/", 405, TEXT, "Only GET, HEAD are answered here"),
            ("DELETE", "/nowhere", 405, TEXT, "Only GET, HEAD are answered here"),
        ] {
            let got = answer(&board, method, target, None, 0);
            assert_eq!(
                (got.status, got.content_type, got.body.as_str()),
                (status, kind, body),
                "{method} {target}"
            );
        }
        let list = answer(&board, "GET", "/1/list/collectors", None, 0);
        assert_eq!(list, answer(&board, "GET", "/1/list/collectors/", None, 0));
        let begin = r#"[["cpu-avg-load","default",0],["xen-cpu-avg-load","default",0],["drbd","storage",1],["lv","storage",0],"#;
        assert!(list.body.as_str().starts_with(begin), "{}", list.body.as_str());
        let all = answer(&board, "GET", "/1/report/all", None, 0);
        assert!(all.body.as_str().starts_with(&format!("[{load},{{")), "{}", all.body.as_str());
    }

    #[test]
    fn metrics_come_in_both_forms() {
        let open = answer(&board(), "GET", "/metrics", Some("application/openmetrics-text"), 0);
        assert!(open.content_type.starts_with("application/openmetrics-text; version=1.0.0"));
        assert!(open.body.as_str().ends_with("# EOF\n"));
        let text = answer(&board(), "GET", "/metrics", None, 0);
        assert_eq!(text.content_type, "text/plain; version=0.0.4; charset=utf-8");
        assert!(
            text.body.as_str().contains("gantry_build_info{version=") && !text.body.as_str().contains("EOF")
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(data in prop::collection::vec(any::<u8>(), 0..300), target in "(/1?/?(report|list|metrics)?/?){0,3}.{0,20}") {
            crate::core::fuzz(&data);
            crate::core::fuzz(target.as_bytes());
        }
    }
}
