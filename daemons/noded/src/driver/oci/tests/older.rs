//! A vmd of an earlier release, which lives on when noded is replaced.

use super::bed::{CLUSTER, vm};
use crate::driver::Driver;
use crate::driver::fake::Room;
use crate::driver::oci::{Node, Oci};
use gantry_model::ids::NodeUuid;
use gantry_model::root::Root;
use gantry_proto::noded::OpenLimits;
use gantry_proto::vmd::{self, VmFacts, VmLimits, VmName, VmState};
use gantry_rpc::{Call, Handled, Hello, Limits, Peer, Service, route, serve_unix, unix};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const OWN: VmLimits = VmLimits { memory_mib: 128, cpu_percent: 100, pids: 64 };
const OWN_ROOM: u64 = 32;

/// Notes what it was told.
#[derive(Default)]
struct Older(Mutex<Vec<(VmLimits, Option<u64>)>>);

impl Service for Older {
    fn hello(&self) -> Hello {
        Hello::new(vmd::PROTOCOL, "gantry-vmd")
    }

    fn accept(&self, _peer: &Peer) -> Result<(), String> {
        Ok(())
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            route!(call, {
                vmd::Show => |VmName { vm }, _call| Ok(VmFacts {
                    vm,
                    label: String::new(),
                    state: VmState::Running,
                    uid_base: 1,
                    scratch_mib: OWN_ROOM,
                    limits: OWN,
                    why: String::new(),
                }),
                vmd::Limit => |request, _call| {
                    self.0.lock().expect("not poisoned").push((request.limits, None));
                    Ok(())
                },
                vmd::Room => |request, _call| {
                    self.0.lock().expect("not poisoned").last_mut().expect("limits").1 = Some(request.scratch_mib);
                    Ok(())
                },
            })
        })
    }
}

#[tokio::test]
async fn a_vmd_that_knows_no_confine_is_told_in_the_old_words() {
    let dir = tempfile::tempdir().expect("dir");
    let root = Root::new(dir.path());
    let room = Room { memory_mib: 4096, disk_mib: 4096 };
    let node = NodeUuid(Uuid::new_v4());
    let socket = root.socket("vmd.sock");
    std::fs::create_dir_all(socket.parent().expect("a directory")).expect("made");
    let (older, stop) = (Arc::new(Older::default()), CancellationToken::new());
    let listener = unix::bind(&socket, 0o600).expect("bound");
    let served = tokio::spawn(serve_unix(listener, Arc::clone(&older), Limits::default(), stop.clone()));
    let oci = Oci::new(Node { root, cluster: CLUSTER, node, uid_base: 1, room, etc: "/etc".into() });
    let few = OpenLimits { memory_mib: 64, pids: 8, disk_mib: 4 };
    oci.limit_work(&vm(1), Some(few)).await.expect("lowered");
    oci.limit_work(&vm(1), None).await.expect("its own");
    let lowered = VmLimits { memory_mib: 64, cpu_percent: 100, pids: 8 };
    assert_eq!(*older.0.lock().expect("not poisoned"), [(lowered, Some(4)), (OWN, Some(OWN_ROOM))]);
    // It tells of no death: whoever listens waits, and hears nothing, until it goes.
    let (send, mut told) = tokio::sync::mpsc::channel(1);
    let listening = tokio::spawn(async move { oci.deaths(send).await });
    let early = tokio::time::timeout(Duration::from_millis(100), told.recv()).await;
    assert!(early.is_err() && !listening.is_finished(), "{early:?}");
    stop.cancel();
    served.await.expect("ended");
    assert_eq!(listening.await.expect("joined"), Ok(()));
}
