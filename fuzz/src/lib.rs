//! What the targets of the inside protocols share: a service that decodes every request of wconfd's, the service
//! with the richest types, and a way to let both sides read bytes from memory.

use gantry_proto::verb::Verb;
use gantry_proto::wconfd::{
    Apply, CertSign, LockFree, LockPriority, LockRows, LockUpdate, NodeStates, OwnerGone, Owners, Read,
    Status, Watch, WatchItem,
};
use gantry_rpc::{
    Call, Client, Code, Facts, Fail, Handled, Hello, Service, reply, serve_stream, unknown_verb,
};
use std::sync::Arc;
use std::time::Duration;

/// Longer than any input takes: what comes later is a hang.
const HANG: Duration = Duration::from_secs(2);

/// Items of one answered stream: less than a window.
const ITEMS: usize = 10;

/// Decodes what it is sent.
pub struct Decoder;

/// Decodes the request of `V`; the reply does not matter.
fn decode<V: Verb>(call: &Call) -> Result<Vec<u8>, Fail> {
    call.request::<V>().map(|_| Vec::new())
}

impl Service for Decoder {
    fn hello(&self) -> Hello {
        Hello::new("wconfd", "fuzz")
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            match call.verb {
                Status::ID => decode::<Status>(&call),
                LockUpdate::ID => decode::<LockUpdate>(&call),
                LockFree::ID => decode::<LockFree>(&call),
                LockPriority::ID => decode::<LockPriority>(&call),
                LockRows::ID => decode::<LockRows>(&call),
                OwnerGone::ID => decode::<OwnerGone>(&call),
                Owners::ID => decode::<Owners>(&call),
                Read::ID => decode::<Read>(&call),
                Apply::ID => {
                    let request = call.request::<Apply>()?;
                    let read = request.commands.read();
                    read.map(|_| Vec::new()).map_err(|error| Fail::new(Code::BadRequest, error.to_string()))
                }
                Watch::ID => {
                    call.request::<Watch>()?;
                    let items = call.items::<Watch>();
                    for _ in 0..ITEMS {
                        items.send(&WatchItem::Loaded).await?;
                    }
                    reply::<Watch>(&())
                }
                CertSign::ID => decode::<CertSign>(&call),
                NodeStates::ID => decode::<NodeStates>(&call),
                _ => Err(unknown_verb(&call)),
            }
        })
    }
}

/// One frame.
#[must_use]
pub fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("fuzz inputs are small").to_be_bytes();
    [&length[..], body].concat()
}

/// A sound first frame.
#[must_use]
pub fn hello_frame() -> Vec<u8> {
    framed(&serde_json::to_vec(&Hello::new("wconfd", "fuzz")).expect("a hello is JSON"))
}

fn run<F: Future>(work: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(HANG, work).await.expect("ends with its input") })
}

/// Lets a server read `bytes`.
pub fn serve(bytes: &[u8]) {
    let stream = tokio::io::join(bytes, tokio::io::sink());
    run(serve_stream(stream, Facts::default(), Arc::new(Decoder)));
}

/// Lets a client with a call and a stream under way read `bytes`.
pub fn answer(bytes: Vec<u8>) {
    run(async {
        let stream = tokio::io::join(std::io::Cursor::new(bytes), tokio::io::sink());
        let Ok(client) = Client::over(stream, &Hello::new("wconfd", "fuzz")).await else { return };
        let called = client.call_waiting::<Status>(&());
        let request = gantry_proto::wconfd::WatchRequest { from: 0, history: None };
        let watched = async {
            let Ok(mut stream) = client.open::<Watch>(&request).await else { return };
            while stream.next().await.is_ok() {}
        };
        let _ = tokio::join!(called, watched);
        client.closed().await;
    });
}
