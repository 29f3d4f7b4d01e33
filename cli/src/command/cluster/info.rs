//! `gnt-cluster info`: the answer of QueryClusterInfo in Ganeti's form (`spec/luxi.md` §6).

use super::policy::policy_info;
use crate::output::info::{Info, params};
use crate::output::text::plain;
use crate::output::time::from_epoch;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

/// All that is shown. `address` is the cluster's own, if it has one.
#[must_use]
pub fn info(answer: &Value, address: Option<String>, zone: &TimeZone) -> Info {
    let text = |key: &str| Info::text(plain(&answer[key]));
    let own = |key: &str| params(&answer[key], &answer[key]);
    let architecture =
        format!("{} ({})", plain(&answer["architecture"][0]), plain(&answer["architecture"][1]));
    Info::named([
        ("Cluster name", text("name")),
        ("Cluster UUID", text("uuid")),
        ("Creation time", Info::text(from_epoch(&answer["ctime"], zone))),
        ("Modification time", Info::text(from_epoch(&answer["mtime"], zone))),
        ("Master node", text("master")),
        ("Architecture (this node)", Info::text(architecture)),
        ("Tags", Info::text(or_none(&joined(&answer["tags"])))),
        ("Default hypervisor", text("default_hypervisor")),
        ("Enabled hypervisors", Info::text(joined(&answer["enabled_hypervisors"]))),
        ("Hypervisor parameters", hypervisors(answer)),
        ("OS-specific hypervisor parameters", own("os_hvp")),
        ("OS parameters", own("osparams")),
        ("Hidden OSes", Info::text(joined(&answer["hidden_os"]))),
        ("Blacklisted OSes", Info::text(joined(&answer["blacklisted_os"]))),
        ("Cluster parameters", cluster_parameters(answer, address)),
        ("Default node parameters", own("ndparams")),
        ("Default instance parameters", own("beparams")),
        ("Default nic parameters", own("nicparams")),
        ("Default disk parameters", own("diskparams")),
        ("Instance policy - limits for instances", policy_info(&answer["ipolicy"], &answer["ipolicy"], true)),
        ("Data collectors", collectors(answer)),
    ])
}

fn joined(list: &Value) -> String {
    list.as_array().into_iter().flatten().map(plain).collect::<Vec<_>>().join(", ")
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "(none)".to_owned() } else { text.to_owned() }
}

/// Parameters of the enabled hypervisors.
fn hypervisors(answer: &Value) -> Info {
    let enabled = answer["enabled_hypervisors"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let of = |name: &str| Some((name.to_owned(), answer["hvparams"].get(name)?.clone()));
    let all: Map<String, Value> = enabled.filter_map(of).collect();
    let all = Value::Object(all);
    params(&all, &all)
}

fn cluster_parameters(answer: &Value, address: Option<String>) -> Info {
    let text = |key: &str| Info::text(plain(&answer[key]));
    // Ours: Ganeti shows what the cluster's name resolves to nowhere, so this line is there when there is one only.
    let address = address.filter(|ip| !ip.is_empty()).map(|ip| ("master ip", Info::text(ip)));
    Info::named(address.into_iter().chain([
        ("candidate pool size", text("candidate_pool_size")),
        ("maximal number of jobs running simultaneously", text("max_running_jobs")),
        ("maximal number of jobs simultaneously tracked by the scheduler", text("max_tracked_jobs")),
        ("mac prefix", text("mac_prefix")),
        ("master netdev", text("master_netdev")),
        ("master netmask", text("master_netmask")),
        ("use external master IP address setup script", text("use_external_mip_script")),
        ("lvm volume group", text("volume_group_name")),
        ("lvm reserved volumes", Info::text(or_none(&joined(&answer["reserved_lvs"])))),
        ("drbd usermode helper", text("drbd_usermode_helper")),
        ("file storage path", text("file_storage_dir")),
        ("shared file storage path", text("shared_file_storage_dir")),
        ("gluster storage path", text("gluster_storage_dir")),
        ("maintenance of node health", text("maintain_node_health")),
        ("uid pool", Info::text(uid_pool(&answer["uid_pool"]))),
        ("default instance allocator", text("default_iallocator")),
        (
            "default instance allocator parameters",
            params(&answer["default_iallocator_params"], &answer["default_iallocator_params"]),
        ),
        ("primary ip version", text("primary_ip_version")),
        ("preallocation wipe disks", text("prealloc_wipe_disks")),
        ("enabled disk templates", Info::text(joined(&answer["enabled_disk_templates"]))),
        ("install image", text("install_image")),
        ("instance communication network", text("instance_communication_network")),
        ("zeroing image", text("zeroing_image")),
        ("compression tools", Info::from(&answer["compression_tools"])),
        ("enabled user shutdown", text("enabled_user_shutdown")),
        ("modify ssh setup", text("modify_ssh_setup")),
        ("ssh_key_type", text("ssh_key_type")),
        ("ssh_key_bits", text("ssh_key_bits")),
    ]))
}

/// `low-high` ranges, a single number alone.
fn uid_pool(pool: &Value) -> String {
    let range = |range: &Value| match (&range[0], &range[1]) {
        (low, high) if low == high => plain(low),
        (low, high) => format!("{}-{}", plain(low), plain(high)),
    };
    pool.as_array().into_iter().flatten().map(range).collect::<Vec<_>>().join(", ")
}

/// Whether each data collector is on, and its interval (microseconds on the wire).
fn collectors(answer: &Value) -> Info {
    let all = answer["enabled_data_collectors"].as_object().into_iter().flatten();
    let one = |(name, active): (&String, &Value)| {
        let interval = answer["data_collector_interval"][name].as_f64().unwrap_or(0.0) / 1e6;
        let pieces =
            [("active", Info::text(plain(active))), ("interval", Info::text(format!("{interval:.3}s")))];
        (name.clone(), Info::named(pieces))
    };
    Info::Named(all.map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_shown_as_ganeti_shows_it() {
        let sample = include_str!("../../../../tests/golden/ganeti/luxi/QueryClusterInfo.txt");
        let (_, answer) = sample.split_once("\n< ").unwrap();
        let answer: Value = serde_json::from_str(answer.trim_end().trim_end_matches("<ETX>")).unwrap();
        let shown = info(&answer["result"], None, &TimeZone::UTC).render();
        let want = include_str!("../../../../tests/golden/ganeti/files/gnt-cluster-info.txt");
        // Where a machine's programs look for OS definitions is no fact of the cluster: not shown here. The
        // two samples were taken a while apart.
        let same = |line: &&str| !line.contains("earch path:") && !line.starts_with("Modification time");
        let lines = |text: &'static str| text.lines().filter(same).collect::<Vec<_>>();
        assert_eq!(lines(shown.leak()), lines(want));
    }
}
