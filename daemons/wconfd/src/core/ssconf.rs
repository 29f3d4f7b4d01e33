//! The ssconf files: what every node knows of its cluster as plain text (`spec/config.md` §6).

use super::config::Snapshot;
use gantry_model::config::{Cluster, Group, Instance, Node, confd};
use gantry_model::names::natural_cmp;
use serde_json::Value;
use std::fmt::Write;
use std::sync::Arc;

/// Longest content of one file, in bytes; Ganeti's readers take no more. A longer value is left out:
/// half a list would be wrong, a missing file is an error its reader knows.
pub const VALUE_BYTES_MAX: usize = 128 * 1024;
/// The version Ganeti's clients compare with their own.
const RELEASE_VERSION: &str = "3.0.2";
/// Hypervisors that have a file of parameters each.
const HYPERVISORS: [&str; 6] = ["chroot", "fake", "kvm", "lxc", "xen-hvm", "xen-pvm"];

/// What the values are computed from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// All nodes.
    pub nodes: &'a [Arc<Node>],
    /// All groups.
    pub groups: &'a [Arc<Group>],
    /// All instances.
    pub instances: &'a [Arc<Instance>],
    /// All networks: (uuid, name).
    pub networks: &'a [(String, String)],
}

/// All keys with the whole content of their files, sorted by key.
#[must_use]
pub fn values(facts: &Facts) -> Vec<(String, String)> {
    let mut all = cluster_values(facts.cluster, facts.nodes);
    all.extend(node_values(facts));
    all.push((
        "nodegroups".to_owned(),
        pairs(facts.groups.iter().map(|g| (g.uuid.to_string(), g.name.clone()))),
    ));
    all.push(("networks".to_owned(), pairs(facts.networks.iter().cloned())));
    all.push(("instance_list".to_owned(), instance_list(facts.instances)));
    all.retain(|(_, value)| value.len() <= VALUE_BYTES_MAX);
    all.sort();
    all
}

/// What [`values`] needs, out of a snapshot.
#[must_use]
pub fn of(snapshot: &Snapshot) -> Vec<(String, String)> {
    let Some(cluster) = snapshot.cluster() else { return Vec::new() };
    let (nodes, groups, instances) = (snapshot.nodes(), snapshot.groups(), snapshot.instances());
    let networks = snapshot.networks();
    let facts = Facts { cluster, nodes: &nodes, groups: &groups, instances: &instances, networks: &networks };
    values(&facts)
}

fn lines<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().fold(String::new(), |mut text, item| {
        text.push_str(item.as_ref());
        text.push('\n');
        text
    })
}

fn pairs(items: impl Iterator<Item = (String, String)>) -> String {
    let mut items: Vec<_> = items.collect();
    items.sort_by(|a, b| natural_cmp(&a.1, &b.1));
    lines(items.into_iter().map(|(key, name)| format!("{key} {name}")))
}

fn truth(flag: bool) -> &'static str {
    if flag { "True" } else { "False" }
}

/// A value as Python's `str` shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::Bool(flag) => truth(*flag).to_owned(),
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn cluster_values(cluster: &Cluster, nodes: &[Arc<Node>]) -> Vec<(String, String)> {
    let extra = |key: &str| cluster.extra.get(key).map(shown).unwrap_or_default();
    let flag = |key: &str| truth(cluster.extra.get(key) == Some(&Value::Bool(true)));
    let one =
        |key: &str, value: String| (key.to_owned(), lines(Some(value).filter(|value| !value.is_empty())));
    let master = nodes.iter().find(|node| node.uuid == cluster.master_node);
    let master = master.map_or("NO MASTER", |node| node.name.as_str());
    let mut all = vec![
        one("cluster_name", cluster.cluster_name.clone()),
        ("cluster_tags".to_owned(), lines(&cluster.stamp.tags)),
        one("master_node", master.to_owned()),
        one("master_ip", cluster.master_ip.clone()),
        ("hypervisor_list".to_owned(), lines(&cluster.enabled_hypervisors)),
        one("maintain_node_health", flag("maintain_node_health").to_owned()),
        one("enabled_user_shutdown", flag("enabled_user_shutdown").to_owned()),
        one("release_version", RELEASE_VERSION.to_owned()),
        // Ours: in which form ConfD's clients ask.
        one(confd::DIGEST, cluster.extra.get(confd::DIGEST).map_or_else(|| confd::BOTH.to_owned(), shown)),
        ("uid_pool".to_owned(), uid_pool(cluster.extra.get("uid_pool"))),
        ("master_candidates_certs".to_owned(), certs(cluster.extra.get("candidate_certs"))),
    ];
    let plain = ["master_netdev", "master_netmask", "file_storage_dir", "shared_file_storage_dir"];
    all.extend(
        plain.into_iter().chain(["gluster_storage_dir", "primary_ip_family"]).map(|key| one(key, extra(key))),
    );
    all.extend(HYPERVISORS.map(|name| (format!("hvparams_{name}"), hvparams(cluster, name))));
    all
}

