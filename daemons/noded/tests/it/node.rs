//! Verbs on the node: facts, ssconf, role, leaving, and several nodes in one process.

use crate::bed::*;
use gantry_model::ids::{Fence, NodeUuid};
use gantry_model::role::{Role, RoleFile};
use gantry_model::root::Root;
use gantry_proto::noded as wire;
use gantry_rpc::tls::{Identity, ca};
use gantry_rpc::{Client, Code};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use uuid::Uuid;

fn ssconf(fence: Fence, index: u64, values: &[(&str, &str)]) -> wire::SsconfRequest {
    let values = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    wire::SsconfRequest { fence, index, values }
}

#[tokio::test]
async fn facts_follow_the_capacity_of_node_toml() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    let info = client.call::<wire::NodeInfo>(&(), PATIENCE).await.expect("info");
    assert_eq!((info.memory_total_mib, info.memory_host_mib, info.memory_free_mib), (32_768, 0, 32_768));
    assert_eq!((info.cpus, info.disk_total_mib), (8, 65_536));
    assert_eq!(info.drivers, ["fake"]);
    assert_eq!(info.boot_id.len(), 36);
    drop(node);
    let (node, client) = cluster.member("n2").await;
    node.faults(r#"{"fail": {"probe": {"class": "lost"}}}"#);
    let info = client.call::<wire::NodeInfo>(&(), PATIENCE).await.expect("info");
    assert_eq!(info.drivers, Vec::<String>::new());
}

#[tokio::test]
async fn ssconf_only_gets_newer() {
    let cluster = Cluster::new();
    let (mut node, client) = cluster.member("n1").await;
    let call = |request: wire::SsconfRequest| {
        let client = client.clone();
        async move { client.call::<wire::Ssconf>(&request, PATIENCE).await }
    };
    let path = node.root.ssconf("master_node");
    let read = || std::fs::read_to_string(&path).expect("there");
    call(ssconf(fence(1), 10, &[("master_node", "a\n"), ("node_list", "a\nb\n")])).await.expect("written");
    assert_eq!(read(), "a\n");
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o444);
    call(ssconf(fence(1), 9, &[("master_node", "old\n")])).await.expect("ignored");
    assert_eq!(read(), "a\n");
    let bad = ssconf(fence(1), 11, &[("master_node", "x\n"), ("../role.json", "{}")]);
    assert_eq!(code(call(bad).await), Code::BadRequest);
    assert_eq!(read(), "a\n", "nothing of a bad set is written");
    call(ssconf(fence(1), 11, &[("master_node", "b\n")])).await.expect("written");
    assert_eq!(read(), "b\n");
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    let old = ssconf(fence(1), 10, &[("master_node", "old\n")]);
    client.call::<wire::Ssconf>(&old, PATIENCE).await.expect("ignored");
    assert_eq!(read(), "b\n");
    // a new history may begin at a lower index
    claim(&client, &cluster, &node, fence(2)).await.expect("claimed");
    let new = ssconf(fence(2), 1, &[("master_node", "c\n")]);
    client.call::<wire::Ssconf>(&new, PATIENCE).await.expect("written");
    assert_eq!(read(), "c\n");
}

#[tokio::test]
async fn roles_are_set_but_never_master() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    let set = |fence, role| {
        let client = client.clone();
        async move { client.call::<wire::SetRole>(&wire::SetRoleRequest { fence, role }, PATIENCE).await }
    };
    set(fence(1), Role::Candidate).await.expect("set");
    let role = || gantry_rt::files::read_role(&node.root).expect("read").expect("there");
    assert_eq!(role().role, Role::Candidate);
    assert_eq!(code(set(fence(1), Role::Master).await), Code::Denied);
    // elected meanwhile: only a later master may take it back
    let master = RoleFile { role: Role::Master, epoch: 4, ..role() };
    gantry_rt::files::write_role(&node.root, &master).expect("written");
    claim(&client, &cluster, &node, fence(4)).await.expect("claimed");
    assert_eq!(code(set(fence(4), Role::Regular).await), Code::Denied);
    assert_eq!(code(client.call::<wire::Leave>(&fence(4), PATIENCE).await), Code::Denied);
    claim(&client, &cluster, &node, fence(5)).await.expect("claimed");
    set(fence(5), Role::Candidate).await.expect("set");
    assert_eq!((role().role, role().epoch), (Role::Candidate, 5));
}

