//! What the cluster says of this node: which collectors shall look and how often, which instances live here, whose disks are
//! whose. It is asked for through a [`Cluster`]; while nobody answers, the last word holds, and before the first one what is
//! built in.

use crate::core::board::Board;
use crate::core::collect::lv::Disk;
use crate::core::collect::node::Instance;
use crate::core::settings::Settings;
use serde_json::Value;
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
}

/// A question's answer; None: nobody answered, or said that there is none.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Option<Value>> + Send + 'a>>;

/// Who can be asked. One answers within its own time limit; dropping a question is fine.
pub trait Cluster: Send + Sync + 'static {
    /// Asks; the answer is that of the ConfD request.
    fn ask(&self, what: Ask) -> Asked<'_>;
}

/// The last word on everything.
#[derive(Debug, Clone, Default)]
struct Words {
    settings: Settings,
    instances: Option<Vec<Instance>>,
    minors: Value,
    disks: Vec<Disk>,
}

/// What was told so far. Clones share it.
#[derive(Clone)]
pub struct Told {
    cluster: Arc<dyn Cluster>,
    words: Arc<Mutex<Words>>,
}

impl Told {
    /// Asks for the first time, and waits for the answer for no longer than that ([`FIRST`]).
    pub async fn first(cluster: Arc<dyn Cluster>, patience: Duration, stop: &CancellationToken) -> Self {
        let told = Self { cluster, words: Arc::default() };
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
        self.words(|words| words.settings)
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
        self.words(|words| words.disks.clone())
    }

    /// Asks everything once, all at the same time: where most candidates are down, each question takes its whole time.
    async fn refresh(&self) {
        let ask = |what| self.cluster.ask(what);
        let settings = async {
            if let Some(answer) = ask(Ask::Collectors).await {
                self.words(|words| words.settings = Settings::read(&answer));
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
                self.words(|words| words.instances = Some(instances));
                self.ask_disks(with_disks).await;
            }
        };
        tokio::join!(settings, minors, instances);
    }

    async fn ask_disks(&self, instances: Vec<(String, String)>) {
        let mut all = Vec::new();
        for (uuid, name) in instances {
            let Some(answer) = self.cluster.ask(Ask::Disks(uuid)).await else { return };
            all.extend(disks(&name, &answer));
        }
        self.words(|words| words.disks = all);
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

/// Asks again and again; hands new settings to the board and to who watches them.
pub async fn follow(
    told: Told,
    board: Arc<Mutex<Board>>,
    tell: watch::Sender<Settings>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(ASK) => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = told.refresh() => {}
            () = stop.cancelled() => return,
        }
        let settings = told.settings();
        if tell.send_if_modified(|old| std::mem::replace(old, settings) != settings) {
            board.lock().unwrap_or_else(PoisonError::into_inner).set(&settings);
            tracing::info!("other settings of collectors");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::catalogue::index;
    use serde_json::json;

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
            };
            Box::pin(std::future::ready(Some(answer)))
        }
    }

    #[tokio::test]
    async fn the_last_word_holds_when_nobody_answers() {
        let cluster = Arc::new(Played::default());
        let told = Told::first(cluster.clone(), FIRST, &CancellationToken::new()).await;
        let lv = index("lv").unwrap();
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
        check();
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
