//! Bad input on the inside sockets: hellos and frames on `wconfd.sock`, a job's socket and noded's port.

use super::{PATIENCE, probe};
use anyhow::{Context, Result, bail, ensure};
use gantry_tests::luxi::delay;
use gantry_tests::{VirtualCluster, process, wait};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short frame").to_be_bytes();
    [&length[..], body].concat()
}

/// A hello that would be taken, to be spoilt.
fn hello(cluster: &VirtualCluster, protocol: &str) -> Result<Value> {
    let role = std::fs::read(cluster.master().root.join("var/lib/gantry/role.json"))?;
    let role: Value = serde_json::from_slice(&role)?;
    Ok(
        json!({"protocol": protocol, "versions": [1], "component": "a test", "release": "0", "frame_limit": 4_194_304,
              "cluster": role["cluster"], "epoch": role["epoch"]}),
    )
}

fn dial(path: &Path) -> Result<UnixStream> {
    let stream = UnixStream::connect(path).with_context(|| path.display().to_string())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The next frame's body; None at the end of the connection.
fn next_frame(stream: &mut impl Read) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if let Err(why) = stream.read_exact(&mut length) {
        let gone = matches!(why.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset);
        return if gone { Ok(None) } else { Err(why.into()) };
    }
    let length = usize::try_from(u32::from_be_bytes(length))?;
    ensure!(length <= 4 << 20, "a frame of {length} bytes");
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some(body))
}

/// All until the end of the connection, which must come.
fn until_closed(stream: &mut impl Read) -> Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    while let Some(body) = next_frame(stream)? {
        frames.push(body);
        ensure!(frames.len() < 100, "it does not stop talking");
    }
    Ok(frames)
}

/// The reason a hello is refused for; the connection must be closed after it.
fn refused(path: &Path, hello: &Value) -> Result<String> {
    let mut stream = dial(path)?;
    stream.write_all(&frame(hello.to_string().as_bytes()))?;
    let Some(body) = next_frame(&mut stream)? else { bail!("closed without a word after {hello}") };
    let answer: Value = serde_json::from_slice(&body)?;
    let why = answer["refused"].as_str().with_context(|| format!("{hello} → {answer}"))?.to_owned();
    ensure!(until_closed(&mut stream)?.is_empty(), "more after a refusal");
    Ok(why)
}

/// Bytes that are no hello, or no frame after a good one: an answer is allowed, a close is a must.
fn closes(stream: &mut (impl Read + Write), bytes: &[u8]) -> Result<()> {
    match stream.write_all(bytes) {
        Ok(()) => {}
        Err(why) if matches!(why.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => return Ok(()),
        Err(why) => return Err(why.into()),
    }
    match until_closed(stream) {
        Ok(_) => Ok(()),
        Err(why) => Err(why.context(format!("still open after {:?}…", &bytes[..bytes.len().min(16)]))),
    }
}

fn garbage() -> Vec<Vec<u8>> {
    vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0xff; 4096],
        vec![0; 64],
        frame(b"{not json"),
        frame(b"{}"),
        frame(b"[1,2,3]"),
        (u32::MAX).to_be_bytes().to_vec(),
        ((4 << 20) + 1_u32).to_be_bytes().to_vec(),
    ]
}

pub fn wconfd_hellos(cluster: &VirtualCluster) -> Result<()> {
    let socket = cluster.master().socket("wconfd.sock");
    let good = hello(cluster, "wconfd")?;
    let mut other = good.clone();
    other["cluster"] = json!("00000000-0000-4000-8000-000000000000");
    let why = refused(&socket, &other)?;
    ensure!(why.contains("cluster"), "another cluster: {why}");
    let mut nameless = good.clone();
    nameless["epoch"] = Value::Null;
    let why = refused(&socket, &nameless)?;
    ensure!(why.contains("epoch"), "without an epoch: {why}");
    let mut newer = good.clone();
    newer["versions"] = json!([77]);
    let why = refused(&socket, &newer)?;
    ensure!(why.contains("77") && why.contains('1'), "both lists are named: {why}");
    let mut protocol = good.clone();
    protocol["protocol"] = json!("noded");
    let why = refused(&socket, &protocol)?;
    ensure!(why.contains("noded") && why.contains("wconfd"), "{why}");
    for bytes in garbage() {
        closes(&mut dial(&socket)?, &bytes)?;
    }
    // Unknown keys are ignored for ever; what follows a good hello must be frames within the limit.
    let mut extra = good;
    extra["from_the_future"] = json!({"a": [1]});
    for bytes in [vec![0xff; 64], frame(b"no envelope"), ((4 << 20) + 1_u32).to_be_bytes().to_vec()] {
        let mut stream = dial(&socket)?;
        stream.write_all(&frame(extra.to_string().as_bytes()))?;
        let answer: Value = serde_json::from_slice(&next_frame(&mut stream)?.context("closed")?)?;
        ensure!(answer["refused"].is_null() && answer["protocol"] == json!("wconfd"), "{answer}");
        closes(&mut stream, &bytes)?;
    }
    probe(cluster)
}