fn hvparams(cluster: &Cluster, name: &str) -> String {
    let params = cluster.hvparams.get(name).into_iter().flatten();
    let mut rows: Vec<_> = params.map(|(key, value)| format!("{key}={}", shown(value))).collect();
    rows.sort();
    lines(rows)
}

/// `low-high`, or `n` for a range of one.
fn uid_pool(pool: Option<&Value>) -> String {
    let ranges = pool.and_then(Value::as_array).into_iter().flatten();
    lines(ranges.filter_map(|range| match range.as_array()?.as_slice() {
        [low, high] if low == high => Some(low.to_string()),
        [low, high] => Some(format!("{low}-{high}")),
        _ => None,
    }))
}

fn certs(certs: Option<&Value>) -> String {
    let certs = certs.and_then(Value::as_object).into_iter().flatten();
    lines(certs.map(|(node, digest)| format!("{node}={}", shown(digest))))
}

fn node_values(facts: &Facts) -> Vec<(String, String)> {
    let mut nodes: Vec<&Node> = facts.nodes.iter().map(|node| &**node).collect();
    nodes.sort_by(|a, b| natural_cmp(&a.name, &b.name));
    let column = |key: &str, keep: &dyn Fn(&Node) -> bool, show: &dyn Fn(&Node) -> String| {
        (key.to_owned(), lines(nodes.iter().filter(|node| keep(node)).map(|node| show(node))))
    };
    let (any, name) = (|_: &Node| true, |node: &Node| node.name.clone());
    let candidate = |node: &Node| node.master_candidate;
    vec![
        column("node_list", &any, &name),
        column("online_nodes", &|node| !node.offline, &name),
        column("offline_nodes", &|node| node.offline, &name),
        column("master_candidates", &candidate, &name),
        column("master_candidates_ips", &candidate, &|node| node.primary_ip.clone()),
        column("node_primary_ips", &any, &|node| format!("{} {}", node.name, node.primary_ip)),
        column("node_secondary_ips", &any, &|node| format!("{} {}", node.name, node.secondary_ip)),
        column("node_vm_capable", &any, &|node| format!("{}={}", node.name, truth(node.vm_capable))),
        column("ssh_ports", &any, &|node| format!("{}={}", node.name, ssh_port(facts, node))),
    ]
}

/// The node's own port, its group's, or the cluster's.
fn ssh_port(facts: &Facts, node: &Node) -> u64 {
    const SSH_PORT: u64 = 22;
    let group = facts.groups.iter().find(|group| group.uuid == node.group).map(|group| &group.ndparams);
    let levels = [Some(&node.ndparams), group, Some(&facts.cluster.ndparams)];
    let port = levels.into_iter().flatten().find_map(|params| params.get("ssh_port"));
    port.and_then(Value::as_u64).unwrap_or(SSH_PORT)
}

