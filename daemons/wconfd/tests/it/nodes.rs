//! Claims, inventories and ssconf values, against a noded made here on the real wire.

use crate::world::{LIMIT, World, apply, apply_as, owner, read, take, until};
use gantry_model::config::{AdminState, Instance, Params, Stamp};
use gantry_model::ids::{Fence, Generation, InstanceUuid, NodeUuid};
use gantry_proto::noded::{self, SlotFacts, VmState};
use gantry_proto::wconfd::{self as wire, Command, ReadKey, Want};
use gantry_rpc::{Call, Client, Code, Fail, Handled, Hello, Limits, Service, route, serve_tls, tls};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// What the pretended noded knows and was told.
#[derive(Default)]
struct Node {
    fence: Option<Fence>,
    claims: usize,
    deposed: bool,
    facts: Vec<SlotFacts>,
    ssconf: BTreeMap<String, String>,
}

struct Noded {
    node: NodeUuid,
    state: Mutex<Node>,
    losses: broadcast::Sender<SlotFacts>,
}

impl Noded {
    async fn tell(&self, call: Call) -> Result<(), Fail> {
        let mut losses = self.losses.subscribe();
        let items = call.items::<noded::Losses>();
        while let Ok(lost) = losses.recv().await {
            items.send(&lost).await.map_err(|why| Fail::new(Code::Internal, why.to_string()))?;
        }
        Ok(())
    }
}

impl Service for Noded {
    fn hello(&self) -> Hello {
        let mut hello = Hello::new(noded::PROTOCOL, "gantry-noded");
        hello.node = Some(self.node);
        hello
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            if call.is::<noded::Losses>() {
                return route!(call, { noded::Losses => |_fence, call| self.tell(call).await, });
            }
            let mut state = self.state.lock().unwrap();
            route!(call, {
                noded::Claim => |request, _call| {
                    if state.deposed {
                        Err(Fail::new(Code::Fenced, "epoch 9 was here"))
                    } else {
                        state.claims += 1;
                        state.fence = Some(request.fence);
                        Ok(state.facts.clone())
                    }
                },
                noded::Inventory => |_fence, _call| Ok(state.facts.clone()),
                noded::Ssconf => |request, _call| {
                    state.ssconf = request.values.into_iter().collect();
                    Ok(())
                },
            })
        })
    }
}

/// A world whose noded can be started and stopped.
pub struct Site {
    pub world: World,
    noded: Arc<Noded>,
    port: u16,
    stop: CancellationToken,
}

impl Site {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let world = World::init(port);
        let (losses, _) = broadcast::channel(8);
        let noded = Arc::new(Noded { node: world.node, state: Mutex::default(), losses });
        let mut site = Self { world, noded, port, stop: CancellationToken::new() };
        site.listen(listener);
        site.world.boot().await;
        site
    }

    /// What the noded says of its slots from now on.
    pub fn set_facts(&self, facts: Vec<SlotFacts>) {
        self.noded.state.lock().unwrap().facts = facts;
    }

    fn listen(&mut self, listener: TcpListener) {
        self.stop = CancellationToken::new();
        let identity = tls::Identity::load(&self.world.root.secrets()).unwrap();
        let config = tls::server_config(&identity).unwrap();
        let (service, stop) = (Arc::clone(&self.noded), self.stop.clone());
        tokio::spawn(serve_tls(listener, config, service, Limits::default(), stop));
    }

    /// The noded goes and comes back, and so is claimed and asked for its inventory again.
    pub async fn reconnect(&mut self, client: &Client) {
        self.stop.cancel();
        self.claimed(client, false).await;
        let port = self.port;
        let listener =
            until("the port", || async { TcpListener::bind(("127.0.0.1", port)).await.ok() }).await;
        self.listen(listener);
        self.claimed(client, true).await;
    }

    pub async fn claimed(&self, client: &Client, want: bool) {
        until("the claim", || async {
            let states = client.call::<wire::NodeStates>(&(), LIMIT).await.unwrap();
            (states[0].claimed == want).then_some(())
        })
        .await;
    }
}

/// A VM of the first generation that nobody touched.
pub fn live(slot: InstanceUuid) -> SlotFacts {
    let (floor, generation) = (Generation(1), Generation(1));
    SlotFacts { slot, floor, generation, state: VmState::Live, holder: None, opened: false }
}

