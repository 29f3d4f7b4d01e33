//! What the cluster says of this node: which collectors shall look and how often, which instances live here, whose disks are
//! whose. It is asked for through a [`Cluster`]; while nobody answers, the last word holds, and before the first one what is
//! built in. What is told is there at once, and disks, which are a question an instance, hold up nothing else.

use crate::core::board::Board;
use crate::core::collect::lease::Held;
use crate::core::collect::lv::Disk;
use crate::core::collect::node::Instance;
use crate::core::settings::Settings;
use futures_util::StreamExt;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Between questions after the settings and the instances (`spec/mond.md` §4).
const ASK: Duration = Duration::from_secs(15);
/// How long the first answer is waited for before what is built in is served.
pub const FIRST: Duration = Duration::from_secs(15);
/// Most instances whose disks are asked for: a node has dozens.
const DISKS_OF_MAX: usize = 256;
/// Most leases that are asked about: a VM has one, and a node has dozens of VMs.
const LEASES_MAX: usize = 256;
/// Questions after disks, and after leases, at once. One takes ten seconds where a candidate is silent; ConfD answers each node 50 a second.
const AT_ONCE: usize = 16;

/// A question, and the number of its ConfD request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// 11: the collectors' settings.
    Collectors,
    /// 8: the instances of this node.
    Instances,
    /// 7: whose DRBD minors are whose on this node.
    Minors,
    /// 9: the disks of the instance with this uuid.
    Disks(String),
    /// 102: the lease with this uuid.
    Lease(String),
}

/// A question's answer; None: nobody answered, or said that there is none.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Option<Value>> + Send + 'a>>;

/// Who can be asked. One answers within its own time limit; dropping a question is fine.
pub trait Cluster: Send + Sync + 'static {
    /// Asks; the answer is that of the ConfD request.
    fn ask(&self, what: Ask) -> Asked<'_>;
}

/// The last word on everything but the settings.
#[derive(Debug, Clone, Default)]
struct Words {
    instances: Option<Vec<Instance>>,
    minors: Value,
    /// Uuid and name of instances whose disks are asked for.
    with_disks: Vec<(String, String)>,
    /// By the uuid of their instance.
    disks: BTreeMap<String, Vec<Disk>>,
    /// Uuids of the leases that were last seen on this node.
    held: BTreeSet<String>,
    /// What is known of them.
    leases: BTreeMap<String, Held>,
}

/// What was told so far. Clones share it.
#[derive(Clone)]
pub struct Told {
    cluster: Arc<dyn Cluster>,
    settings: Arc<watch::Sender<Settings>>,
    words: Arc<Mutex<Words>>,
}

impl Told {
    /// Asks for the first time for all but disks, and waits for the answer for no longer than that ([`FIRST`]).
    pub async fn first(cluster: Arc<dyn Cluster>, patience: Duration, stop: &CancellationToken) -> Self {
        let settings = Arc::new(watch::Sender::new(Settings::default()));
        let told = Self { cluster, settings, words: Arc::default() };
        tokio::select! {
            () = told.refresh() => {}
            () = tokio::time::sleep(patience) => tracing::warn!("nobody tells the cluster's settings; those built in hold"),
            () = stop.cancelled() => {}
        }
        told
    }

    fn words<T>(&self, take: impl FnOnce(&mut Words) -> T) -> T {
        take(&mut self.words.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The collectors' settings.
    #[must_use]
    pub fn settings(&self) -> Settings {
        *self.settings.borrow()
    }

    /// Watches them: a change is there when its answer is.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Settings> {
        self.settings.subscribe()
    }

    /// The instances of this node; None: nobody ever said.
    #[must_use]
    pub fn instances(&self) -> Option<Vec<Instance>> {
        self.words(|words| words.instances.clone())
    }

    /// ConfD's rows on DRBD minors.
    #[must_use]
    pub fn minors(&self) -> Value {
        self.words(|words| words.minors.clone())
    }

    /// Disks on this node that are logical volumes.
    #[must_use]
    pub fn disks(&self) -> Vec<Disk> {
        self.words(|words| words.disks.values().flatten().cloned().collect())
    }

    /// What is known of these leases, and they are the ones that are asked about from now on. One that came since the last question
    /// is not known yet: tasks have theirs for less than a question takes.
    #[must_use]
    pub fn leases<'a>(&self, held: impl Iterator<Item = &'a str>) -> BTreeMap<String, Held> {
        self.words(|words| {
            words.held = held.take(LEASES_MAX).map(str::to_owned).collect();
            let Words { held, leases, .. } = words;
            leases.retain(|uuid, _| held.contains(uuid));
            leases.clone()
        })
    }

