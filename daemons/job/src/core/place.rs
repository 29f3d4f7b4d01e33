//! Where a new instance goes: a pure choice among the nodes that have room. Memory and disk are never promised
//! twice; CPU up to the group's vcpu-ratio (DESIGN §7).

use gantry_model::ids::NodeUuid;

/// What an instance needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// MiB.
    pub memory_mib: u64,
    /// MiB.
    pub disk_mib: u64,
    /// CPUs.
    pub vcpus: u64,
}

impl Need {
    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.memory_mib += other.memory_mib;
        self.disk_mib += other.disk_mib;
        self.vcpus += other.vcpus;
    }
}

/// What a node offers, and how much of it is promised to instances homed there, live or not.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Which.
    pub node: NodeUuid,
    /// For messages.
    pub name: String,
    /// What it has for VMs.
    pub has: Need,
    /// What is promised.
    pub promised: Need,
    /// Virtual CPUs per CPU.
    pub vcpu_ratio: f64,
    /// Slots of the same pool that are there: a pool is spread.
    pub fellows: u64,
}

impl Offer {
    /// None when there is room, else what is short.
    #[allow(clippy::cast_precision_loss, reason = "CPU counts are small")]
    pub fn short_of(&self, need: Need) -> Option<String> {
        let over = |what: &str, has: u64, promised: u64, need: u64| {
            (promised + need > has)
                .then(|| format!("{what}: {has} MiB, of which {promised} are promised, {need} wanted"))
        };
        over("memory", self.has.memory_mib, self.promised.memory_mib, need.memory_mib)
            .or_else(|| over("disk", self.has.disk_mib, self.promised.disk_mib, need.disk_mib))
            .or_else(|| {
                let room = self.has.vcpus as f64 * self.vcpu_ratio;
                let used = (self.promised.vcpus + need.vcpus) as f64;
                (used > room).then(|| format!("CPU: {room} virtual CPUs in all, {used} would be promised"))
            })
    }
}

/// Homes for `count` VMs of a pool, one after the other, each promised before the next is chosen. Fewer, and why, when
/// there is no room for all.
pub fn spread(mut offers: Vec<Offer>, need: Need, count: u64) -> (Vec<NodeUuid>, Option<String>) {
    let mut homes = Vec::new();
    for _ in 0..count {
        match choose(&offers, need) {
            Ok(home) => {
                for offer in offers.iter_mut().filter(|offer| offer.node == home) {
                    offer.promised.add(need);
                    offer.fellows += 1;
                }
                homes.push(home);
            }
            Err(why) => return (homes, Some(why)),
        }
    }
    (homes, None)
}

/// The node with fewest slots of the pool among those with room, then with most free memory; ties by name. Or why none
/// has room.
pub fn choose(offers: &[Offer], need: Need) -> Result<NodeUuid, String> {
    let free = |offer: &Offer| offer.has.memory_mib.saturating_sub(offer.promised.memory_mib);
    let best = offers.iter().filter(|offer| offer.short_of(need).is_none()).max_by(|a, b| {
        b.fellows.cmp(&a.fellows).then(free(a).cmp(&free(b))).then_with(|| b.name.cmp(&a.name))
    });
    match best {
        Some(offer) => Ok(offer.node),
        None if offers.is_empty() => Err("no node is online, not drained and vm-capable".to_owned()),
        None => {
            let why: Vec<String> = offers
                .iter()
                .map(|offer| format!("{}: {}", offer.name, offer.short_of(need).unwrap_or_default()))
                .collect();
            Err(format!("no node has room ({})", why.join("; ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn offer(id: u128, memory: u64, promised: u64) -> Offer {
        let none = Need { memory_mib: promised, disk_mib: 0, vcpus: 0 };
        Offer {
            node: NodeUuid(Uuid::from_u128(id)),
            name: format!("node{id}"),
            has: Need { memory_mib: memory, disk_mib: 1000, vcpus: 2 },
            promised: none,
            vcpu_ratio: 4.0,
            fellows: 0,
        }
    }

    const NEED: Need = Need { memory_mib: 100, disk_mib: 10, vcpus: 1 };

    #[test]
    fn the_emptiest_node_is_taken() {
        let offers = [offer(1, 1000, 500), offer(2, 1000, 100), offer(3, 1000, 100)];
        assert_eq!(choose(&offers, NEED), Ok(offers[1].node));
    }

    #[test]
    fn a_pool_is_spread_and_never_promised_what_is_not_there() {
        let mut offers = vec![offer(1, 1000, 0), offer(2, 250, 0), offer(3, 1000, 950)];
        offers[0].fellows = 1;
        let (homes, why) = spread(offers.clone(), NEED, 4);
        let [one, two, _] = [0, 1, 2].map(|at| offers[at].node);
        assert_eq!((homes, why), (vec![two, one, two, one], None), "fewest first, then the emptier one");
        // One has room for 8 by its CPUs, two for two by its memory, three for none.
        let (homes, why) = spread(offers, NEED, 20);
        assert_eq!(homes.len(), 10);
        let why = why.unwrap();
        assert!(
            why.contains("node1: CPU") && why.contains("node2: memory") && why.contains("node3: memory"),
            "{why}"
        );
    }

    #[test]
    fn memory_disk_and_cpu_bound_the_choice() {
        assert!(choose(&[offer(1, 99, 0)], NEED).unwrap_err().contains("memory"));
        assert!(choose(&[offer(1, 1000, 0)], Need { disk_mib: 1001, ..NEED }).unwrap_err().contains("disk"));
        assert!(choose(&[offer(1, 1000, 0)], Need { vcpus: 9, ..NEED }).unwrap_err().contains("CPU"));
        assert!(choose(&[offer(1, 1000, 0)], Need { vcpus: 8, ..NEED }).is_ok());
        assert!(choose(&[], NEED).is_err());
    }
}
