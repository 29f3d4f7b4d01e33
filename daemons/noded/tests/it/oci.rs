//! The verbs over the wire with real VMs: noded with the driver `oci`, and a gantry-vmd beside it. Needs root and an
//! OCI runtime.

use crate::bed::*;
use gantry_model::ids::InstanceUuid;
use gantry_proto::noded::{self as wire, VmState};
use gantry_rpc::Client;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

/// vmd of a node, killed when dropped; its VMs end with it.
pub struct Vmd(Child);

impl Vmd {
    pub fn start(node: &Node) -> Self {
        let mut cargo = Command::new(env!("CARGO"));
        // What cargo told this test of itself would have it build ring anew, and again for the next test.
        let told = |name: &String| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST");
        for (name, _) in std::env::vars().filter(|(name, _)| told(name)) {
            cargo.env_remove(name);
        }
        let built = cargo
            .args(["build", "--quiet", "--package", "gantry-vmd", "--package", "gantry-init"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.expect("cargo runs").success(), "gantry-vmd and gantry-init can't be built");
        let program = Path::new(env!("CARGO_BIN_EXE_gantry-noded")).with_file_name("gantry-vmd");
        Self(Command::new(program).arg("--root").arg(node.root.path()).spawn().expect("vmd starts"))
    }

    pub fn kill(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("waited");
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn stop(&mut self) {
        let pid = i32::try_from(self.0.id()).expect("a pid");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGTERM).expect("sent");
        assert!(self.0.wait().expect("waited").success());
    }
}

impl Drop for Vmd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// First uid of the next node's VMs.
fn uid_base() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    900_000_000 + NEXT.fetch_add(1, Ordering::Relaxed) * 64 * 65_536
}

/// A member whose one driver is `oci`, with its vmd.
pub async fn member(cluster: &Cluster) -> (Node, Client, Vmd) {
    let (mut node, _) = cluster.member("n1").await;
    let mut toml = gantry_rt::node_toml::load(&node.root).expect("node.toml");
    // None named: all that work here.
    toml.drivers = Vec::new();
    toml.uid_base = uid_base();
    toml.save(&node.root).expect("written");
    let vmd = Vmd::start(&node);
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    ready(&client).await;
    (node, client, vmd)
}

/// Waits until the driver works.
pub async fn ready(client: &Client) {
    let probed = async || {
        let info = client.call::<wire::NodeInfo>(&(), PATIENCE).await.ok()?;
        (info.drivers == ["oci"]).then_some(())
    };
    wait_for("the driver", probed).await;
}

pub fn request(slot: InstanceUuid, generation: u64) -> wire::VmCreateRequest {
    let mut request = create_request(fence(1), slot, generation);
    request.spec.driver = "oci".to_owned();
    request.spec.image = "host".to_owned();
    request.spec.disk_mib = 16;
    request
}

#[tokio::test]
async fn vms_outlive_noded_and_are_lost_with_vmd() {
    let cluster = Cluster::new();
    let (mut node, client, mut vmd) = member(&cluster).await;
    let made = client.call::<wire::VmCreate>(&request(slot(1), 1), PATIENCE).await.expect("created");
    assert!(!made.attached);
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    let again = client.call::<wire::VmCreate>(&request(slot(1), 1), PATIENCE).await.expect("attached");
    assert!(again.attached);
    assert_eq!(state(&client, slot(1)).await, Some(VmState::Live));
    vmd.kill();
    let mut vmd = Vmd::start(&node);
    wait_for("the new vmd", async || {
        let info = client.call::<wire::NodeInfo>(&(), PATIENCE).await.ok()?;
        info.vms.first().is_some_and(|vm| !vm.running).then_some(())
    })
    .await;
    // That it does not run is known before that is stored.
    wait_for("the VM to be lost", async || {
        (state(&client, slot(1)).await == Some(VmState::Lost)).then_some(())
    })
    .await;
    client.call::<wire::VmCreate>(&request(slot(2), 1), PATIENCE).await.expect("it goes on with the new one");
    for slot in [slot(1), slot(2)] {
        assert_eq!(destroy(&client, slot, 1).await.expect("destroyed"), 1);
        assert_eq!(state(&client, slot).await, Some(VmState::Absent));
    }
    vmd.stop();
}
