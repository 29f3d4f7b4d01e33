//! A root in a temporary directory with a luxid that follows a script, and the program run on it.

use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_model::role::{Role, RoleFile};
use gantry_model::root::Root;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

const ETX: u8 = 3;
/// Requests a script may hold.
const SCRIPT_MAX: usize = 64;

/// What the server does with one request.
pub enum Turn {
    /// Answers with success.
    Ok(Value),
    /// Answers with an error.
    Fail(Value),
    /// Closes the connection without an answer; the next request comes on a new one.
    Drop,
    /// Says nothing and waits until the client goes.
    Silent,
}

pub struct Stage {
    dir: tempfile::TempDir,
    pub root: Root,
}

impl Stage {
    pub fn new(role: Role) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).unwrap();
        let file = RoleFile {
            node: NodeUuid(uuid::Uuid::from_u128(1)),
            cluster: ClusterUuid(uuid::Uuid::from_u128(2)),
            role,
            epoch: 1,
        };
        gantry_rt::files::write_role(&root, &file).unwrap();
        Self { dir, root }
    }

    /// Serves one turn per request, in order; then further requests find nobody.
    pub fn luxid(&self, script: Vec<Turn>) -> Luxid {
        let listener = UnixListener::bind(self.root.socket("luxi.sock")).unwrap();
        let (sender, requests) = sync_channel(SCRIPT_MAX);
        let thread = std::thread::spawn(move || {
            let mut turns = script.into_iter().peekable();
            while turns.peek().is_some() {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some(request) = read(&mut reader) {
                    let Some(turn) = turns.next() else { panic!("not in the script: {request}") };
                    sender.send(request).unwrap();
                    match turn {
                        Turn::Ok(result) => write(&stream, &json!({"success": true, "result": result})),
                        Turn::Fail(result) => write(&stream, &json!({"success": false, "result": result})),
                        Turn::Drop => break,
                        Turn::Silent => assert!(read(&mut reader).is_none()),
                    }
                }
            }
        });
        Luxid { thread, requests }
    }

    /// The program under one of its names.
    pub fn command(&self, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
        command.arg0(words.next().unwrap()).args(words).env("GANTRY_ROOT", self.dir.path()).env("TZ", "UTC");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, line: &str) -> Ended {
        Ended::from(self.command(line).output().unwrap())
    }
}

fn read(reader: &mut impl BufRead) -> Option<Value> {
    let mut bytes = Vec::new();
    // A client that was killed may reset the connection: the same as closing it.
    let _ = reader.read_until(ETX, &mut bytes);
    if bytes.pop() != Some(ETX) {
        return None;
    }
    Some(serde_json::from_slice(&bytes).unwrap())
}

fn write(mut stream: &UnixStream, answer: &Value) {
    stream.write_all(format!("{answer}\n\u{3}").as_bytes()).unwrap();
}

pub struct Luxid {
    thread: JoinHandle<()>,
    pub requests: Receiver<Value>,
}

impl Luxid {
    /// All requests after the script has been played to its end.
    pub fn heard(self) -> Vec<(String, Value)> {
        self.thread.join().unwrap();
        let one = |request: Value| {
            assert_eq!(request["version"], 3_000_000);
            (request["method"].as_str().unwrap().to_owned(), request["args"].clone())
        };
        self.requests.into_iter().map(one).collect()
    }
}

#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The answers to a job that ends with this row of QueryJobs.
pub fn job(id: u64, row: Value) -> Vec<Turn> {
    let status = row[0].clone();
    let changed = json!([[status], [[1, [1_795_174_479, 0], "message", "* at work"]]]);
    vec![
        Turn::Ok(json!(id)),
        Turn::Ok(json!([["queued"], []])),
        Turn::Ok(changed),
        Turn::Ok(json!([[status], []])),
        Turn::Ok(json!([row])),
    ]
}

/// The answer to a query: text fields named by themselves, rows of plain values.
pub fn table(fields: &[&str], rows: Value) -> Turn {
    let fields: Vec<Value> =
        fields.iter().map(|name| json!({"name": name, "title": name, "kind": "text", "doc": ""})).collect();
    let row = |row: &Value| row.as_array().unwrap().iter().map(|value| json!([0, value])).collect::<Value>();
    let data: Vec<Value> = rows.as_array().unwrap().iter().map(row).collect();
    Turn::Ok(json!({"fields": fields, "data": data}))
}

/// Sends a signal to a running program.
pub fn signal(child: &std::process::Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}
