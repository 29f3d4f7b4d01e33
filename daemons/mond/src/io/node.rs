//! Reads what is known of this node's VMs: noded's records, without ever writing to them, and the control groups.

use crate::core::collect::node::{Instance, Slot, View, Vm, of_runtime_id};
use crate::core::collect::resources::carried;
use crate::io::cgroup::Groups;
use crate::io::sources::Places;
use gantry_proto::vmd::place;
use gantry_rt::files::read_role;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a look waits for noded's write to its file.
const BUSY: Duration = Duration::from_secs(1);
/// Place of the start time in `/proc/PID/stat`, counted after the command's closing parenthesis (proc(5)).
const START_TIME_FIELD: usize = 19;

/// All of it at once.
///
/// # Errors
/// What cannot be read, for people.
pub fn view(places: &Places, instances: Option<Vec<Instance>>) -> Result<View, String> {
    let role = read_role(&places.root).map_err(|error| format!("role.json: {error}"))?;
    let Some(role) = role else { return Ok(View { instances, ..View::default() }) };
    let file = places.root.lib().join("noded.data");
    let before = slots(&file)?;
    let groups = Groups::of(&places.sys, &role.node.to_string());
    let vms = groups.names().iter().filter_map(|id| vm(places, &groups, id)).collect();
    Ok(View::read(instances, &before, vms, slots(&file)?))
}

/// noded's records; none before it has made its file.
fn slots(file: &Path) -> Result<Vec<Slot>, String> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let read = || -> rusqlite::Result<Vec<(String, String)>> {
        let db = Connection::open_with_flags(
            file,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        db.busy_timeout(BUSY)?;
        let mut select = db.prepare("SELECT key, body FROM slot")?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    };
    let rows = read().map_err(|error| format!("noded.data: {error}"))?;
    Ok(rows.iter().filter_map(|(uuid, body)| Slot::read(uuid, body)).collect())
}

fn vm(places: &Places, groups: &Groups, id: &str) -> Option<Vm> {
    let (slot, generation) = of_runtime_id(id)?;
    let mut usage = groups.usage(id);
    if let Some(pid) = groups.first_pid(id) {
        let dir = places.proc.join(pid.to_string());
        usage.network = std::fs::read_to_string(dir.join("net/dev")).ok().map(|text| carried(&text));
        usage.up = up(places, &dir);
    }
    usage.disk = scratch(places, id).and_then(|dir| room(&dir));
    Some(Vm { id: id.to_owned(), slot: slot.to_owned(), generation, usage })
}

/// How long a process has run.
fn up(places: &Places, dir: &Path) -> Option<Duration> {
    let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(START_TIME_FIELD)?.parse().ok()?;
    let text = std::fs::read_to_string(places.proc.join("uptime")).ok()?;
    let machine: f64 = text.split_whitespace().next()?.parse().ok()?;
    #[allow(clippy::cast_precision_loss, reason = "ticks of a machine's life")]
    let begun = ticks as f64 / places.units.ticks_per_s as f64;
    Some(Duration::from_secs_f64((machine - begun).max(0.0)))
}

/// A VM's own room, which only vmd's mount namespace has.
fn scratch(places: &Places, id: &str) -> Option<PathBuf> {
    let file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(places.root.pid_file("vmd")).ok()?).ok()?;
    let pid = file["pid"].as_u64()?;
    Some(PathBuf::from(format!("{}/{pid}/root{}", places.proc.display(), place::scratch(id))))
}

/// Used and all bytes of a file system.
pub fn room(dir: &Path) -> Option<(u64, u64)> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Some((bytes(stat.blocks() - stat.blocks_free()), bytes(stat.blocks())))
}
