//! Who holds which socket, and who is connected to whom, as the kernel says it through `ss` (iproute2).

use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// One end of a socket that a process holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// `LISTEN`, `ESTAB`, …
    pub state: String,
    /// For Unix sockets the bound path or `*`; for TCP and UDP `ADDRESS:PORT`.
    pub local: String,
    /// For Unix sockets this end's inode and its peer's; for TCP the peer's `ADDRESS:PORT`.
    pub ends: (String, String),
    /// Pids that hold it.
    pub pids: BTreeSet<u32>,
}

/// All Unix stream sockets that processes hold.
///
/// # Errors
/// When `ss` is not there.
pub fn unix() -> Result<Vec<Socket>> {
    Ok(table(&["-xapnH"])?.iter().filter_map(|line| unix_line(line)).collect())
}

/// All TCP sockets that processes hold.
///
/// # Errors
/// When `ss` is not there.
pub fn tcp() -> Result<Vec<Socket>> {
    Ok(table(&["-tapnH"])?.iter().filter_map(|line| tcp_line(line)).collect())
}

/// All UDP sockets that processes hold.
///
/// # Errors
/// When `ss` is not there.
pub fn udp() -> Result<Vec<Socket>> {
    Ok(table(&["-uapnH"])?.iter().filter_map(|line| tcp_line(line)).collect())
}

/// Pairs of connected Unix sockets: (client's pids, server's bound path, server's pids).
#[must_use]
pub fn unix_pairs(all: &[Socket]) -> Vec<(BTreeSet<u32>, String, BTreeSet<u32>)> {
    let by_inode: BTreeMap<&str, &Socket> =
        all.iter().map(|socket| (socket.ends.0.as_str(), socket)).collect();
    let named = all.iter().filter(|socket| socket.state == "ESTAB" && socket.local != "*");
    named
        .filter_map(|server| {
            let client = by_inode.get(server.ends.1.as_str())?;
            Some((client.pids.clone(), server.local.clone(), server.pids.clone()))
        })
        .collect()
}

fn table(args: &[&str]) -> Result<Vec<String>> {
    let output = Command::new("ss").args(args).output().context("ss (of iproute2)")?;
    ensure!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// `u_str ESTAB 0 0 PATH INODE * PEER users:(("name",pid=1,fd=2))`
fn unix_line(line: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [kind, state, _, _, local, inode, _, peer, rest @ ..] = words.as_slice() else { return None };
    (*kind == "u_str").then(|| Socket {
        state: (*state).to_owned(),
        local: (*local).to_owned(),
        ends: ((*inode).to_owned(), (*peer).to_owned()),
        pids: pids(&rest.join(" ")),
    })
}

/// `ESTAB 0 0 A:1 B:2 users:(("name",pid=1,fd=2))`
fn tcp_line(line: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [state, _, _, local, peer, rest @ ..] = words.as_slice() else { return None };
    Some(Socket {
        state: (*state).to_owned(),
        local: (*local).to_owned(),
        ends: ((*local).to_owned(), (*peer).to_owned()),
        pids: pids(&rest.join(" ")),
    })
}

fn pids(users: &str) -> BTreeSet<u32> {
    users.split("pid=").skip(1).filter_map(|part| part.split([',', ')']).next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{tcp_line, unix_line, unix_pairs};

    #[test]
    fn both_ends_of_a_connection_are_found() {
        let lines = [
            r#"u_str ESTAB  0 0 /x/luxi.sock 11 * 10 users:(("gantry-luxid",pid=5,fd=9))"#,
            r#"u_str ESTAB  0 0 * 10 * 11 users:(("gantry",pid=7,fd=3),("gantry",pid=8,fd=3))"#,
            r#"u_str LISTEN 0 0 /x/luxi.sock 9 * 0 users:(("gantry-luxid",pid=5,fd=8))"#,
            "u_dgr ESTAB 0 0 * 1 * 2",
        ];
        let all: Vec<_> = lines.iter().filter_map(|line| unix_line(line)).collect();
        assert_eq!(all.len(), 3);
        let pairs = unix_pairs(&all);
        assert_eq!(pairs, [([7, 8].into(), "/x/luxi.sock".to_owned(), [5].into())]);
        let tcp = tcp_line(r#"LISTEN 0 128 127.1.2.11:1811 0.0.0.0:* users:(("gantry-noded",pid=5,fd=9))"#);
        assert_eq!(
            tcp.map(|socket| (socket.local, socket.pids)),
            Some(("127.1.2.11:1811".into(), [5].into()))
        );
    }
}
