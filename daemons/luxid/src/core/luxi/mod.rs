//! LUXI's bytes and words (`spec/luxi.md` §2 to §5): splits messages, parses requests, encodes answers. Knows no
//! sockets; the shell reads into a [`Splitter`], gives each message to [`parse`], and writes what [`answer`] or
//! [`parse_failure`] returns. After a parse failure it closes the connection.
//!
//! Everything here takes any bytes and never panics; [`fuzz`] is the entry for a fuzzer.

mod answer;
mod args;
mod request;
mod show;
mod split;

#[cfg(test)]
mod tests;

pub use answer::{ParseFailure, answer, failure, parse_failure, success};
pub use request::{Classic, FilterRule, METHODS, Opcodes, Request, Shape, WaitForJobChange};
pub use split::{ETX, MESSAGE_BYTES_MAX, Splitter, TooLong};

use serde_json::{Map, Value};
use show::shown;

/// Reads one message (without its ETX) as a request. `version` and unknown keys are ignored.
///
/// # Errors
/// [`ParseFailure`]: answer it, then close the connection.
pub fn parse(message: &[u8]) -> Result<Request, ParseFailure> {
    let text = std::str::from_utf8(message)
        .map_err(|why| ParseFailure(format!("parsing top-level JSON message: not UTF-8: {why}")))?;
    let value = serde_json::from_str(text)
        .map_err(|why| ParseFailure(format!("parsing top-level JSON message: Invalid JSON: {why}")))?;
    let Value::Object(mut envelope) = value else {
        return Err(ParseFailure("parsing top-level JSON message: Invalid JSON: not an object".to_owned()));
    };
    let method = take(&mut envelope, "method")?;
    let args = take(&mut envelope, "args")?;
    match method {
        Value::String(method) => request::parse_method(&method, args),
        other => {
            Err(ParseFailure(format!("Unable to parse LUXI request method: not a string: {}", shown(&other))))
        }
    }
}

fn take(envelope: &mut Map<String, Value>, key: &str) -> Result<Value, ParseFailure> {
    envelope.remove(key).ok_or_else(|| {
        let keys = Value::from_iter(envelope.keys().map(String::as_str));
        ParseFailure(format!("key '{key}' not found, object contains only {}", shown(&keys)))
    })
}

/// Longest message that [`fuzz`] lets through.
const FUZZ_MESSAGE_BYTES_MAX: usize = 1 << 16;

/// Does with `data` what the shell does with bytes of a client, up to the point where state is needed.
/// Panics only on a bug.
pub fn fuzz(data: &[u8]) {
    let mut splitter = Splitter::with_limit(FUZZ_MESSAGE_BYTES_MAX);
    for chunk in data.chunks(7) {
        splitter.push(chunk);
        loop {
            match splitter.next_message() {
                Ok(Some(message)) => fuzz_message(&message),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    fuzz_message(data);
}

fn fuzz_message(message: &[u8]) {
    let answer = match parse(message) {
        Ok(request) => match request.query() {
            Some(Err(error)) => failure(&error),
            Some(Ok(_)) | None => success(request.method()),
        },
        Err(why) => parse_failure(&why),
    };
    let (end, text) = answer.split_last().expect("an answer has its ETX");
    assert!(*end == ETX && text.is_ascii() && !text.contains(&ETX), "an answer is one ASCII message");
    let read: Result<Map<String, Value>, _> = serde_json::from_slice(text);
    let keys = read.expect("an answer is an object");
    assert!(keys.len() == 2 && keys.contains_key("success") && keys.contains_key("result"));
}
