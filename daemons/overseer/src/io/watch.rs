//! Follows luxid's events (`stream.sock`), over restarts of luxid.

use crate::core::agenda::KINDS;
use crate::io::shell::News;
use gantry_model::root::Root;
use gantry_proto::hello::Hello;
use gantry_proto::stream::{PROTOCOL, StreamEvent, Watch, WatchRequest};
use gantry_rpc::{Client, Event};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

/// First and longest pause between connections, ms: short, since all turn-over waits for the first events.
const RECONNECT_MS: (u64, u64) = (50, 2_000);

/// Tells the shell of events until the daemon stops.
pub async fn run(root: Root, news: Sender<News>, stop: CancellationToken) {
    tokio::select! {
        () = keep(&root, &news) => {}
        () = stop.cancelled() => {}
    }
}

/// Ends only when the shell has.
async fn keep(root: &Root, news: &Sender<News>) {
    let mut wait = RECONNECT_MS.0;
    loop {
        let (begun, why) = follow(root, news).await;
        if begun {
            wait = RECONNECT_MS.0;
        }
        if news.send(News::Unwatched(why)).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(wait)).await;
        wait = (wait * 2).min(RECONNECT_MS.1);
    }
}

/// One connection; whether the watch stood, and why it ended.
async fn follow(root: &Root, news: &Sender<News>) -> (bool, String) {
    let hello = Hello::new(PROTOCOL, "gantry-overseer");
    let client = match Client::unix(&root.socket("stream.sock"), &hello).await {
        Ok(client) => client,
        Err(error) => return (false, error.to_string()),
    };
    let request = WatchRequest { kinds: KINDS.iter().map(|kind| (*kind).to_owned()).collect() };
    let mut stream = match client.open::<Watch>(&request).await {
        Ok(stream) => stream,
        Err(error) => return (false, error.to_string()),
    };
    let mut begun = false;
    loop {
        let event = match stream.next().await {
            Ok(Event::Item(event)) => event,
            Ok(Event::End(())) => return (begun, "luxid ended the stream of events".to_owned()),
            Err(error) => return (begun, error.to_string()),
        };
        begun |= event == StreamEvent::Begun;
        if news.send(News::Event(event)).await.is_err() {
            return (begun, "stopping".to_owned());
        }
    }
}
