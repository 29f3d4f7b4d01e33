//! Every collector: what its reports are called and counted as. The names are the model's, so that settings and MonD
//! cannot differ.

use super::report::{Category, Kind};
use gantry_model::collector::COLLECTORS;

/// A collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Its name.
    pub name: &'static str,
    /// Where it stands.
    pub category: Category,
    /// What it tells.
    pub kind: Kind,
    /// Goes on looking while it is off: its figures are over a span of time.
    pub stateful: bool,
}

/// Version of every collector's data.
pub const FORMAT_VERSION: u32 = 1;

/// Number of a collector in [`specs`].
pub type Index = usize;

/// All of them, in the order of lists.
#[must_use]
pub fn specs() -> [Spec; COLLECTORS.len()] {
    COLLECTORS.map(|collector| spec(collector.name))
}

/// The place of a collector in [`specs`].
#[must_use]
pub fn index(name: &str) -> Option<Index> {
    COLLECTORS.iter().position(|collector| collector.name == name)
}

fn spec(name: &'static str) -> Spec {
    let (category, kind) = match name {
        "cpu-avg-load" | "xen-cpu-avg-load" | "node-resources" => (Category::None, Kind::Performance),
        "diskstats" | "lv" => (Category::Storage, Kind::Performance),
        "drbd" => (Category::Storage, Kind::Status),
        "container-usage" => (Category::Instance, Kind::Performance),
        "daemon-status" => (Category::Daemon, Kind::Status),
        // Instances, pools, slots, leases.
        _ => (Category::Instance, Kind::Status),
    };
    Spec { name, category, kind, stateful: matches!(name, "cpu-avg-load" | "xen-cpu-avg-load") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ganetis_collectors_are_as_ganeti_lists_them() {
        let all: Vec<_> = specs().iter().map(|s| (s.name, s.category.path(), s.kind.number())).collect();
        let ganetis = [
            ("cpu-avg-load", "default", 0),
            ("xen-cpu-avg-load", "default", 0),
            ("diskstats", "storage", 0),
            ("drbd", "storage", 1),
            ("inst-status-xen", "instance", 1),
            ("lv", "storage", 0),
        ];
        assert_eq!(all[..6], ganetis);
        for (index_is, spec) in specs().iter().enumerate() {
            assert_eq!(index(spec.name), Some(index_is));
        }
    }
}
