//! Tells wconfd that a leased VM is about to be touched (P5.4). On a connection of its own, so that it waits for nothing
//! else that luxid says there.

use gantry_model::ids::LeaseUuid;
use gantry_model::lease::LeasedVm;
use gantry_model::root::Root;
use gantry_proto::codec::Json;
use gantry_proto::hello::Hello;
use gantry_proto::wconfd::{Apply, ApplyRequest, Command, PROTOCOL};
use gantry_rpc::{CallError, Client};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long wconfd may take.
const CALL_MS: u64 = 30_000;
/// Tries, the first one included: the connection may be one to a wconfd that was started again since.
const TRIES: u32 = 2;

pub(super) struct Opener {
    path: PathBuf,
    hello: Hello,
    client: Mutex<Option<Client>>,
}

impl Opener {
    /// Nothing is connected yet. The hello names luxid's run, so that one that was followed by a newer one opens nothing.
    pub fn new(root: &Root, hello: &Hello) -> Self {
        let hello = Hello { protocol: PROTOCOL.to_owned(), ..hello.clone() };
        Self { path: root.socket("wconfd.sock"), hello, client: Mutex::default() }
    }

    /// Stores durably that this VM of a lease was touched. May be repeated.
    pub async fn open(&self, lease: LeaseUuid, vm: LeasedVm) -> Result<(), CallError> {
        let command = Command::LeaseOpen { lease, slot: vm.slot, generation: vm.generation };
        let request = ApplyRequest { owner: None, seq: 0, commands: Json::of(&vec![command])? };
        let mut last = CallError::Closed("wconfd is away".to_owned());
        for _ in 0..TRIES {
            let client = match self.connected().await {
                Ok(client) => client,
                Err(why) => return Err(CallError::Closed(why)),
            };
            match client.call::<Apply>(&request, Duration::from_millis(CALL_MS)).await {
                Ok(_) => return Ok(()),
                Err(why @ CallError::Closed(_)) => last = why,
                Err(why) => return Err(why),
            }
        }
        Err(last)
    }

    async fn connected(&self) -> Result<Client, String> {
        let mut kept = self.client.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let client = Client::unix(&self.path, &self.hello).await;
        let client = client.map_err(|error| format!("wconfd is away: {error}"))?;
        *kept = Some(client.clone());
        Ok(client)
    }
}
