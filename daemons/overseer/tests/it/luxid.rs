//! The played luxid's two sockets. Killed, it closes every connection; the world goes on.

use crate::world::World;
use gantry_model::root::Root;
use gantry_proto::stream::{PROTOCOL, StreamEvent, Watch};
use gantry_rpc::{Call, Handled, Hello, Limits, Service, reply, unknown_verb};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

const ETX: u8 = 3;

pub struct Luxid {
    stop: CancellationToken,
}

impl Luxid {
    /// Serves on a root.
    pub fn serve(root: &Root, world: &Arc<Mutex<World>>) -> Self {
        let stop = CancellationToken::new();
        let luxi = gantry_rpc::unix::bind(&root.socket("luxi.sock"), 0o600).unwrap();
        tokio::spawn(accept(luxi, Arc::clone(world), stop.clone()));
        let stream = gantry_rpc::unix::bind(&root.socket("stream.sock"), 0o600).unwrap();
        let service = Arc::new(Events { world: Arc::clone(world), stop: stop.clone() });
        tokio::spawn(gantry_rpc::serve_unix(stream, service, Limits::default(), stop.clone()));
        Self { stop }
    }
}

impl Drop for Luxid {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: UnixListener, world: Arc<Mutex<World>>, stop: CancellationToken) {
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted.unwrap().0,
        };
        let (world, stop) = (Arc::clone(&world), stop.clone());
        tokio::spawn(async move {
            tokio::select! { () = stop.cancelled() => {}, _ = converse(stream, &world) => {} }
        });
    }
}

async fn converse(mut stream: UnixStream, world: &Mutex<World>) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        while !buffer.contains(&ETX) {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let end = buffer.iter().position(|byte| *byte == ETX).unwrap();
        let request: Value = serde_json::from_slice(&buffer[..end]).unwrap();
        buffer.drain(..=end);
        let answer = world.lock().unwrap().answer(request["method"].as_str().unwrap(), &request["args"]);
        let message = match answer {
            Ok(result) => json!({"success": true, "result": result}),
            Err(result) => json!({"success": false, "result": result}),
        };
        let mut bytes = message.to_string().into_bytes();
        bytes.push(ETX);
        stream.write_all(&bytes).await?;
    }
}

struct Events {
    world: Arc<Mutex<World>>,
    stop: CancellationToken,
}

impl Events {
    async fn watch(&self, call: Call) -> Result<Vec<u8>, gantry_rpc::Fail> {
        let items = call.items::<Watch>();
        let mut events = self.world.lock().unwrap().events.subscribe();
        items.send(&StreamEvent::Begun).await?;
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => return reply::<Watch>(&()),
                event = events.recv() => event,
            };
            match event {
                Ok(event) => items.send(&event).await?,
                Err(RecvError::Lagged(_)) => items.send(&StreamEvent::Lost).await?,
                Err(RecvError::Closed) => return reply::<Watch>(&()),
            }
        }
    }
}

impl Service for Events {
    fn hello(&self) -> Hello {
        Hello::new(PROTOCOL, "gantry-luxid")
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            match call.verb {
                <Watch as gantry_rpc::Verb>::ID => self.watch(call).await,
                _ => Err(unknown_verb(&call)),
            }
        })
    }
}
