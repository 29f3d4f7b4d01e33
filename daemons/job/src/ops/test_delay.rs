//! OP_TEST_DELAY: sleeps on the master and on nodes; the standard test of queue and locks.

use crate::error::OpFail;
use crate::io::nodes;
use crate::ops::{Args, Cx, Locks};
use gantry_model::config::Node;
use gantry_model::error::Ecode;
use gantry_proto::noded::{TestDelay, TestDelayRequest};
use gantry_proto::wconfd::Want;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixListener;

/// Longest delay of one round.
const SECONDS_MAX: f64 = 86_400.0;

/// Runs it. Result: null.
pub async fn run(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Value, OpFail> {
    let seconds = args.get("duration").and_then(Value::as_f64).unwrap_or(0.0);
    if !(0.0..=SECONDS_MAX).contains(&seconds) {
        let text = format!("duration {seconds} is not between 0 and {SECONDS_MAX} seconds");
        return Err(OpFail::prereq(text, Ecode::WrongInput));
    }
    let delay = Duration::from_secs_f64(seconds);
    let nodes = targets(cx, args).await?;
    cx.begin(locks(args, &nodes)).await?;
    if args.bool("dry_run") {
        return Ok(Value::Null);
    }
    let mut wake = if args.bool("interruptible") { Some(Interrupter::new(cx)?) } else { None };
    let rounds = args.uint("repeat").unwrap_or(0);
    for round in 0..=rounds {
        if rounds > 0 {
            cx.info(format!("Test delay iteration {round}/{rounds}"));
        }
        if round_of(cx, args, &nodes, delay, &mut wake).await? == Woken::Early {
            break;
        }
    }
    Ok(Value::Null)
}

async fn targets(cx: &mut Cx<'_>, args: &Args<'_>) -> Result<Vec<Node>, OpFail> {
    let uuids = args.texts("on_node_uuids");
    let names = if uuids.is_empty() { args.texts("on_nodes") } else { uuids };
    let mut nodes: Vec<Node> = Vec::new();
    for name in names {
        let node = cx.master.node(name).await?;
        if !nodes.iter().any(|known| known.uuid == node.uuid) {
            nodes.push(node);
        }
    }
    Ok(nodes)
}

/// `no_locks` means none at all; else the BGL beside others, and the nodes alone.
fn locks(args: &Args<'_>, nodes: &[Node]) -> Locks {
    if args.bool("no_locks") {
        return Locks::none();
    }
    nodes.iter().fold(Locks::shared(), |locks, node| locks.node(node.uuid, Want::Exclusive))
}

#[derive(Debug, PartialEq, Eq)]
enum Woken {
    InTime,
    Early,
}

async fn round_of(
    cx: &mut Cx<'_>,
    args: &Args<'_>,
    nodes: &[Node],
    delay: Duration,
    wake: &mut Option<Interrupter>,
) -> Result<Woken, OpFail> {
    if args.get("on_master").is_none_or(|flag| flag.as_bool() == Some(true)) {
        match wake {
            Some(interrupter) => {
                if tokio::time::timeout(delay, interrupter.listener.accept()).await.is_ok() {
                    return Ok(Woken::Early);
                }
            }
            None if delay.is_zero() => {}
            None => tokio::time::sleep(delay).await,
        }
    }
    for node in nodes {
        if node.offline {
            return Err(OpFail::exec(format!("node {} is marked offline", node.name)));
        }
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let request = TestDelayRequest { fence: cx.nodes.fence(), millis };
        cx.nodes.call::<TestDelay>(node, &request, delay + nodes::CALL).await?;
    }
    Ok(Woken::InTime)
}

/// A socket that ends the delay when somebody connects to it, told by a `delay-test` log entry. It goes with the delay;
/// luxid removes what a killed job leaves.
struct Interrupter {
    listener: UnixListener,
    path: PathBuf,
}

impl Interrupter {
    fn new(cx: &Cx<'_>) -> Result<Self, OpFail> {
        let path = cx.root().job_delay_socket(cx.owner());
        let listener = gantry_rpc::unix::bind(&path, 0o600)
            .map_err(|why| OpFail::exec(format!("can't listen on {}: {why}", path.display())))?;
        cx.log("delay-test", json!([path.display().to_string()]));
        Ok(Self { listener, path })
    }
}

impl Drop for Interrupter {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
