//! One golden file.

use gantry_proto::codec;
use gantry_proto::verb::{NoItem, Verb};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::TypeId;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

/// Set, the golden files are rewritten instead of compared.
const BLESS_ENV: &str = "GANTRY_BLESS";

/// Lines to compare with a file.
pub struct Sheet {
    name: &'static str,
    lines: Vec<String>,
    covered: BTreeSet<u16>,
}

impl Sheet {
    pub fn new(name: &'static str) -> Self {
        Self { name, lines: Vec::new(), covered: BTreeSet::new() }
    }

    /// Adds the samples of one verb: at least one request and reply, and items exactly if it is a stream.
    pub fn verb<V: Verb>(&mut self, requests: &[V::Request], items: &[V::Item], replies: &[V::Reply]) {
        let streams = TypeId::of::<V::Item>() != TypeId::of::<NoItem>();
        assert!(!requests.is_empty() && !replies.is_empty(), "{}: no sample", V::NAME);
        assert_eq!(streams, !items.is_empty(), "{}: items of a stream, and only of one", V::NAME);
        assert!(self.covered.insert(V::ID), "{}: sampled twice", V::NAME);
        let name = format!("{} {}", V::ID, V::NAME);
        self.values(&format!("{name} request"), requests);
        self.values(&format!("{name} item"), items);
        self.values(&format!("{name} reply"), replies);
    }

    /// Adds a line for each value, which must survive the way there and back.
    pub fn values<T: Serialize + DeserializeOwned>(&mut self, label: &str, values: &[T]) {
        for (index, value) in values.iter().enumerate() {
            let bytes = codec::encode(value).expect("encodes");
            let back: T = codec::decode(&bytes).expect("decodes");
            assert_eq!(codec::encode(&back).expect("encodes"), bytes, "{label} {index} changes on its way");
            self.lines.push(format!("{label} {index} {}", hex(&bytes)).trim_end().to_owned());
        }
    }

    /// Every verb has a number of its own and samples here.
    pub fn covers(&self, verbs: &[(u16, &str)]) {
        let numbers: BTreeSet<u16> = verbs.iter().map(|(number, _)| *number).collect();
        let names: BTreeSet<&str> = verbs.iter().map(|(_, name)| *name).collect();
        assert_eq!((numbers.len(), names.len()), (verbs.len(), verbs.len()), "{}: used twice", self.name);
        assert!(!numbers.contains(&0), "{}: verbs are numbered from 1", self.name);
        assert_eq!(self.covered, numbers, "{}: verbs without samples", self.name);
    }

    /// Compares with the file, or writes it.
    pub fn check(&self) {
        let path = path(&format!("{}.hex", self.name));
        let text = self.lines.iter().fold(String::new(), |text, line| text + line + "\n");
        if blessing() {
            return std::fs::write(path, text).expect("written");
        }
        let golden = std::fs::read_to_string(&path).expect("a golden file");
        let (golden, now): (Vec<_>, Vec<_>) = (golden.lines().collect(), text.lines().collect());
        for line in &golden {
            assert!(now.contains(line), "{}: gone or changed: {line}", self.name);
        }
        for line in &now {
            assert!(golden.contains(line), "{}: no golden bytes for: {line}", self.name);
        }
        assert_eq!(golden, now, "{}: order", self.name);
    }
}

/// A golden file of protocol version 1.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name)
}

/// Whether golden files are to be rewritten.
pub fn blessing() -> bool {
    std::env::var_os(BLESS_ENV).is_some_and(|value| value == "1")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

/// Ids to sample with: recognisable, and all different.
pub mod ids {
    use gantry_model::ids::{
        ClusterUuid, Fence, GroupUuid, InstanceUuid, JobId, JobOwner, LeaseUuid, NodeUuid, StartNo,
    };
    use uuid::Uuid;

    pub const CLUSTER: ClusterUuid = ClusterUuid(Uuid::from_u128(0x1111_1111_1111_4111_8111_1111_1111_1111));
    pub const NODE: NodeUuid = NodeUuid(Uuid::from_u128(0x2222_2222_2222_4222_8222_2222_2222_2222));
    pub const GROUP: GroupUuid = GroupUuid(Uuid::from_u128(0x3333_3333_3333_4333_8333_3333_3333_3333));
    pub const SLOT: InstanceUuid = InstanceUuid(Uuid::from_u128(0x4444_4444_4444_4444_8444_4444_4444_4444));
    pub const LEASE: LeaseUuid = LeaseUuid(Uuid::from_u128(0x5555_5555_5555_4555_8555_5555_5555_5555));
    pub const HISTORY: Uuid = Uuid::from_u128(0x6666_6666_6666_4666_8666_6666_6666_6666);
    pub const FENCE: Fence =
        Fence { epoch: 7, ballot: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255] };
    pub const OWNER: JobOwner =
        JobOwner { job: JobId(300), start: StartNo { epoch: 7, run: 70_000, counter: 5_000_000_000 } };
}
