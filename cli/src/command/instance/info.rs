//! `gnt-instance info`: the job's answer in Ganeti's form (`spec/opcodes.md` §4).

use crate::error::CliError;
use crate::opcode::SubmitOptions;
use crate::output::info::{Info, params};
use crate::output::text::plain;
use crate::output::time::from_epoch;
use crate::output::units::{Units, shown};
use crate::session::Session;
use serde_json::{Value, json};

/// Shows instances, all or those named; `statically` asks no node.
///
/// # Errors
/// The job's; wrong usage; no instances.
pub async fn run(
    session: &mut Session,
    instances: &[String],
    all: bool,
    statically: bool,
    json: bool,
) -> Result<(), CliError> {
    session.command = "info".to_owned();
    if all != instances.is_empty() {
        return Err(CliError::Usage("name the instances, or give --all (and not both)".to_owned()));
    }
    let given = json!({"instances": instances, "static": statically, "use_locking": !statically});
    let result = session.run_op("OP_INSTANCE_QUERY_DATA", given, &SubmitOptions::default()).await?;
    let result = result.unwrap_or(Value::Null);
    if json {
        return session.screen.line(&result.to_string());
    }
    let mut found: Vec<&Value> = result.as_object().into_iter().flat_map(|map| map.values()).collect();
    if found.is_empty() {
        return Err(CliError::plain("No instances."));
    }
    found.sort_by(|a, b| gantry_model::names::natural_cmp(&plain(&a["name"]), &plain(&b["name"])));
    let all = found.iter().map(|instance| instance_info(instance, &session.zone)).collect();
    session.screen.raw(&Info::List(all).render())
}

fn instance_info(data: &Value, zone: &jiff::tz::TimeZone) -> Info {
    let text = |key: &str| Info::text(plain(&data[key]));
    let mut state = format!("configured to be {}", plain(&data["config_state"]));
    if !data["run_state"].is_null() {
        state += &format!(", actual state is {}", plain(&data["run_state"]));
    }
    let primary = Info::named([
        ("primary", text("pnode")),
        (
            "group",
            Info::text(format!(
                "{} (UUID {})",
                plain(&data["pnode_group_name"]),
                plain(&data["pnode_group_uuid"])
            )),
        ),
    ]);
    let secondaries = Info::named([("secondaries", Info::text(secondaries(data)))]);
    let nics = data["nics"].as_array().into_iter().flatten().enumerate();
    let disks = data["disks"].as_array().into_iter().flatten().enumerate();
    Info::named([
        ("Instance name", text("name")),
        ("UUID", text("uuid")),
        ("Serial number", text("serial_no")),
        ("Creation time", Info::text(from_epoch(&data["ctime"], zone))),
        ("Modification time", Info::text(from_epoch(&data["mtime"], zone))),
        ("State", Info::text(state)),
        ("Nodes", Info::List(vec![primary, secondaries])),
        ("Operating system", text("os")),
        ("Operating system parameters", params(&data["os_instance"], &data["os_actual"])),
        ("Allocated network port", text("network_port")),
        ("Hypervisor", text("hypervisor")),
        ("Hypervisor parameters", params(&data["hv_instance"], &data["hv_actual"])),
        ("Back-end parameters", params(&data["be_instance"], &data["be_actual"])),
        ("NICs", Info::List(nics.map(|(at, nic)| nic_info(at, nic)).collect())),
        ("Disk template", text("disk_template")),
        ("Disks", Info::List(disks.map(|(at, disk)| disk_info(at, disk)).collect())),
    ])
}

fn secondaries(data: &Value) -> String {
    let names = data["snodes"].as_array().into_iter().flatten();
    let one = |(at, name): (usize, &Value)| {
        let (group, uuid) = (&data["snodes_group_names"][at], &data["snodes_group_uuids"][at]);
        format!("{} (group {}, group UUID {})", plain(name), plain(group), plain(uuid))
    };
    names.enumerate().map(one).collect::<Vec<_>>().join(", ")
}

/// One NIC: `[name, uuid, ip, mac, mode, link, vlan, network uuid, network info]`.
fn nic_info(at: usize, nic: &Value) -> Info {
    let text = |i: usize| Info::text(plain(&nic[i]));
    let network = if nic[8].is_null() { plain(&nic[7]) } else { plain(&nic[8]["name"]) };
    Info::Named(vec![
        (format!("nic/{at}"), Info::text("")),
        ("MAC".to_owned(), text(3)),
        ("IP".to_owned(), text(2)),
        ("mode".to_owned(), text(4)),
        ("link".to_owned(), text(5)),
        ("vlan".to_owned(), text(6)),
        ("network".to_owned(), Info::text(network)),
        ("UUID".to_owned(), text(1)),
        ("name".to_owned(), text(0)),
    ])
}

#[allow(clippy::cast_precision_loss, reason = "sizes for people")]
fn disk_info(at: usize, disk: &Value) -> Info {
    let size = disk["size"].as_u64().map_or_else(|| plain(&disk["size"]), |mib| shown(mib as f64, Units::H));
    let text = |key: &str| Info::text(plain(&disk[key]));
    Info::Named(vec![
        (format!("disk/{at}"), Info::text(format!("{}, size {size}", plain(&disk["dev_type"])))),
        ("access mode".to_owned(), text("mode")),
        ("logical_id".to_owned(), text("logical_id")),
        ("name".to_owned(), text("name")),
        ("UUID".to_owned(), text("uuid")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_shown_as_ganeti_shows_it() {
        let data = json!({
            "name": "web1.gb.test", "uuid": "ffcc9820-d263-4129-be08-5b3dcfa151a0", "serial_no": 1,
            "ctime": 1_795_174_728.5, "mtime": 1_795_174_728.9, "config_state": "down", "run_state": "down",
            "pnode": "node1.gb.test", "pnode_group_name": "default",
            "pnode_group_uuid": "09b9637d-db50-4633-bcfd-bcfcb183a489", "snodes": [], "os": "noop+default",
            "os_instance": {}, "os_actual": {}, "network_port": null, "hypervisor": "fake", "hv_instance": {},
            "hv_actual": {}, "be_instance": {"maxmem": 16, "minmem": 16},
            "be_actual": {"always_failover": false, "auto_balance": true, "maxmem": 16, "memory": 16, "minmem": 16,
                "spindle_use": 1, "vcpus": 1},
            "nics": [[null, "d48a46ec-8518-4014-9930-c17eb92914e0", "192.0.2.200", "aa:00:00:80:12:de", "routed",
                "100", "", null, null]],
            "disk_template": "diskless", "disks": []
        });
        let want = include_str!("../../../../tests/golden/ganeti/files/gnt-instance-info.txt");
        let info = Info::List(vec![instance_info(&data, &jiff::tz::TimeZone::UTC)]);
        assert_eq!(info.render(), want);
    }
}
