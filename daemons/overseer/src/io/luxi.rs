//! The LUXI client (`spec/luxi.md` §2 to §4): one connection, JSON and one byte 0x03 each way.
//!
//! All the overseer calls may be repeated: queries change nothing, and keyed jobs collapse (I10). So a call whose old
//! connection turns out to be broken is made once more on a new one.

use crate::core::rows::rows;
use crate::error::LuxiError;
use gantry_model::error::GanetiError;
use gantry_model::root::Root;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Ends each message.
const ETX: u8 = 3;
/// What Ganeti 3.0's clients send as `version`.
const VERSION: u32 = 3_000_000;
/// Longest answer taken: the limit of LUXI messages (DESIGN §4).
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How long one call may take: a query of live fields waits for nodes that do not answer.
const CALL: Duration = Duration::from_secs(60);
/// Room made for each read.
const READ_BYTES: usize = 64 << 10;

/// A client of this node's luxid; connects when it is needed.
#[derive(Debug)]
pub struct Luxi {
    path: PathBuf,
    stream: Option<UnixStream>,
}

/// One job as `SubmitKeyedJob` takes it: keys and opcodes.
pub type Entry = (Vec<String>, Vec<Value>);

/// What luxid says of one entry: the job that has its keys and whether it is new, or why there is none.
pub type Submitted = Result<(u64, bool), String>;

impl Luxi {
    /// Not connected yet.
    #[must_use]
    pub fn new(root: &Root) -> Self {
        Self { path: root.socket("luxi.sock"), stream: None }
    }

    /// The rows of a kind.
    ///
    /// # Errors
    /// See [`LuxiError`].
    pub async fn query<T: DeserializeOwned>(
        &mut self,
        kind: &'static str,
        fields: &[&str],
        filter: Value,
    ) -> Result<Vec<T>, LuxiError> {
        let answer = self.call("Query", json!([kind, fields, filter])).await?;
        Ok(rows(kind, fields, answer)?)
    }

    /// Submits jobs; an answer for each, in order.
    ///
    /// # Errors
    /// See [`LuxiError`].
    pub async fn submit(&mut self, entries: &[Entry]) -> Result<Vec<Submitted>, LuxiError> {
        const METHOD: &str = "SubmitKeyedJob";
        let answer = self.call(METHOD, json!([entries])).await?;
        let bad = || LuxiError::Protocol { method: METHOD, why: "not an answer for each job".to_owned() };
        let all = answer.as_array().filter(|all| all.len() == entries.len()).ok_or_else(bad)?;
        all.iter().map(|one| submitted(one).ok_or_else(bad)).collect()
    }

    async fn call(&mut self, method: &'static str, args: Value) -> Result<Value, LuxiError> {
        let mut request =
            json!({"method": method, "args": args, "version": VERSION}).to_string().into_bytes();
        request.push(ETX);
        let answer = match timeout(CALL, self.exchange(&request)).await {
            Ok(done) => done.map_err(LuxiError::Away),
            Err(_) => Err(LuxiError::Slow { method, seconds: CALL.as_secs() }),
        };
        match answer {
            Ok(message) => result(method, &message),
            Err(error) => {
                self.stream = None;
                Err(error)
            }
        }
    }

    /// One message there and one back. The connection is kept only if both were whole.
    async fn exchange(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        if let Some(mut old) = self.stream.take()
            && let Ok(message) = talk(&mut old, request).await
        {
            self.stream = Some(old);
            return Ok(message);
        }
        let mut new = gantry_rpc::unix::connect(&self.path).await?;
        let message = talk(&mut new, request).await?;
        self.stream = Some(new);
        Ok(message)
    }
}

async fn talk(stream: &mut UnixStream, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request).await?;
    let mut message = Vec::with_capacity(READ_BYTES);
    let mut looked_at = 0;
    loop {
        if let Some(end) = message[looked_at..].iter().position(|byte| *byte == ETX) {
            message.truncate(looked_at + end);
            return Ok(message);
        }
        looked_at = message.len();
        if looked_at > ANSWER_BYTES_MAX {
            return Err(io::Error::other("an answer over 64 MiB"));
        }
        message.reserve(READ_BYTES);
        if stream.read_buf(&mut message).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Reads `{"success": …, "result": …}`.
fn result(method: &'static str, message: &[u8]) -> Result<Value, LuxiError> {
    let bad = |why: &str| LuxiError::Protocol { method, why: why.to_owned() };
    let mut value: Value = serde_json::from_slice(message).map_err(|error| bad(&error.to_string()))?;
    let success = value.get("success").and_then(Value::as_bool).ok_or_else(|| bad("no success"))?;
    let result = value.get_mut("result").map(Value::take).ok_or_else(|| bad("no result"))?;
    if success {
        return Ok(result);
    }
    let text = match GanetiError::from_value(&result) {
        Some(error) => error.to_string(),
        None => result.as_str().map_or_else(|| result.to_string(), str::to_owned),
    };
    Err(LuxiError::Refused { method, text })
}

/// `[true, job, new]` or `[false, text]`.
fn submitted(value: &Value) -> Option<Submitted> {
    match (value.get(0)?.as_bool()?, value.get(1)?) {
        (true, job) => Some(Ok((job.as_u64()?, value.get(2)?.as_bool()?))),
        (false, text) => Some(Err(text.as_str().map_or_else(|| text.to_string(), str::to_owned))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_results_or_errors() {
        assert_eq!(result("Query", br#"{"success":true,"result":[1]}"#).unwrap(), json!([1]));
        let error = result("Query", br#"{"success":false,"result":["OpPrereqError",["no such","x"]]}"#);
        assert_eq!(error.unwrap_err().to_string(), "luxid refused Query: no such");
        for bad in [&b""[..], b"[]", b"{}", b"{\"success\":1,\"result\":1}", b"\xff"] {
            assert!(matches!(result("Query", bad), Err(LuxiError::Protocol { .. })));
        }
    }

    #[test]
    fn entries_are_answered_by_jobs_or_reasons() {
        assert_eq!(submitted(&json!([true, 7, false])), Some(Ok((7, false))));
        assert_eq!(submitted(&json!([false, "full"])), Some(Err("full".to_owned())));
        for bad in [json!([]), json!([true]), json!([true, 7]), json!(["x", 7, true]), json!(null)] {
            assert_eq!(submitted(&bad), None, "{bad}");
        }
    }
}
