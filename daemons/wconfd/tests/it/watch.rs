//! The watch stream: the whole state, then every committed batch, from any index.

use crate::world::{LIMIT, World, apply, tag};
use gantry_proto::wconfd::{self as wire, WatchChange, WatchItem, WatchRequest};
use gantry_rpc::{Client, Event, Stream};
use std::collections::BTreeMap;
use uuid::Uuid;

/// What a follower has.
#[derive(Default)]
struct Follower {
    index: u64,
    history: Option<Uuid>,
    objects: BTreeMap<(String, String), WatchChange>,
    resets: usize,
    batches: Vec<u64>,
}

impl Follower {
    async fn open(&self, client: &Client) -> Stream<wire::Watch> {
        let request = WatchRequest { from: self.index, history: self.history };
        client.open::<wire::Watch>(&request).await.unwrap()
    }

    /// Follows until it has `index`.
    async fn until(&mut self, stream: &mut Stream<wire::Watch>, index: u64) {
        let mut loading = false;
        while self.index < index || loading {
            let event = tokio::time::timeout(LIMIT, stream.next()).await.expect("an item").unwrap();
            let Event::Item(item) = event else { panic!("the stream ended") };
            match item {
                WatchItem::Reset { index, history } => {
                    (self.index, self.history, loading) = (index, Some(history), true);
                    self.objects.clear();
                    self.resets += 1;
                }
                WatchItem::Chunk(changes) => self.take(changes),
                WatchItem::Loaded => loading = false,
                WatchItem::Batch { index, changes } => {
                    assert_eq!(index, self.index + 1, "each batch once, in order");
                    self.index = index;
                    self.batches.push(index);
                    self.take(changes);
                }
            }
        }
    }

    fn take(&mut self, changes: Vec<WatchChange>) {
        for change in changes {
            let key = (change.kind.clone(), change.key.clone());
            match &change.body {
                Some(_) => drop(self.objects.insert(key, change)),
                None => drop(self.objects.remove(&key).expect("only what is there is removed")),
            }
        }
    }

    fn tags(&self) -> usize {
        let cluster = &self.objects[&("cluster".to_owned(), "cluster".to_owned())];
        let body: serde_json::Value = serde_json::from_str(cluster.body.as_ref().unwrap()).unwrap();
        body["tags"].as_array().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_state_then_every_batch() {
    let world = World::start().await;
    let client = world.client().await;
    let mut follower = Follower::default();
    let mut stream = follower.open(&client).await;
    follower.until(&mut stream, 1).await;
    assert_eq!((follower.resets, follower.tags()), (1, 0));
    assert!(follower.objects.contains_key(&("node".to_owned(), world.node.to_string())));
    for n in 0..20 {
        let (index, _) = apply(&client, vec![tag(&format!("t{n}"))]).await.unwrap();
        follower.until(&mut stream, index).await;
        assert_eq!(follower.tags(), n + 1, "what was answered is seen");
    }
    assert_eq!(follower.resets, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_where_it_was_also_over_restarts() {
    let mut world = World::start().await;
    let client = world.client().await;
    let mut follower = Follower::default();
    let mut stream = follower.open(&client).await;
    follower.until(&mut stream, 1).await;
    drop(stream);
    let mut last = 0;
    for n in 0..600 {
        last = apply(&client, vec![tag(&format!("t{n}"))]).await.unwrap().0;
    }
    let mut stream = follower.open(&client).await;
    follower.until(&mut stream, last).await;
    assert_eq!((follower.resets, follower.tags()), (1, 600));
    world.restart().await;
    let client = world.client().await;
    let (last, _) = apply(&client, vec![tag("after")]).await.unwrap();
    let mut stream = follower.open(&client).await;
    follower.until(&mut stream, last).await;
    assert_eq!((follower.resets, follower.tags()), (1, 601));
    follower.history = Some(Uuid::new_v4());
    let mut stream = follower.open(&client).await;
    follower.resets = 0;
    follower.index = 0;
    follower.until(&mut stream, last).await;
    assert_eq!((follower.resets, follower.tags()), (1, 601), "another history begins anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_follower_is_cut_off_and_misses_nothing() {
    let world = World::start().await;
    let client = world.client().await;
    let slow = world.client().await;
    let mut follower = Follower::default();
    let mut stream = follower.open(&slow).await;
    follower.until(&mut stream, 1).await;
    // More than window and feed hold together, while nobody reads.
    let mut last = 0;
    let mut tasks = tokio::task::JoinSet::new();
    for c in 0..10 {
        let client = client.clone();
        tasks.spawn(async move {
            let mut last = 0;
            for n in 0..80 {
                last = apply(&client, vec![tag(&format!("t{c}.{n}"))]).await.unwrap().0;
            }
            last
        });
    }
    while let Some(done) = tasks.join_next().await {
        last = last.max(done.unwrap());
    }
    follower.until(&mut stream, last).await;
    assert_eq!((follower.resets, follower.tags()), (1, 800));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_from_the_future_begins_anew() {
    let world = World::start().await;
    let client = world.client().await;
    let mut follower = Follower::default();
    let mut stream = follower.open(&client).await;
    follower.until(&mut stream, 1).await;
    let mut ahead = Follower { index: 1_000, history: follower.history, ..Follower::default() };
    let mut stream = ahead.open(&client).await;
    ahead.index = 0;
    ahead.until(&mut stream, 1).await;
    assert_eq!((ahead.resets, ahead.tags()), (1, 0));
}
