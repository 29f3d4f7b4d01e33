//! Leases of users over LUXI (ADR 0007).

use super::{Api, Result, strange, told};
use crate::core::admission;
use crate::core::queue::{self, Answer};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::LeaseUuid;
use gantry_model::lease::{LEASE_MS_DEFAULT, LeaseRequest, RequestState};
use gantry_model::time::Ts;
use gantry_proto::envelope::Code;
use gantry_proto::wconfd::Command;
use gantry_rpc::CallError;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The argument of `LeaseRequest`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    #[serde(default)]
    uuid: Option<LeaseUuid>,
    pool: String,
    #[serde(default = "one")]
    count: u32,
    #[serde(default)]
    for_s: Option<u64>,
    #[serde(default)]
    ttl_s: Option<u64>,
    user: String,
    #[serde(default)]
    priority: i32,
}

fn one() -> u32 {
    1
}

/// `LeaseRequest`. The same uuid again is the same request.
pub(super) async fn request(api: &Api, wish: Value) -> Result<LeaseUuid> {
    let wish: Wish = serde_json::from_value(wish)
        .map_err(|why| GanetiError::prereq(format!("the request can't be read: {why}"), Ecode::WrongInput))?;
    let request = LeaseRequest {
        uuid: wish.uuid.unwrap_or_else(|| LeaseUuid(uuid::Uuid::new_v4())),
        user: wish.user,
        pool: wish.pool,
        count: wish.count,
        for_ms: wish.for_s.map_or(LEASE_MS_DEFAULT, |s| s.saturating_mul(1000)),
        ttl_ms: wish.ttl_s.map(|s| s.saturating_mul(1000)),
        priority: wish.priority,
        received: Ts::default(),
        state: RequestState::Waiting,
        why: None,
        vms: Vec::new(),
    };
    if api.view.request(request.uuid).is_none() {
        admission::lease(&api.config.snapshot(), &request)?;
    }
    match api.inbox.ask(queue::Request::RequestLease(Box::new(request))).await? {
        Answer::LeaseRequested(lease) => Ok(lease),
        other => Err(strange(&other)),
    }
}

fn unknown(lease: LeaseUuid) -> GanetiError {
    let text = format!("there is no lease {lease}; it may have ended some time ago");
    GanetiError::prereq(text, Ecode::UnknownEntity)
}

/// `WaitForLease`: at once when the state differs from what is known.
pub(super) async fn wait(api: &Api, lease: LeaseUuid, known: Option<String>, seconds: u64) -> Result<Value> {
    let until = Instant::now() + Duration::from_secs(seconds.min(super::WAIT_S_MAX));
    loop {
        let (rev, request) = api.view.request(lease).ok_or_else(|| unknown(lease))?;
        if known.as_deref() != Some(request.state.as_str()) {
            return Ok(shown(api, &request));
        }
        // Asked also when the time is over already: that somebody asks keeps a request alive.
        let change = api.inbox.ask(queue::Request::WaitLease { lease, rev });
        match timeout_at(until, change).await {
            Ok(changed) => drop(changed?),
            Err(_) => {
                let request = api.view.request(lease).map_or(request, |(_, newest)| newest);
                return Ok(shown(api, &request));
            }
        }
    }
}

/// A request as clients see it: the names of its VMs and their nodes added, why it waits worked out now.
fn shown(api: &Api, request: &LeaseRequest) -> Value {
    let config = api.config.snapshot();
    let name = |vm: &gantry_model::lease::LeasedVm| {
        config.instances().name(&vm.slot).map_or_else(|| vm.slot.to_string(), |name| name.to_string())
    };
    let node = |vm: &gantry_model::lease::LeasedVm| {
        config.nodes().get(&vm.node).map_or_else(|| vm.node.to_string(), |node| node.name.clone())
    };
    let mut value = json!(request);
    value["names"] = request.vms.iter().map(name).collect();
    value["nodes"] = request.vms.iter().map(node).collect();
    let why = api.view.why_request_waits(request.uuid);
    if !why.is_empty() {
        value["why"] = json!(why);
    }
    value
}

/// `LeaseRenew`. The lease clock is wconfd's, so luxid only passes it on.
pub(super) async fn renew(api: &Api, lease: LeaseUuid) -> Result<bool> {
    let (_, request) = api.view.request(lease).ok_or_else(|| unknown(lease))?;
    let state = |text: String| GanetiError::prereq(text, Ecode::WrongState);
    match request.state {
        RequestState::Granted => {}
        RequestState::Waiting => return Err(state(format!("lease {lease} is not granted yet"))),
        RequestState::Over => {
            let why = request.why.as_deref().unwrap_or("it ended");
            return Err(state(format!("lease {lease} is over: {why}")));
        }
    }
    match api.config.apply(Command::LeaseRenew { lease }).await {
        Ok(_) => Ok(true),
        Err(CallError::Fail(fail)) if fail.code == Code::Stale => {
            Err(state(format!("lease {lease} is over")))
        }
        Err(CallError::Fail(fail)) => {
            Err(fail.as_ganeti().unwrap_or_else(|| GanetiError::generic(fail.text)))
        }
        Err(why) => Err(GanetiError::generic(format!("can't renew lease {lease} now, try again: {why}"))),
    }
}

/// `LeaseRelease`.
pub(super) async fn release(api: &Api, lease: LeaseUuid) -> Result<(bool, String)> {
    told(api.inbox.ask(queue::Request::ReleaseLease(lease)).await?)
}
