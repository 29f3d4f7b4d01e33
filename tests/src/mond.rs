//! MonD's HTTP, as a site's scripts speak it.

use crate::Node;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Port of MonD.
pub const PORT: u16 = 1815;
/// More than any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Status and body of a GET.
///
/// # Errors
/// When nobody answers, or not with HTTP.
pub fn get(node: &Node, target: &str, headers: &str) -> Result<(u16, String)> {
    let address = format!("{}:{PORT}", node.address);
    let mut stream = TcpStream::connect(&address).with_context(|| address.clone())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", node.name)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// The JSON at a path that is there.
///
/// # Errors
/// When it is not.
pub fn json(node: &Node, target: &str) -> Result<Value> {
    let (status, body) = get(node, target, "")?;
    ensure!(status == 200, "{target} on {}: {status} {body}", node.name);
    Ok(serde_json::from_str(&body)?)
}
