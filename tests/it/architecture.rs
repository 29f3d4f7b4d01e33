//! The arrows of the house (docs/ARCHITECTURE.md): who listens where, and who is connected to whom, looked at while all of
//! them work. What is not listed here must not exist.

use crate::step;
use anyhow::{Context, Result, ensure};
use gantry_tests::leak::Site;
use gantry_tests::luxi::delay;
use gantry_tests::{Options, VirtualCluster, pool, process, rest, sockets, task, wait};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// Client, socket, server. `job/` stands for any job's socket, `admin/` for any daemon's.
const ARROWS: [(&str, &str, &str); 15] = [
    ("gantry-luxid", "wconfd.sock", "gantry-wconfd"),
    ("gantry-luxid", "job/", "gantry-job"),
    ("gantry-job", "wconfd.sock", "gantry-wconfd"),
    ("gantry-job", "luxi.sock", "gantry-luxid"),
    ("gantry", "luxi.sock", "gantry-luxid"),
    ("gantry", "stream.sock", "gantry-luxid"),
    ("gantry-overseer", "luxi.sock", "gantry-luxid"),
    ("gantry-overseer", "stream.sock", "gantry-luxid"),
    ("gantry-job", "noded.sock", "gantry-noded"),
    ("gantry-wconfd", "noded.sock", "gantry-noded"),
    ("gantry-noded", "vmd.sock", "gantry-vmd"),
    ("gantry", "boot.sock", "gantry-boot"),
    ("gantry-boot", "admin/", "any"),
    ("gantry-mond", "admin/", "any"),
    ("gantry-noded", "admin/", "gantry-rconfd"),
];
/// Who may call a node's noded.
const NODED_CALLERS: [&str; 3] = ["gantry-wconfd", "gantry-luxid", "gantry-job"];
/// Who listens on which Unix sockets.
const LISTENERS: [(&str, &[&str]); 9] = [
    ("gantry-luxid", &["luxi.sock", "stream.sock", "admin/luxid.sock"]),
    ("gantry-overseer", &["admin/overseer.sock"]),
    ("gantry-mond", &["admin/mond.sock"]),
    ("gantry-rconfd", &["admin/rconfd.sock"]),
    ("gantry-vmd", &["vmd.sock", "admin/vmd.sock"]),
    ("gantry-wconfd", &["wconfd.sock", "admin/wconfd.sock"]),
    ("gantry-noded", &["noded.sock", "admin/noded.sock"]),
    ("gantry-boot", &["boot.sock", "admin/boot.sock"]),
    ("gantry-job", &["job/"]),
];

#[test]
fn no_arrow_but_the_drawn_ones() {
    let drivers = ["fake", "oci"].map(str::to_owned).to_vec();
    let cluster = VirtualCluster::start(&Options { drivers, ..Options::new(2) }).expect("the cluster starts");
    step("a pool of VMs", || pool(&cluster));
    let seen = watch(&cluster).expect("looking at sockets");
    eprintln!("  arrows seen: {seen:?}");
    step("every arrow is allowed", || {
        let wrong: Vec<_> = seen.iter().filter(|arrow| !allowed(arrow)).collect();
        ensure!(wrong.is_empty(), "{wrong:?}");
        Ok(())
    });
    step("the arrows that must have been there were seen", || {
        for (client, place) in [
            ("gantry-luxid", "wconfd.sock"),
            ("gantry-luxid", "job/"),
            ("gantry-job", "wconfd.sock"),
            ("gantry-wconfd", "noded"),
            ("gantry-job", "noded"),
            ("gantry-noded", "vmd.sock"),
            ("gantry-overseer", "stream.sock"),
        ] {
            ensure!(
                seen.iter().any(|arrow| arrow.client == client && arrow.place.starts_with(place)),
                "no arrow from {client} to {place}: this test looks at the wrong place"
            );
        }
        Ok(())
    });
    step("everyone listens where it should, and nowhere else", || listeners(&cluster));
    step("the pool goes", || {
        pool::remove(&cluster)?;
        Site::of(&cluster)?.rests(&cluster, 0, PATIENCE)
    });
    step("nothing is left", || rest::reached(&cluster, PATIENCE));
}