    /// Asks about all leases that were last seen, some at a time: they may have been renewed. Of one that nobody tells of, the last
    /// word holds.
    async fn refresh_leases(&self) {
        let held = self.words(|words| words.held.clone());
        let ask = |uuid: String| async move {
            if let Some(answer) = self.cluster.ask(Ask::Lease(uuid.clone())).await {
                self.words(|words| match Held::read(&answer) {
                    Some(lease) if words.held.contains(&uuid) => drop(words.leases.insert(uuid, lease)),
                    _ => drop(words.leases.remove(&uuid)),
                });
            }
        };
        futures_util::stream::iter(held).for_each_concurrent(AT_ONCE, ask).await;
    }

    /// Asks everything but disks and leases once, all at the same time: where candidates are down, each question takes its whole time.
    async fn refresh(&self) {
        let ask = |what| self.cluster.ask(what);
        let settings = async {
            if let Some(answer) = ask(Ask::Collectors).await {
                let settings = Settings::read(&answer);
                self.settings.send_if_modified(|old| std::mem::replace(old, settings) != settings);
            }
        };
        let minors = async {
            if let Some(answer) = ask(Ask::Minors).await {
                self.words(|words| words.minors = answer);
            }
        };
        let instances = async {
            let answer = ask(Ask::Instances).await;
            if let Some(instances) = answer.as_ref().and_then(Instance::read_all) {
                let with_disks = answer.iter().flat_map(with_disks).take(DISKS_OF_MAX).collect();
                self.words(|words| {
                    words.instances = Some(instances);
                    words.with_disks = with_disks;
                });
            }
        };
        tokio::join!(settings, minors, instances);
    }

    /// Asks for the disks of all instances, some at a time. Of one that nobody tells of, the last word holds.
    async fn refresh_disks(&self) {
        let wanted = self.words(|words| {
            words.disks.retain(|uuid, _| words.with_disks.iter().any(|(known, _)| known == uuid));
            words.with_disks.clone()
        });
        let ask = |(uuid, name): (String, String)| async move {
            if let Some(answer) = self.cluster.ask(Ask::Disks(uuid.clone())).await {
                self.words(|words| words.disks.insert(uuid, disks(&name, &answer)));
            }
        };
        futures_util::stream::iter(wanted).for_each_concurrent(AT_ONCE, ask).await;
    }
}

/// Uuid and name of those instances of an answer 8 that have disks.
fn with_disks(answer: &Value) -> Vec<(String, String)> {
    let all = answer.as_array().into_iter().flatten().filter_map(Value::as_array).flatten();
    let has = |one: &&Value| one["disks"].as_array().is_some_and(|disks| !disks.is_empty());
    let names = |one: &Value| Some((one["uuid"].as_str()?.to_owned(), one["name"].as_str()?.to_owned()));
    all.filter(has).filter_map(names).collect()
}

/// The logical volumes among an instance's disks, those below DRBD too.
#[must_use]
pub fn disks(instance: &str, answer: &Value) -> Vec<Disk> {
    let mut all = Vec::new();
    for disk in answer.as_array().into_iter().flatten() {
        // A pair is a volume; longer ids are of other disks, which may lie on volumes.
        if let Some([Value::String(group), Value::String(volume)]) =
            disk["logical_id"].as_array().map(Vec::as_slice)
        {
            all.push(Disk { instance: instance.to_owned(), volume: (group.clone(), volume.clone()) });
        }
        all.extend(disks(instance, &disk["children"]));
    }
    all
}

