//! The LUXI client: one Unix connection, JSON and one byte 0x03 each way (`spec/luxi.md` §2 to §4).
//!
//! Reading calls are repeated on a new connection when luxid restarts under them. Submissions are not:
//! a repeated one could make a second job.

use crate::error::CliError;
use crate::{away, local};
use gantry_model::error::GanetiError;
use gantry_model::root::Root;
use serde_json::{Value, json};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

/// Ends each message.
const ETX: u8 = 3;
/// What Ganeti 3.0's clients send as `version`.
const VERSION: u32 = 3_000_000;
/// Longest answer taken: the limit of LUXI messages (DESIGN §4).
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How long one call may take: Ganeti's bound for clients (`spec/luxi.md` §2).
const CALL: Duration = Duration::from_secs(180);
/// How long a master's luxid may be away, such as while it restarts (`spec/luxi.md` §2).
const CONNECT: Duration = Duration::from_secs(30);
/// The same when nothing here would start it again.
const CONNECT_UNATTENDED: Duration = Duration::from_secs(1);
/// How often boot is asked whether waiting is in vain; first after so long.
const IN_VAIN: Duration = Duration::from_secs(3);
/// Between attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// Attempts of a reading call whose connection breaks under it.
const ATTEMPTS_MAX: u32 = 15;
/// Room made for each read.
const READ_BYTES: usize = 64 << 10;

/// A connection to luxid.
pub struct Luxi {
    root: Root,
    stream: UnixStream,
    /// Bytes after the last answer (none, if the server behaves).
    rest: Vec<u8>,
}

impl Luxi {
    /// Connects; waits for a luxid that is being restarted.
    ///
    /// # Errors
    /// Not the master, no cluster, luxid does not come back, no permission: each with what to do.
    pub async fn connect(root: &Root) -> Result<Self, CliError> {
        let began = Instant::now();
        let (mut patience, mut in_vain) = (None, IN_VAIN);
        loop {
            match gantry_rpc::unix::connect(&root.socket("luxi.sock")).await {
                Ok(stream) => return Ok(Self { root: root.clone(), stream, rest: Vec::new() }),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(CliError::Permission(error.to_string()));
                }
                Err(error) => {
                    // Each time: a master that came back and was replaced meanwhile is told so by its nodes.
                    local::check_master(root)?;
                    if patience.is_none() {
                        if let Some(stopped) = away::luxid_stopped(root).await {
                            return Err(stopped);
                        }
                        patience =
                            Some(if local::boot_answers(root).await { CONNECT } else { CONNECT_UNATTENDED });
                    }
                    if patience.is_some_and(|p| began.elapsed() >= p) {
                        return Err(away::luxid_away(root, &error).await);
                    }
                    if began.elapsed() >= in_vain {
                        if let Some(why) = away::luxid_in_vain(root).await {
                            return Err(why);
                        }
                        in_vain += IN_VAIN;
                    }
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Calls a method that changes nothing when it is repeated.
    ///
    /// # Errors
    /// The server's error, or why it gave no answer.
    pub async fn call(&mut self, method: &str, args: Value) -> Result<Value, CliError> {
        let mut attempt = 1;
        loop {
            match self.exchange(method, &args).await {
                Ok(answer) => return answer,
                Err(error) if attempt >= ATTEMPTS_MAX => {
                    return Err(CliError::Protocol(format!(
                        "{method}: the connection to luxid broke: {error}"
                    )));
                }
                Err(_) => {
                    attempt += 1;
                    *self = Self::connect(&self.root).await?;
                }
            }
        }
    }

    /// Calls a method that must not be repeated: a submission.
    ///
    /// # Errors
    /// As [`Luxi::call`]; when the connection breaks, whether it was done is not known, and the text says so.
    pub async fn call_once(&mut self, method: &str, args: Value) -> Result<Value, CliError> {
        self.exchange(method, &args).await.unwrap_or_else(|error| {
            Err(CliError::Protocol(format!(
                "{method}: the connection to luxid broke before the answer came: {error}\nThe job may have been \
                 submitted all the same: look with \"gnt-job list\" before you repeat the command."
            )))
        })
    }

    /// One request and its answer. The outer error is a broken connection.
    async fn exchange(&mut self, method: &str, args: &Value) -> io::Result<Result<Value, CliError>> {
        let mut request =
            json!({"method": method, "args": args, "version": VERSION}).to_string().into_bytes();
        request.push(ETX);
        let talk = async {
            self.stream.write_all(&request).await?;
            self.read_message().await
        };
        match timeout(CALL, talk).await {
            Ok(Ok(message)) => Ok(answer(&message)),
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(Err(CliError::Timeout(format!("{method}: no answer within {} s", CALL.as_secs())))),
        }
    }

    async fn read_message(&mut self) -> io::Result<Vec<u8>> {
        let mut looked_at = 0;
        loop {
            if let Some(end) = self.rest[looked_at..].iter().position(|b| *b == ETX) {
                let after = self.rest.split_off(looked_at + end + 1);
                let mut message = std::mem::replace(&mut self.rest, after);
                message.pop();
                return Ok(message);
            }
            looked_at = self.rest.len();
            if looked_at > ANSWER_BYTES_MAX {
                return Err(io::Error::other("an answer over 64 MiB; ask for fewer fields or rows"));
            }
            self.rest.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.rest).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Reads `{"success": ..., "result": ...}`.
fn answer(message: &[u8]) -> Result<Value, CliError> {
    let bad = |why: &str| CliError::Protocol(format!("the answer is no LUXI message: {why}"));
    let value: Value = serde_json::from_slice(message).map_err(|e| bad(&e.to_string()))?;
    let Value::Object(mut map) = value else { return Err(bad("no object")) };
    let result = map.remove("result").ok_or_else(|| bad("no result"))?;
    match map.get("success").and_then(Value::as_bool) {
        Some(true) => Ok(result),
        Some(false) => Err(match GanetiError::from_value(&result) {
            Some(error) => CliError::Ganeti(error),
            None => CliError::Refused(crate::output::text::plain(&result)),
        }),
        None => Err(bad("no success")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_results_or_errors() {
        assert_eq!(answer(b"{\"success\":true,\"result\":[1]}\n").unwrap(), json!([1]));
        let error = answer(br#"{"success":false,"result":["JobLost",["Can't load job file"]]}"#).unwrap_err();
        assert!(matches!(&error, CliError::Ganeti(e) if e.class == "JobLost"), "{error}");
        let error = answer(br#"{"success":false,"result":"Failed to parse request: x"}"#).unwrap_err();
        assert!(matches!(error, CliError::Refused(_)));
        for bad in [&b""[..], b"[]", b"{}", b"{\"success\":1,\"result\":1}", b"\xff"] {
            assert!(matches!(answer(bad), Err(CliError::Protocol(_))));
        }
    }
}