/// A job's socket is luxid's; what others say on it changes nothing.
pub fn job_socket(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let job = luxi.submit(&[delay(600.0)])?;
    wait::until("the job runs", PATIENCE, || (luxi.status(job).ok()? == "running").then_some(()))?;
    let root = &cluster.master().root;
    let ours = process::jobs(root).into_iter().find(|found| found.id == job).context("its process")?;
    let socket = root.join(format!("run/gantry/job/{job}.{}.sock", ours.start));
    let mut other = hello(cluster, "job")?;
    other["cluster"] = json!("00000000-0000-4000-8000-000000000000");
    refused(&socket, &other)?;
    other["versions"] = json!([77]);
    refused(&socket, &other)?;
    for bytes in garbage() {
        closes(&mut dial(&socket)?, &bytes)?;
    }
    ensure!(luxi.status(job)? == "running" && process::lives(ours.pid), "the job goes on");
    luxi.call("CancelJob", json!([job, true]))?;
    ensure!(luxi.wait(job, PATIENCE)? == "error", "a killed job");
    probe(cluster)
}

/// The one port that faces the network: no TLS, no certificate, no words.
pub fn noded_port(cluster: &VirtualCluster) -> Result<()> {
    let address = format!("{}:1811", cluster.nodes[1].address);
    let connect = || -> Result<TcpStream> {
        let stream = TcpStream::connect(&address).with_context(|| address.clone())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    let plain_hello = frame(hello(cluster, "noded")?.to_string().as_bytes());
    for bytes in garbage().into_iter().chain([plain_hello]) {
        let mut stream = connect()?;
        stream.write_all(&bytes)?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(why) if why.kind() == ErrorKind::ConnectionReset => {}
            Err(why) => bail!("still open after {:?}…: {why}", &bytes[..bytes.len().min(16)]),
        }
        ensure!(answer.len() < 64, "it says more than a TLS alert: {answer:?}");
    }
    let idle: Vec<_> = (0..50).map(|_| connect()).collect::<Result<_>>()?;
    probe(cluster)?;
    drop(idle);
    probe(cluster)
}

/// Connections whose callers say nothing, or only half a hello.
pub fn silent(cluster: &VirtualCluster) -> Result<Vec<Box<dyn Read>>> {
    let mut silent: Vec<Box<dyn Read>> = Vec::new();
    for bytes in [&b""[..], b"\0\0", b"\0\0\x01\0{\"proto"] {
        let mut stream = dial(&cluster.master().socket("wconfd.sock"))?;
        stream.write_all(bytes)?;
        silent.push(Box::new(stream));
        let mut stream = TcpStream::connect(format!("{}:1811", cluster.nodes[1].address))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // The beginning of a TLS record.
        stream.write_all(&b"\x16\x03\x01\x01\0"[..bytes.len().min(5)])?;
        silent.push(Box::new(stream));
    }
    Ok(silent)
}

/// They must be closed after a while.
pub fn sent_away(silent: Vec<Box<dyn Read>>) -> Result<()> {
    for mut stream in silent {
        match stream.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            Err(why) if why.kind() == ErrorKind::ConnectionReset => {}
            Err(why) => return Err(why).context("a silent caller's connection stays open"),
        }
    }
    Ok(())
}