/// However long an answer takes, the next question is on time, unless the last one still waits.
fn pace() -> tokio::time::Interval {
    let mut pace = tokio::time::interval(ASK);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    pace
}

/// Asks again and again, and hands new settings to the board. Disks and leases are asked for at a pace of their own.
pub async fn follow(told: Told, board: Arc<Mutex<Board>>, stop: CancellationToken) {
    let mut settings = told.watch();
    // What was told since the board was made.
    settings.mark_changed();
    let asking = async {
        let mut pace = pace();
        // The first time is over.
        pace.tick().await;
        loop {
            pace.tick().await;
            told.refresh().await;
        }
    };
    let asking_for_disks = async {
        let mut pace = pace();
        loop {
            pace.tick().await;
            told.refresh_disks().await;
        }
    };
    let asking_about_leases = async {
        let mut pace = pace();
        loop {
            pace.tick().await;
            told.refresh_leases().await;
        }
    };
    let telling = async {
        while settings.changed().await.is_ok() {
            let now = *settings.borrow_and_update();
            if board.lock().unwrap_or_else(PoisonError::into_inner).set(&now) {
                tracing::info!("other settings of collectors");
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = asking_for_disks => {}
        () = asking_about_leases => {}
        () = telling => {}
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::catalogue::index;
    use serde_json::json;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Answers as ConfD would, as long as it is told to.
    #[derive(Debug, Default)]
    struct Played(Mutex<bool>);

    impl Cluster for Played {
        fn ask(&self, what: Ask) -> Asked<'_> {
            if *self.0.lock().unwrap() {
                return Box::pin(std::future::ready(None));
            }
            let instance =
                json!({"uuid": "u1", "name": "i1", "hypervisor": "oci", "admin_state": "up", "disks": ["d"]});
            let answer = match what {
                Ask::Collectors => json!({"lv": {"active": false, "interval": 1_000_000}}),
                Ask::Instances => json!([[instance], []]),
                Ask::Minors => json!([["n", 0, "i1", "disk/0", "primary", "m"]]),
                Ask::Disks(_) => {
                    json!([{"logical_id": ["a", "b", 3], "children": [{"logical_id": ["vg", "lv1"]}]}])
                }
                Ask::Lease(uuid) => json!({
                    "uuid": uuid, "owner": {"user": {"name": "ada"}}, "pool": "p", "vms": [], "granted": 0, "until": 60_000,
                    "renewed": 0, "state": "active", "granted_at": 100.0,
                }),
            };
            Box::pin(std::future::ready(Some(answer)))
        }
    }

    #[tokio::test]
    async fn the_last_word_holds_when_nobody_answers() {
        let cluster = Arc::new(Played::default());
        let told = Told::first(cluster.clone(), FIRST, &CancellationToken::new()).await;
        let lv = index("lv").unwrap();
        told.refresh_disks().await;
        let check = || {
            assert!(!told.settings().get(lv).active);
            assert_eq!(told.instances().unwrap()[0].name, "i1");
            assert_eq!(told.minors()[0][2], "i1");
            let volume = ("vg".to_owned(), "lv1".to_owned());
            assert_eq!(told.disks(), [Disk { instance: "i1".into(), volume }]);
        };
        check();
        *cluster.0.lock().unwrap() = true;
        told.refresh().await;
        told.refresh_disks().await;
        check();
    }

    #[tokio::test]
    async fn leases_that_are_seen_are_asked_about_and_others_forgotten() {
        let cluster = Arc::new(Played::default());
        let told = Told::first(cluster.clone(), FIRST, &CancellationToken::new()).await;
        let uuid = |number: u8| format!("00000000-0000-4000-8000-{number:012}");
        let seen = |numbers: &[u8]| {
            let uuids: Vec<String> = numbers.iter().map(|number| uuid(*number)).collect();
            told.leases(uuids.iter().map(String::as_str))
        };
        assert!(seen(&[1, 2]).is_empty(), "nobody has said anything");
        told.refresh_leases().await;
        *cluster.0.lock().unwrap() = true;
        told.refresh_leases().await;
        let held = Held { owner: "ada".to_owned(), expires: 160.0 };
        assert_eq!(seen(&[2, 3]), BTreeMap::from([(uuid(2), held)]));
        assert!(seen(&[1]).is_empty(), "it was gone, and is not remembered");
    }

    /// Of many instances, and who is asked for disks is silent until let go. Counts what is asked at once.
    #[derive(Debug, Default)]
    struct Slow {
        now: AtomicUsize,
        most: AtomicUsize,
        done: AtomicUsize,
        go: CancellationToken,
    }

    impl Cluster for Slow {
        fn ask(&self, what: Ask) -> Asked<'_> {
            let instance = |number: usize| json!({"uuid": format!("u{number}"), "name": "i", "hypervisor": "oci", "admin_state": "up", "disks": ["d"]});
            Box::pin(async move {
                match what {
                    Ask::Collectors => Some(json!({"lv": {"active": false}})),
                    Ask::Instances => Some(json!([(0..300).map(instance).collect::<Vec<_>>(), []])),
                    Ask::Minors | Ask::Lease(_) => None,
                    Ask::Disks(uuid) => {
                        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
                        self.most.fetch_max(now, Ordering::SeqCst);
                        self.go.cancelled().await;
                        self.now.fetch_sub(1, Ordering::SeqCst);
                        self.done.fetch_add(1, Ordering::SeqCst);
                        Some(json!([{"logical_id": ["vg", uuid]}]))
                    }
                }
            })
        }
    }

    #[tokio::test]
    async fn settings_do_not_wait_for_disks_which_are_asked_for_some_at_a_time() {
        let (cluster, stop) = (Arc::new(Slow::default()), CancellationToken::new());
        let told = Told::first(cluster.clone(), FIRST, &stop).await;
        // The board was made before anybody told.
        let board = Arc::new(Mutex::new(Board::new(&Settings::default())));
        let followed = tokio::spawn(follow(told.clone(), Arc::clone(&board), stop.clone()));
        let listed = |name: &str| board.lock().unwrap().list().to_string().contains(&format!("\"{name}\""));
        let until = async |what: &dyn Fn() -> bool| {
            while !what() {
                tokio::task::yield_now().await;
            }
        };
        until(&|| cluster.now.load(Ordering::SeqCst) == AT_ONCE).await;
        until(&|| !listed("lv")).await;
        assert_eq!((told.disks(), told.instances().unwrap().len()), (Vec::new(), 300));
        cluster.go.cancel();
        until(&|| told.disks().len() == DISKS_OF_MAX).await;
        assert_eq!(cluster.most.load(Ordering::SeqCst), AT_ONCE);
        stop.cancel();
        followed.await.unwrap();
    }

    #[tokio::test]
    async fn disks_of_instances_that_are_gone_go() {
        let cluster = Arc::new(Played::default());
        let told = Told::first(cluster, FIRST, &CancellationToken::new()).await;
        told.words(|words| {
            words.disks.insert("gone".to_owned(), disks("g", &json!([{"logical_id": ["vg", "x"]}])))
        });
        told.refresh_disks().await;
        assert_eq!(told.disks().iter().map(|disk| disk.instance.as_str()).collect::<Vec<_>>(), ["i1"]);
    }

    #[tokio::test]
    async fn a_silent_cluster_is_not_waited_for_for_ever() {
        struct Silent;
        impl Cluster for Silent {
            fn ask(&self, _what: Ask) -> Asked<'_> {
                Box::pin(std::future::pending())
            }
        }
        let told = Told::first(Arc::new(Silent), Duration::from_millis(20), &CancellationToken::new()).await;
        assert_eq!((told.settings(), told.instances()), (Settings::default(), None));
    }
}