fn instance(uuid: InstanceUuid, name: &str, node: NodeUuid) -> Command {
    let instance = Instance {
        uuid,
        name: name.to_owned(),
        primary_node: node,
        os: "noop".to_owned(),
        hypervisor: "fake".to_owned(),
        hvparams: Params::new(),
        beparams: Params::new(),
        osparams: Params::new(),
        admin_state: AdminState::Down,
        admin_state_source: "admin".to_owned(),
        nics: Vec::new(),
        disk_template: "diskless".to_owned(),
        disks: Vec::new(),
        forthcoming: false,
        pool: None,
        stamp: Stamp::new(0.0),
        extra: Params::new(),
    };
    Command::InstanceAdd { instance: Box::new(instance) }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_claimed_and_given_ssconf() {
    let site = Site::start().await;
    let client = site.world.client().await;
    site.claimed(&client, true).await;
    let status = client.call::<wire::Status>(&(), LIMIT).await.unwrap();
    assert_eq!(site.noded.state.lock().unwrap().fence, Some(status.fence));
    let has = |key: &'static str, value: &'static str| {
        let noded = Arc::clone(&site.noded);
        move || {
            let found = noded.state.lock().unwrap().ssconf.get(key).is_some_and(|v| v == value);
            async move { found.then_some(()) }
        }
    };
    until("ssconf", has("master_node", "node1.example.test\n")).await;
    let set = json!({"maintain_node_health": true}).as_object().unwrap().clone();
    apply(&client, vec![Command::ClusterSet { rev: None, set }]).await.unwrap();
    until("the change", has("maintain_node_health", "True\n")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_needs_the_claim_and_inventories_count() {
    let mut site = Site::start().await;
    let client = site.world.client().await;
    site.claimed(&client, true).await;
    let uuid = InstanceUuid(uuid::Uuid::new_v4());
    let other = InstanceUuid(uuid::Uuid::new_v4());
    take(&client, owner(1), &[("instance/[lockset]", Want::Exclusive)]).await;
    let both = [(uuid, "inst1.example.test"), (other, "inst2.example.test")];
    let both = both.map(|(uuid, name)| instance(uuid, name, site.world.node)).to_vec();
    apply_as(&client, Some(owner(1)), 1, both).await.unwrap();
    let begin = |slot| vec![Command::SlotBegin { slot, expected: Generation(0), holder: owner(1) }];
    let ready = vec![Command::SlotReady { slot: uuid, generation: Generation(1) }];
    apply_as(&client, Some(owner(1)), 2, begin(uuid)).await.unwrap();
    apply_as(&client, Some(owner(1)), 3, ready).await.unwrap();
    site.stop.cancel();
    site.claimed(&client, false).await;
    let refused = apply_as(&client, Some(owner(1)), 4, begin(other)).await.unwrap_err();
    assert!(refused.to_string().contains("does not answer the master"), "{refused}");
    // It comes back with a VM that is gone, and has seen higher generations.
    let facts = SlotFacts {
        slot: uuid,
        floor: Generation(7),
        generation: Generation(7),
        state: VmState::Absent,
        holder: None,
        opened: false,
    };
    site.noded.state.lock().unwrap().facts = vec![facts];
    let listener =
        until("the port", || async { TcpListener::bind(("127.0.0.1", site.port)).await.ok() }).await;
    site.listen(listener);
    site.claimed(&client, true).await;
    let slot = read(&client, ReadKey::Key("slot".to_owned(), uuid.to_string())).await;
    assert_eq!((&slot[0].1["state"], &slot[0].1["generation"]), (&json!("DIRTY"), &json!(7)));
    apply_as(&client, Some(owner(1)), 4, begin(other)).await.unwrap();
}

/// Not at the next ping: the inventory says all the time that it lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_loss_that_a_node_tells_counts_at_once_and_for_that_generation_only() {
    let site = Site::start().await;
    let client = site.world.client().await;
    site.claimed(&client, true).await;
    let [dead, lives] = [1, 2].map(|_| InstanceUuid(uuid::Uuid::new_v4()));
    for (number, slot) in [(1, dead), (2, lives)] {
        let made = instance(slot, &format!("inst{number}.example.test"), site.world.node);
        apply(&client, vec![made]).await.unwrap();
        let begin = vec![Command::SlotBegin { slot, expected: Generation(0), holder: owner(1) }];
        let ready = vec![Command::SlotReady { slot, generation: Generation(1) }];
        apply_as(&client, Some(owner(1)), 2 * number - 1, begin).await.unwrap();
        apply_as(&client, Some(owner(1)), 2 * number, ready).await.unwrap();
    }
    site.set_facts(vec![live(dead), live(lives)]);
    let losses = &site.noded.losses;
    until("somebody who listens", || async { (losses.receiver_count() > 0).then_some(()) }).await;
    let lost = |slot| SlotFacts { state: VmState::Lost, ..live(slot) };
    losses.send(SlotFacts { generation: Generation(0), floor: Generation(0), ..lost(lives) }).unwrap();
    losses.send(lost(InstanceUuid(uuid::Uuid::new_v4()))).unwrap();
    losses.send(lost(dead)).unwrap();
    let seen = |slot: InstanceUuid| {
        let client = client.clone();
        async move { read(&client, ReadKey::Key("slot".to_owned(), slot.to_string())).await.remove(0).1 }
    };
    let why = until("the slot is dirty", || async {
        let row = seen(dead).await;
        (row["state"] == json!("DIRTY")).then(|| row["why"].as_str().unwrap_or_default().to_owned())
    })
    .await;
    assert!(why.contains("lost"), "{why}");
    assert_eq!(seen(lives).await["state"], json!("CLEAN"), "the loss of an older generation is nobody's now");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_job_was_making_is_dirty_also_over_a_restart() {
    let mut site = Site::start().await;
    let client = site.world.client().await;
    site.claimed(&client, true).await;
    let uuid = InstanceUuid(uuid::Uuid::new_v4());
    apply(&client, vec![instance(uuid, "inst1.example.test", site.world.node)]).await.unwrap();
    let begin = vec![Command::SlotBegin { slot: uuid, expected: Generation(0), holder: owner(1) }];
    apply_as(&client, Some(owner(1)), 1, begin).await.unwrap();
    site.world.restart().await;
    let luxid = site.world.luxid(1).await;
    luxid.call::<wire::Owners>(&Vec::new(), LIMIT).await.unwrap();
    let client = site.world.client().await;
    let slot = read(&client, ReadKey::Key("slot".to_owned(), uuid.to_string())).await;
    assert_eq!((&slot[0].1["state"], &slot[0].1["generation"]), (&json!("DIRTY"), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_master_stops() {
    let mut site = Site::start().await;
    let client = site.world.client().await;
    site.claimed(&client, true).await;
    site.stop.cancel();
    site.claimed(&client, false).await;
    site.noded.state.lock().unwrap().deposed = true;
    let listener =
        until("the port", || async { TcpListener::bind(("127.0.0.1", site.port)).await.ok() }).await;
    site.listen(listener);
    site.world.ended().await;
    assert!(site.world.log().contains("knows another master"), "{}", site.world.log());
}