fn pool(cluster: &VirtualCluster) -> Result<()> {
    pool::add(cluster, "oci", 2)?;
    Site::of(cluster)?.rests(cluster, 2, PATIENCE)
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Arrow {
    client: String,
    place: String,
    server: String,
}

fn allowed(arrow: &Arrow) -> bool {
    if arrow.place == "noded" {
        return arrow.server == "gantry-noded" && NODED_CALLERS.contains(&arrow.client.as_str());
    }
    ARROWS.iter().any(|(client, place, server)| {
        let there = if place.ends_with('/') { arrow.place.starts_with(place) } else { arrow.place == *place };
        *client == arrow.client && there && (*server == arrow.server || *server == "any")
    })
}

/// Looks at the sockets again and again while jobs of all kinds run.
fn watch(cluster: &VirtualCluster) -> Result<BTreeSet<Arrow>> {
    let mut luxi = cluster.luxi()?;
    let nodes: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    let on_nodes = json!({"OP_ID": "OP_TEST_DELAY", "duration": 0.4, "on_master": false, "on_nodes": nodes,
                          "no_locks": false, "reason": []});
    let verify = json!({"OP_ID": "OP_CLUSTER_VERIFY", "reason": []});
    let jobs: Vec<u64> = [vec![on_nodes.clone()], vec![on_nodes], vec![delay(1.0)], vec![verify]]
        .iter()
        .map(|ops| luxi.submit(ops))
        .collect::<Result<_>>()?;
    let spec = json!({"pool": pool::NAME, "execute": [{"command": "sleep 1"}], "limits": {"memory_mib": 64, "disk_mib": 8}});
    let tasks: Vec<u64> = (0..3).map(|_| task::submit(&mut luxi, &spec)).collect::<Result<_>>()?;
    let mut seen = BTreeSet::new();
    wait::until("the jobs end", PATIENCE, || {
        seen.extend(arrows(cluster).ok()?);
        let left = jobs
            .iter()
            .filter(|job| !matches!(luxi.status(**job).as_deref(), Ok("success" | "error" | "canceled")));
        let jobs_left = left.count();
        let open = |id: &&u64| task::Record::of(&mut luxi, **id).map_or(true, |task| !task.is_final());
        (jobs_left == 0 && tasks.iter().filter(open).count() == 0).then_some(())
    })?;
    for job in jobs {
        ensure!(luxi.status(job)? == "success", "job {job}");
    }
    Ok(seen)
}

/// Programs of the cluster by pid.
fn programs(cluster: &VirtualCluster) -> BTreeMap<u32, String> {
    let base = |path: String| path.rsplit('/').next().unwrap_or_default().to_owned();
    let all = cluster.nodes.iter().flat_map(|node| process::with_root(&node.root));
    all.map(|(pid, program)| (pid, base(program))).collect()
}

/// The end of a socket's path from its folder in `run/gantry`; sockets may be bound through a directory's descriptor,
/// then only the name is left.
fn place(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    match path.rsplit('/').nth(1) {
        Some(folder @ ("job" | "admin")) => format!("{folder}/{name}"),
        _ if name
            .split('.')
            .next()
            .is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit())) =>
        {
            format!("job/{name}")
        }
        _ => name.to_owned(),
    }
}

fn arrows(cluster: &VirtualCluster) -> Result<BTreeSet<Arrow>> {
    let (unix, tcp) = (sockets::unix()?, sockets::tcp()?);
    // Named after its sockets were seen: a job that has one has long left the program it was started from.
    let programs = programs(cluster);
    let known = |pids: &BTreeSet<u32>| pids.iter().find_map(|pid| programs.get(pid).cloned());
    let mut found = BTreeSet::new();
    for (clients, path, servers) in sockets::unix_pairs(&unix) {
        if let (Some(client), Some(server)) = (known(&clients), known(&servers)) {
            found.insert(Arrow { client, place: place(&path), server });
        }
    }
    let noded: BTreeSet<String> = cluster.nodes.iter().map(|node| format!("{}:1811", node.address)).collect();
    for socket in tcp {
        let Some(program) = known(&socket.pids) else { continue };
        if socket.state != "ESTAB" || noded.contains(&socket.local) {
            continue;
        }
        let to_noded = noded.contains(&socket.ends.1);
        let place = if to_noded { "noded".to_owned() } else { socket.ends.1.clone() };
        found.insert(Arrow { client: program, place, server: "gantry-noded".to_owned() });
    }
    Ok(found)
}

fn listeners(cluster: &VirtualCluster) -> Result<()> {
    let (tcp, unix) = (sockets::tcp()?, sockets::unix()?);
    // Named after its sockets were seen: who has bound one has long left the program it was started from.
    let programs = programs(cluster);
    let ports = [("gantry-noded", 1811), ("gantry-mond", 1815)];
    let mut counts = [0; 2];
    for socket in tcp.iter().filter(|socket| socket.state == "LISTEN") {
        let Some(program) = socket.pids.iter().find_map(|pid| programs.get(pid)) else { continue };
        let own =
            |port: u16| cluster.nodes.iter().any(|node| socket.local == format!("{}:{port}", node.address));
        let place = ports.iter().position(|(name, port)| program == name && own(*port));
        counts[place.with_context(|| format!("{program} listens on {}", socket.local))?] += 1;
    }
    ensure!(counts == [cluster.nodes.len(); 2], "{counts:?} nodeds and monds listen");
    let mut rconfds = 0;
    for socket in sockets::udp()? {
        let Some(program) = socket.pids.iter().find_map(|pid| programs.get(pid)) else { continue };
        // MonD asks, from any port.
        if program == "gantry-mond" {
            continue;
        }
        let own = cluster.nodes.iter().any(|node| socket.local == format!("{}:1814", node.address));
        ensure!(own && program == "gantry-rconfd", "{program} has the UDP socket {}", socket.local);
        rconfds += 1;
    }
    ensure!(rconfds == cluster.nodes.len(), "{rconfds} rconfds listen: all nodes are candidates");
    let mut count = 0;
    for socket in unix.iter().filter(|socket| socket.state == "LISTEN") {
        let Some(program) = socket.pids.iter().find_map(|pid| programs.get(pid)) else { continue };
        let place = place(&socket.local);
        let (_, allowed) = LISTENERS.iter().find(|(name, _)| name == program).context(program.clone())?;
        let name = place.rsplit('/').next().unwrap_or_default();
        let good = allowed.iter().any(|known| {
            known.rsplit('/').next() == Some(name) || (known.ends_with('/') && place.starts_with(known))
        });
        ensure!(good, "{program} listens on {}", socket.local);
        ensure!(socket.pids.len() == 1, "{} is held by {:?}: a child got it", socket.local, socket.pids);
        count += 1;
    }
    ensure!(count >= 8, "only {count} listening sockets were found");
    Ok(())
}