#[tokio::test]
async fn a_candidate_gets_the_ca_and_a_regular_node_keeps_no_key() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    let give = |name: &str| wire::SecretsRequest {
        fence: fence(1),
        files: vec![(name.to_owned(), "PEM".to_owned())],
    };
    let key = node.root.secrets().join("ca.key");
    for name in ["node.key", "../role.json", ""] {
        assert_eq!(
            code(client.call::<wire::Secrets>(&give(name), PATIENCE).await),
            Code::BadRequest,
            "{name}"
        );
    }
    client.call::<wire::Secrets>(&give("ca.key"), PATIENCE).await.expect("stored");
    assert_eq!(std::fs::read_to_string(&key).expect("there"), "PEM");
    let mode = std::os::unix::fs::PermissionsExt::mode(&key.metadata().expect("there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let role = |role| wire::SetRoleRequest { fence: fence(1), role };
    client.call::<wire::SetRole>(&role(Role::Candidate), PATIENCE).await.expect("set");
    assert!(key.exists(), "a candidate keeps it");
    client.call::<wire::SetRole>(&role(Role::Regular), PATIENCE).await.expect("set");
    assert!(!key.exists());
}

#[tokio::test]
async fn another_trust_counts_at_once_and_never_cuts_the_node_off() {
    let cluster = Cluster::new();
    let (node, standing) = cluster.member("n1").await;
    let next = ca::make_ca(cluster.uuid).expect("made");
    let give = |ca: String| {
        let files = vec![("ca.pem".to_owned(), ca)];
        let (client, request) = (standing.clone(), wire::SecretsRequest { fence: fence(1), files });
        async move { client.call::<wire::Secrets>(&request, PATIENCE).await }
    };
    let pair = ca::make_node(&next, cluster.uuid, NodeUuid(Uuid::new_v4())).expect("made");
    let both = format!("{}{}", cluster.ca.certificate, next.certificate);
    let renewed = Identity::from_pem(&pair.certificate, &pair.key, &both).expect("fits");
    let reaches =
        |who: Identity| async move { Client::tls(node.address, &hello(), &who, node.node).await.is_ok() };
    assert!(!reaches(renewed.clone()).await, "a CA that nobody trusts");
    let kept = std::fs::read_to_string(node.root.secrets().join("ca.pem")).expect("there");
    for useless in [next.certificate.clone(), "PEM".to_owned(), String::new()] {
        assert_eq!(code(give(useless).await), Code::BadRequest);
    }
    assert_eq!(std::fs::read_to_string(node.root.secrets().join("ca.pem")).expect("there"), kept);
    give(both.clone()).await.expect("taken");
    assert!(reaches(renewed.clone()).await && reaches(cluster.master.clone()).await);
    give(cluster.ca.certificate.clone()).await.expect("taken");
    assert!(!reaches(renewed).await && reaches(cluster.master.clone()).await);
    standing.call::<wire::NodeInfo>(&(), PATIENCE).await.expect("never dropped");
}

#[tokio::test]
async fn files_of_the_same_index_are_put_right() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    let set = ssconf(fence(1), 5, &[("master_node", "a\n")]);
    client.call::<wire::Ssconf>(&set, PATIENCE).await.expect("written");
    let before = client.call::<wire::SsconfHave>(&(), PATIENCE).await.expect("told");
    assert_eq!((before.index, before.digests.len()), (5, 1));
    std::fs::write(node.root.ssconf("master_node"), "b\n").expect("spoilt");
    let spoilt = client.call::<wire::SsconfHave>(&(), PATIENCE).await.expect("told");
    assert_ne!(spoilt.digests, before.digests);
    client.call::<wire::Ssconf>(&set, PATIENCE).await.expect("written again");
    assert_eq!(client.call::<wire::SsconfHave>(&(), PATIENCE).await.expect("told"), before);
}

#[tokio::test]
async fn delays_are_bounded() {
    let cluster = Cluster::new();
    let (_node, client) = cluster.member("n1").await;
    let delay = |millis| wire::TestDelayRequest { fence: fence(1), millis };
    client.call::<wire::TestDelay>(&delay(5), PATIENCE).await.expect("slept");
    assert_eq!(code(client.call::<wire::TestDelay>(&delay(3_600_001), PATIENCE).await), Code::BadRequest);
}