/// Names in natural order. Not sorted when it is too long to be written anyhow.
fn instance_list(instances: &[Arc<Instance>]) -> String {
    let mut names: Vec<&str> = instances.iter().map(|instance| instance.name.as_str()).collect();
    if names.iter().map(|name| name.len() + 1).sum::<usize>() <= VALUE_BYTES_MAX {
        names.sort_unstable_by(|a, b| natural_cmp(a, b));
    }
    names.into_iter().fold(String::new(), |mut text, name| {
        let _ = writeln!(text, "{name}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::config::Params;
    use serde::de::DeserializeOwned;
    use serde_json::json;

    const CONFIG: &str = include_str!("../../../../tests/golden/ganeti/files/config.data.json");
    const SSCONF: &str = include_str!("../../../../tests/golden/ganeti/files/ssconf.txt");

    fn rows<T: DeserializeOwned>(section: &Value) -> Vec<Arc<T>> {
        let rows = section.as_object().unwrap().values().cloned();
        rows.map(|row| Arc::new(serde_json::from_value(row).unwrap())).collect()
    }

    /// What a real Ganeti wrote: key → lines, sorted, for Ganeti keeps some lists in no order.
    fn golden() -> Vec<(String, Vec<String>)> {
        let mut all: Vec<(String, Vec<String>)> = Vec::new();
        for line in SSCONF.lines() {
            match line.strip_prefix("== ssconf_") {
                Some(key) => all.push((key.to_owned(), Vec::new())),
                None => all.last_mut().unwrap().1.push(line.to_owned()),
            }
        }
        all.iter_mut().for_each(|(_, lines)| lines.sort());
        all
    }

    #[test]
    fn the_values_are_those_of_a_real_ganeti() {
        let mut config: Value = serde_json::from_str(CONFIG).unwrap();
        for instance in config["instances"].as_object_mut().unwrap().values_mut() {
            instance["disks"] = json!([]);
            instance["disk_template"] = json!("diskless");
        }
        let cluster: Cluster = serde_json::from_value(config["cluster"].clone()).unwrap();
        let (nodes, groups) = (rows(&config["nodes"]), rows(&config["nodegroups"]));
        let instances = rows(&config["instances"]);
        let facts =
            Facts { cluster: &cluster, nodes: &nodes, groups: &groups, instances: &instances, networks: &[] };
        // The one key that Ganeti does not have.
        let (own, theirs): (Vec<_>, Vec<_>) =
            values(&facts).into_iter().partition(|(key, _)| key == "confd_digest");
        assert_eq!(own, [("confd_digest".to_owned(), "both\n".to_owned())]);
        let ours: Vec<(String, Vec<String>)> = theirs
            .into_iter()
            .map(|(key, value)| {
                assert!(value.is_empty() || value.ends_with('\n'), "{key} ends its last line");
                let mut lines: Vec<_> = value.lines().map(str::to_owned).collect();
                lines.sort();
                (key, lines)
            })
            .collect();
        assert_eq!(ours, golden());
    }

    #[test]
    fn lists_are_in_natural_order_and_huge_ones_left_out() {
        let mut config: Value = serde_json::from_str(CONFIG).unwrap();
        let cluster: Cluster = serde_json::from_value(config["cluster"].take()).unwrap();
        let groups = rows(&config["nodegroups"]);
        let nodes: Vec<Arc<Node>> = rows(&config["nodes"]);
        let named = |name: &str, port: u64| {
            let ndparams: Params = json!({ "ssh_port": port }).as_object().unwrap().clone();
            Arc::new(Node { name: name.to_owned(), ndparams, ..(*nodes[0]).clone() })
        };
        let nodes = [named("node10", 2222), named("node9", 22)];
        let network = |id: &str, name: &str| (id.to_owned(), name.to_owned());
        let networks = [network("u2", "net10"), network("u1", "net9")];
        let facts = |instances| Facts {
            cluster: &cluster,
            nodes: &nodes,
            groups: &groups,
            instances,
            networks: &networks,
        };
        let of = |values: &[(String, String)], key: &str| {
            values.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
        };
        let some = values(&facts(&[]));
        assert_eq!(of(&some, "node_list").unwrap(), "node9\nnode10\n");
        assert_eq!(of(&some, "ssh_ports").unwrap(), "node9=22\nnode10=2222\n");
        assert_eq!(of(&some, "networks").unwrap(), "u1 net9\nu2 net10\n");
        assert_eq!(of(&some, "instance_list").unwrap(), "");
        let objects = crate::seed::many(10_000, &[nodes[0].uuid]);
        let instances = objects.iter().filter(|object| object.kind == "instance");
        let many: Vec<_> =
            instances.map(|object| Arc::new(serde_json::from_slice(&object.body).unwrap())).collect();
        assert_eq!(of(&values(&facts(&many)), "instance_list"), None);
    }
}
