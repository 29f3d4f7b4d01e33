//! What Gantry uses but does not bring, from Debian's packages: Ganeti's own clients for the compatibility tests, an OCI
//! runtime for VMs, and what the tests run inside them, which see this machine's /usr. Never the package `ganeti`, whose services would start; a policy that answers 101 keeps those of
//! its dependencies from starting.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::run::run;

/// What the tests use: the Python clients, the daemons in Haskell (of them ConfD, beside ours) and the htools.
const PACKAGES: [&str; 3] = ["ganeti-3.0", "ganeti-haskell-3.0", "ganeti-htools"];
/// Proof that they are there.
const PROOFS: [&str; 3] =
    ["/usr/share/ganeti/3.0/ganeti/luxi.py", "/usr/lib/ganeti/3.0/usr/sbin/ganeti-confd", "/usr/bin/hbal"];
/// OCI runtimes that gantry-vmd takes; the first is the one installed when there is none.
const RUNTIMES: [&str; 2] = ["crun", "runc"];
/// Where they may be.
const RUNTIME_DIRS: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin"];
/// What the examples and tests run in VMs of image `host`, which have the node's /usr: (program, package).
const IN_VMS: [(&str, &str); 2] = [("/usr/bin/python3", "python3"), ("/usr/bin/gcc", "gcc")];
/// The C library's headers, which gcc's package only recommends.
const HEADERS: (&str, &str) = ("/usr/include/stdio.h", "libc6-dev");
/// Looks at sockets, and makes networks of namespaces for the tests; noded's own tool for the cluster's address.
const IPROUTE: (&str, &str) = ("/usr/sbin/ip", "iproute2");
/// Checks MonD's metrics and alert rules. Its own service is not started.
const PROMTOOL: (&str, &str) = ("/usr/bin/promtool", "prometheus");
/// Shows the daemons of a test another time.
const FAKETIME: (&str, &str) = ("/usr/bin/faketime", "faketime");
/// Builds the fuzzer, which is written in C++.
const CXX: (&str, &str) = ("/usr/bin/g++", "g++");
/// Only for comparison, in the benches.
const PODMAN: (&str, &str) = ("/usr/bin/podman", "podman");
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs all that is missing.
pub fn install() -> Result<()> {
    if !PROOFS.iter().all(|proof| Path::new(proof).exists()) {
        packages(&PACKAGES, "Ganeti's own clients, for the compatibility tests")?;
    }
    missing(&[IPROUTE], "networks of the tests' own, and the cluster's address")?;
    missing(&[FAKETIME], "clocks that are years off, in tests")?;
    missing(&[PROMTOOL], "its promtool checks MonD's metrics")?;
    runtime()?;
    in_vms()
}

/// Checks for and installs what VMs need: root, a runtime, and what the examples run.
pub fn for_vms() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "real VMs need root: run this as root (sudo -E cargo xtask …)");
    runtime()?;
    in_vms()
}

/// Installs what the benches compare with.
pub fn for_benches() -> Result<()> {
    for_vms()?;
    missing(&[PODMAN], "compared with in the bench, otherwise not used")
}

/// Installs what fuzz targets are built with.
pub fn for_fuzzing() -> Result<()> {
    missing(&[CXX], "builds the fuzzer of the fuzz targets")
}

fn in_vms() -> Result<()> {
    missing(&[IN_VMS[0], IN_VMS[1], HEADERS], "run inside VMs by the examples and tests")
}

fn missing(wanted: &[(&str, &str)], why: &str) -> Result<()> {
    let absent = wanted.iter().filter(|(proof, _)| !Path::new(proof).exists());
    let names: Vec<&str> = absent.map(|(_, package)| *package).collect();
    if names.is_empty() { Ok(()) } else { packages(&names, why) }
}

/// Installs an OCI runtime unless there is one.
pub fn runtime() -> Result<()> {
    let there = |name: &&str| RUNTIME_DIRS.iter().any(|dir| Path::new(dir).join(name).is_file());
    if RUNTIMES.iter().any(there) {
        return Ok(());
    }
    packages(&RUNTIMES[..1], "the OCI runtime that makes VMs")
}

fn packages(names: &[&str], why: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("Debian's {} needed ({why}): install, or run this once as root", names.join(" and "));
    }
    eprintln!("installing {} ({why})", names.join(", "));
    let policy = Policy::set()?;
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-q", "-y"]).args(args).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command)
    };
    let install = [&["install", "--no-install-recommends"], names].concat();
    // Package lists may be missing or old on a new machine: a second try with fresh ones.
    let done = apt(&install).or_else(|_| apt(&["update"]).and_then(|()| apt(&install)));
    drop(policy);
    done
}

/// Forbids services to start while packages are installed, unless something does so already.
struct Policy {
    ours: bool,
}

impl Policy {
    fn set() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").context(POLICY)?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: true })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}
