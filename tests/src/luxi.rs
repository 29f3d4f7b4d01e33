//! A LUXI client in thirty lines, for what Ganeti's own clients can't do: raw bytes, many connections, odd requests.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// End of a message (`spec/luxi.md` §2).
pub const ETX: u8 = 3;

/// One connection.
pub struct Luxi {
    stream: UnixStream,
    rest: Vec<u8>,
}

impl Luxi {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(100)))?;
        stream.set_write_timeout(Some(Duration::from_secs(100)))?;
        Ok(Self { stream, rest: Vec::new() })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the server closed.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// The next message without its end mark; None at the end of the connection.
    ///
    /// # Errors
    /// When the connection breaks in a message, or it is no JSON.
    pub fn receive(&mut self) -> Result<Option<Value>> {
        let message = self.receive_raw()?;
        if message.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_slice(&message)?)) }
    }

    /// The bytes of the next message without its end mark; none at the end of the connection.
    ///
    /// # Errors
    /// When the connection breaks in a message.
    pub fn receive_raw(&mut self) -> Result<Vec<u8>> {
        let (mut chunk, mut seen) = (vec![0; 65_536], 0);
        loop {
            if let Some(end) = self.rest[seen..].iter().position(|byte| *byte == ETX) {
                let mut message: Vec<u8> = self.rest.drain(..=seen + end).collect();
                message.pop();
                return Ok(message);
            }
            seen = self.rest.len();
            match self.stream.read(&mut chunk)? {
                0 if self.rest.is_empty() => return Ok(Vec::new()),
                0 => bail!("the connection ended in a message"),
                got => self.rest.extend_from_slice(&chunk[..got]),
            }
        }
    }

    /// One request, its whole answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(&mut self, method: &str, args: Value) -> Result<Value> {
        let mut text = json!({"method": method, "args": args, "version": 3_000_000}).to_string().into_bytes();
        text.push(ETX);
        self.send(&text)?;
        self.receive()?.context("the server closed instead of answering")
    }

    /// One request, its result.
    ///
    /// # Errors
    /// When it failed.
    pub fn call(&mut self, method: &str, args: Value) -> Result<Value> {
        let mut answer = self.ask(method, args)?;
        if answer["success"] != json!(true) {
            bail!("{method}: {}", answer["result"]);
        }
        Ok(answer["result"].take())
    }

    /// Submits a job of these opcodes; `reason` is filled in. Its id.
    ///
    /// # Errors
    /// When it is refused.
    pub fn submit(&mut self, ops: &[Value]) -> Result<u64> {
        self.call("SubmitJob", json!([ops]))?.as_u64().context("no job id")
    }

    /// The values of a query's rows; of fields without a value null.
    ///
    /// # Errors
    /// When it is refused.
    pub fn query(&mut self, kind: &str, fields: &[&str], filter: Value) -> Result<Vec<Vec<Value>>> {
        let mut answer = self.call("Query", json!([kind, fields, filter]))?;
        let rows = answer["data"].take();
        let cells = |row: &Value| row.as_array().into_iter().flatten().map(|cell| cell[1].clone()).collect();
        Ok(rows.as_array().context("no rows")?.iter().map(cells).collect())
    }

    /// The status word of a job; empty when there is none of this id.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn status(&mut self, job: u64) -> Result<String> {
        let rows = self.call("QueryJobs", json!([[job], ["status"]]))?;
        Ok(rows[0][0].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the job is final; its status word.
    ///
    /// # Errors
    /// When it is not after `within`.
    pub fn wait(&mut self, job: u64, within: Duration) -> Result<String> {
        let end = std::time::Instant::now() + within;
        let mut previous = Value::Null;
        while std::time::Instant::now() < end {
            let left = end.saturating_duration_since(std::time::Instant::now()).as_secs().clamp(1, 60);
            let answer = self.call("WaitForJobChange", json!([job, ["status"], previous, null, left]))?;
            if answer == json!("nochange") {
                continue;
            }
            previous = answer[0].clone();
            let status = previous[0].as_str().unwrap_or_default();
            if matches!(status, "success" | "error" | "canceled") {
                return Ok(status.to_owned());
            }
        }
        bail!("job {job} is not final after {within:?}: {previous}")
    }
}

/// A test-delay opcode without locks.
#[must_use]
pub fn delay(seconds: f64) -> Value {
    json!({"OP_ID": "OP_TEST_DELAY", "duration": seconds, "on_master": true, "on_nodes": [], "no_locks": true, "reason": []})
}
