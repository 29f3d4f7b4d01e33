//! Encodes answers (`spec/luxi.md` §3, §4): `{"success":…,"result":…}` and ETX, in ASCII only, never with
//! a `version`.

use super::split::ETX;
use gantry_model::error::GanetiError;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};
use std::io;

/// Room for a small answer; longer ones grow.
const ANSWER_BYTES: usize = 256;

/// A request that can't be understood. The answer is its text, then the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Failed to parse request: {0}")]
pub struct ParseFailure(pub String);

/// The answer to a request that succeeded, ready to send.
pub fn success<T: Serialize + ?Sized>(result: &T) -> Vec<u8> {
    message(true, result)
}

/// The answer to a request that failed; the connection stays open.
#[must_use]
pub fn failure(error: &GanetiError) -> Vec<u8> {
    message(false, &(&error.class, &error.args))
}

/// The answer to a request that can't be understood. The caller closes the connection after it is sent.
#[must_use]
pub fn parse_failure(failure: &ParseFailure) -> Vec<u8> {
    message(false, &failure.to_string())
}

/// [`success`] or [`failure`].
pub fn answer<T: Serialize>(outcome: &Result<T, GanetiError>) -> Vec<u8> {
    match outcome {
        Ok(result) => success(result),
        Err(error) => failure(error),
    }
}

fn message<T: Serialize + ?Sized>(success: bool, result: &T) -> Vec<u8> {
    match encode(success, result) {
        Ok(bytes) => bytes,
        Err(why) => {
            let error = GanetiError::generic(format!("can't write the answer as JSON: {why}"));
            encode(false, &(&error.class, &error.args)).expect("strings are always written")
        }
    }
}

fn encode<T: Serialize + ?Sized>(success: bool, result: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::with_capacity(ANSWER_BYTES);
    bytes.extend_from_slice(if success {
        b"{\"success\":true,\"result\":"
    } else {
        b"{\"success\":false,\"result\":"
    });
    result.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Ascii(CompactFormatter)))?;
    bytes.extend_from_slice(&[b'}', ETX]);
    Ok(bytes)
}

/// Compact JSON with everything beyond ASCII as `\uXXXX`: invalid UTF-8 breaks clients, this can't be it.
struct Ascii(CompactFormatter);

impl Formatter for Ascii {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.is_ascii() {
            return self.0.write_string_fragment(writer, fragment);
        }
        let mut units = [0; 2];
        for character in fragment.chars() {
            if character.is_ascii() {
                writer.write_all(&[u8::try_from(character).expect("checked to be ASCII")])?;
                continue;
            }
            for unit in character.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}
