//! Machines of a network of their own: a network namespace for each node, and one with the bridge between them. Traffic is
//! cut from one node to another, in one direction at a time, without a firewall: the sender is told a link address that
//! nobody has, so that what it sends is lost silently, as on a cut wire. Needs root and iproute2.

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// First three numbers of the nodes' addresses; nodes get .11, .12, …
pub const NETWORK: [u8; 3] = [10, 77, 0];
/// The nodes' device.
pub const DEVICE: &str = "eth0";
/// The bridge's device.
const BRIDGE: &str = "br0";
/// A link address of nobody: locally administered.
const NOBODY: &str = "02:de:ad:00:00:01";

/// The network. Dropped, it goes with all its namespaces; the nodes' processes must have ended.
#[derive(Debug)]
pub struct Net {
    tag: String,
    nodes: u8,
}

/// Runs `ip` (of iproute2); what it printed.
fn ip(args: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(args).output().context("ip (of iproute2)")?;
    let said = crate::foreign::said(&output);
    ensure!(output.status.success(), "ip {}: {}\n{said}", args.join(" "), output.status);
    Ok(said)
}

impl Net {
    /// A network of so many nodes, all connected.
    ///
    /// # Errors
    /// When this process is not root, or `ip` fails; what was made goes.
    pub fn new(nodes: u8) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("gy{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let net = Self { tag, nodes };
        let switch = net.switch();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", BRIDGE, "up"])?;
        for number in 0..usize::from(nodes) {
            net.plug_in(number)?;
        }
        Ok(net)
    }

    fn plug_in(&self, number: usize) -> Result<()> {
        let (switch, name, port) = (self.switch(), self.name(number), format!("port{number}"));
        ip(&["netns", "add", &name])?;
        let peer = ["type", "veth", "peer", "name", DEVICE, "netns", &name];
        ip(&[&["-n", &switch, "link", "add", &port], &peer[..]].concat())?;
        ip(&["-n", &switch, "link", "set", &port, "master", BRIDGE, "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        let address = format!("{}/24", self.address(number));
        ip(&["-n", &name, "address", "add", &address, "dev", DEVICE])?;
        ip(&["-n", &name, "link", "set", DEVICE, "up"]).map(drop)
    }

    fn switch(&self) -> String {
        format!("{}-sw", self.tag)
    }

    fn name(&self, number: usize) -> String {
        format!("{}-n{number}", self.tag)
    }

    /// The address of node `number`, counted from 0.
    #[must_use]
    pub fn address(&self, number: usize) -> String {
        let [a, b, c] = NETWORK;
        format!("{a}.{b}.{c}.{}", number + 11)
    }

    /// A program that is to run on node `number`, not yet run.
    #[must_use]
    pub fn command(&self, number: usize, program: PathBuf) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name(number))).arg("--").arg(program);
        command
    }

    /// Gives the device of node `number` another address, as an operator does.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn add(&self, number: usize, address: &str) -> Result<()> {
        let address = format!("{address}/32");
        ip(&["-n", &self.name(number), "address", "add", &address, "dev", DEVICE]).map(drop)
    }

    /// Takes an address from the device of node `number`.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn remove(&self, number: usize, address: &str) -> Result<()> {
        let address = format!("{address}/32");
        ip(&["-n", &self.name(number), "address", "del", &address, "dev", DEVICE]).map(drop)
    }

    /// What node `from` sends to node `to` is lost from now on.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn cut(&self, from: usize, to: usize) -> Result<()> {
        let entry = [&self.address(to), "lladdr", NOBODY, "nud", "permanent", "dev", DEVICE];
        ip(&[&["-n", &self.name(from), "neigh", "replace"], &entry[..]].concat()).map(drop)
    }

    /// What node `from` sends to node `to` arrives again.
    ///
    /// # Errors
    /// When `ip` fails, as it does when nothing was cut.
    pub fn heal(&self, from: usize, to: usize) -> Result<()> {
        ip(&["-n", &self.name(from), "neigh", "del", &self.address(to), "dev", DEVICE]).map(drop)
    }

    /// Whether a device of node `number` has this address.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn has(&self, number: usize, address: &str) -> Result<bool> {
        let shown = ip(&["-n", &self.name(number), "-o", "-4", "address", "show"])?;
        Ok(shown.contains(&format!(" {address}/")))
    }

    /// The link address of node `number`'s device.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn link_address(&self, number: usize) -> Result<String> {
        let shown = ip(&["-n", &self.name(number), "-o", "link", "show", "dev", DEVICE])?;
        let word = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
        word.map(str::to_owned).with_context(|| shown.clone())
    }

    /// The link address that node `number` knows of a neighbour; empty when it knows none.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn neighbour(&self, number: usize, address: &str) -> Result<String> {
        let shown = ip(&["-n", &self.name(number), "neigh", "show", address])?;
        Ok(shown
            .split_whitespace()
            .skip_while(|word| *word != "lladdr")
            .nth(1)
            .unwrap_or_default()
            .to_owned())
    }

    /// Has node `number` speak to an address, whoever answers: it knows its neighbour then, if there is one.
    ///
    /// # Errors
    /// When nothing can be run there.
    pub fn speak(&self, number: usize, address: &str) -> Result<()> {
        let script = format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/1811' 2>/dev/null || true");
        let status = self.command(number, "sh".into()).args(["-c", &script]).status()?;
        ensure!(status.success(), "{status}");
        Ok(())
    }

    /// Follows the changes of addresses on node `number` until it is dropped.
    ///
    /// # Errors
    /// When `ip monitor` can't be started.
    pub fn monitor(&self, number: usize, file: &std::path::Path) -> Result<Monitor> {
        let out = std::fs::File::create(file)?;
        let mut command = Command::new("ip");
        command.args(["-n", &self.name(number), "-4", "-o", "monitor", "address"]).stdout(out);
        let child = command.spawn().context("ip monitor")?;
        Ok(Monitor { child, file: file.to_owned() })
    }
}

/// A running `ip monitor address`.
#[derive(Debug)]
pub struct Monitor {
    child: std::process::Child,
    file: PathBuf,
}

impl Monitor {
    /// What has happened to an address: whether it came (true) or went, in order.
    ///
    /// # Errors
    /// When its file can't be read.
    pub fn of(&self, address: &str) -> Result<Vec<bool>> {
        let text = std::fs::read_to_string(&self.file)?;
        let lines = text.lines().filter(|line| line.contains(&format!(" {address}/")));
        Ok(lines.map(|line| !line.starts_with("Deleted")).collect())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let all = (0..usize::from(self.nodes)).map(|number| self.name(number)).chain([self.switch()]);
        for name in all {
            // One that was never made is gone too.
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}