#[tokio::test]
async fn leaving_removes_what_made_it_a_member_and_ends_the_process() {
    let cluster = Cluster::new();
    let (mut node, client) = cluster.member("n1").await;
    create(&client, slot(1), 1).await.expect("created");
    let values = ssconf(fence(1), 1, &[("master_node", "a\n")]);
    client.call::<wire::Ssconf>(&values, PATIENCE).await.expect("written");
    assert_eq!(code(client.call::<wire::Leave>(&fence(1), PATIENCE).await), Code::Busy);
    destroy(&client, slot(1), 1).await.expect("still a member");
    client.call::<wire::Leave>(&fence(1), PATIENCE).await.expect("left");
    let status = tokio::task::spawn_blocking(move || {
        let status = node.process.wait().expect("ended");
        (node, status)
    });
    let (mut node, status) =
        tokio::time::timeout(PATIENCE, status).await.expect("in time").expect("no panic");
    assert!(status.success(), "{status}");
    for path in [
        node.root.role_file(),
        node.root.role_spare(),
        node.root.ssconf("master_node"),
        node.root.secrets().join("node.key"),
        node.root.lib().join("noded.data"),
    ] {
        assert!(!path.exists(), "{}", path.display());
    }
    // started again it waits for its next cluster
    node.kill_and_start();
    wait_for("an unjoined node", || async { Client::tls_join(node.address, &hello()).await.ok() }).await;
    let next = Cluster::new();
    next.join(&node, fence(1)).await.expect("joined");
}

#[tokio::test]
async fn one_process_serves_many_nodes() {
    let cluster = Cluster::new();
    let roots: Vec<_> = (0..5).map(|n| cluster.path().join(format!("n{n}"))).collect();
    let addresses: Vec<_> = roots.iter().map(|_| address()).collect();
    let list: Vec<_> = roots
        .iter()
        .zip(&addresses)
        .map(|(root, at)| serde_json::json!({"root": root, "address": at.ip(), "port": at.port()}))
        .collect();
    let file = cluster.path().join("nodes.json");
    std::fs::write(&file, serde_json::to_vec(&list).expect("JSON")).expect("written");
    let process = Command::new(env!("CARGO_BIN_EXE_gantry-noded"))
        .arg("--root")
        .arg(cluster.path().join("process"))
        .arg("--identities")
        .arg(&file)
        .stdin(Stdio::null())
        .spawn()
        .expect("started");
    let _process = Ended(process);
    let mut clients = Vec::new();
    for (root, address) in roots.iter().zip(addresses) {
        wait_for("an unjoined node", || async { Client::tls_join(address, &hello()).await.ok() }).await;
        // a stand-in for a process of its own, ended at once
        let stand_in = Command::new("true").spawn().expect("started");
        let node = gantry_model::ids::NodeUuid(uuid::Uuid::new_v4());
        let node = Node { root: Root::new(root), address, node, process: stand_in };
        cluster.join(&node, fence(1)).await.expect("joined");
        let client = cluster.connect(&node).await;
        claim(&client, &cluster, &node, fence(1)).await.expect("claimed");
        create(&client, slot(1), 1).await.expect("created");
        clients.push((client, node));
    }
    for (client, node) in &clients {
        let info = client.call::<wire::NodeInfo>(&(), PATIENCE).await.expect("info");
        assert_eq!((info.node, info.vms.len()), (node.node, 1), "each has its own");
    }
    let (client, node) = &clients[0];
    destroy(client, slot(1), 1).await.expect("destroyed");
    client.call::<wire::Leave>(&fence(1), PATIENCE).await.expect("left");
    // it becomes unjoined, the others go on
    cluster.join(node, fence(1)).await.expect("joined again");
    clients[1].0.call::<wire::NodeInfo>(&(), PATIENCE).await.expect("info");
}

/// A process that ends with the test, also a failing one.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn health_and_metrics_are_on_the_admin_socket() {
    use gantry_proto::admin;
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    assert_eq!(code(create(&client, slot(1), 0).await), Code::BadRequest);
    let hello = gantry_proto::hello::Hello::new(admin::PROTOCOL, "test");
    let admin = Client::unix(&node.root.admin_socket("noded"), &hello).await.expect("connects");
    assert!(admin.call::<admin::Health>(&(), PATIENCE).await.expect("answers").ready);
    let text = admin.call::<admin::Metrics>(&(), PATIENCE).await.expect("answers");
    let line = r#"gantry_noded_calls_total{verb="VmCreate",result="BadRequest"} 1"#;
    assert!(text.contains(line), "{text}");
}
