//! The cluster's address on this node: what is known of it durably, and which steps follow from an order or from a change
//! of the role. The record is written before the address is put up and after it is taken down, so whatever is on the
//! machine by this node's doing stands in the record.

use gantry_model::master_ip::MasterAddress;
use gantry_model::role::{Role, RoleFile};
use gantry_proto::effects::MasterIpOrder;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// What this node has durably on the cluster's address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The epoch whose master had the last word.
    pub epoch: u64,
    /// The address that may be on this machine.
    pub address: Option<MasterAddress>,
    /// An operator took it down for this epoch.
    pub down: bool,
}

/// One thing to do. They are done in order, and after a crash decided anew from the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Take it from its device; not there is success.
    Remove(MasterAddress),
    /// End here when this machine has the address: the record does not have it, so somebody else put it there.
    Vacant(MasterAddress),
    /// Make the record durable.
    Store(Record),
    /// Put it on its device, unless it is there.
    Add(MasterAddress),
}

/// What an order of the master of `epoch` means. The caller has seen that this node is that master.
#[must_use]
pub fn obey(record: &Record, epoch: u64, order: &MasterIpOrder) -> Vec<Step> {
    let kept_down = record.down && record.epoch == epoch;
    let (wanted, down) = match order {
        MasterIpOrder::Keep(_) if kept_down => (None, true),
        MasterIpOrder::Keep(address) => (address.clone(), false),
        MasterIpOrder::Up(address) => (Some(address.clone()), false),
        MasterIpOrder::Down => (None, true),
    };
    let known = wanted.is_some() && record.address == wanted;
    let next = Record { epoch, address: wanted.clone(), down };
    let mut steps = Vec::new();
    if !known {
        steps.extend(record.address.clone().map(Step::Remove));
    }
    if !known {
        steps.extend(wanted.clone().map(Step::Vacant));
    }
    if next != *record {
        steps.push(Step::Store(next));
    }
    steps.extend(wanted.map(Step::Add));
    steps
}

/// What the role means: only the master of the record's epoch keeps the address.
#[must_use]
pub fn follow(record: &Record, role: RoleFile) -> Vec<Step> {
    if role.role == Role::Master && role.epoch == record.epoch {
        return Vec::new();
    }
    release(record)
}

/// When an address that was to come is not there: the record does not have it any more. It had it before the attempt, for
/// the case of a crash; kept, it would make an address that somebody else puts there later pass for ours.
#[must_use]
pub fn failed(record: &Record) -> Vec<Step> {
    record.address.is_some().then(|| Step::Store(without(record))).into_iter().collect()
}

fn without(record: &Record) -> Record {
    Record { address: None, ..record.clone() }
}

/// Takes the address off, whoever is the master: this daemon ends, and nobody else would do it when another node becomes
/// the master meanwhile. The master puts it up again when it finds a noded that lacks it.
#[must_use]
pub fn release(record: &Record) -> Vec<Step> {
    let address = record.address.clone();
    address.map_or_else(Vec::new, |address| vec![Step::Remove(address), Step::Store(without(record))])
}

/// An ARP request or reply as a whole Ethernet frame.
pub type ArpFrame = [u8; 42];

/// The two gratuitous ARP frames by which neighbours learn that `ip` is at `mac` now: some heed a request, some a reply
/// (RFC 5227 §3, RFC 2002 §4.6).
#[must_use]
pub fn announcements(mac: [u8; 6], ip: Ipv4Addr) -> [ArpFrame; 2] {
    const REQUEST: u8 = 1;
    const REPLY: u8 = 2;
    [REQUEST, REPLY].map(|operation| {
        let mut frame = [0; 42];
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&mac);
        // EtherType ARP; hardware Ethernet, protocol IPv4, lengths of their addresses; operation.
        frame[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation]);
        frame[22..28].copy_from_slice(&mac);
        frame[28..32].copy_from_slice(&ip.octets());
        if operation == REPLY {
            frame[32..38].copy_from_slice(&mac);
        }
        frame[38..42].copy_from_slice(&ip.octets());
        frame
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ids::{ClusterUuid, NodeUuid};
    use proptest::prelude::*;

    fn address(last: u8) -> MasterAddress {
        MasterAddress { ip: Ipv4Addr::new(192, 0, 2, last), prefix: 24, device: "eth0".to_owned() }
    }

    fn role(role: Role, epoch: u64) -> RoleFile {
        let (node, cluster) = (NodeUuid(uuid::Uuid::nil()), ClusterUuid(uuid::Uuid::nil()));
        RoleFile { node, cluster, role, epoch }
    }

    /// A machine and its disk; a crash may come between any two steps.
    #[derive(Debug, Default)]
    struct Machine {
        record: Record,
        on: Vec<MasterAddress>,
    }

    impl Machine {
        fn run(&mut self, steps: Vec<Step>, crash_after: usize) {
            for step in steps.into_iter().take(crash_after) {
                match step {
                    Step::Remove(address) => self.on.retain(|there| *there != address),
                    Step::Store(record) => self.record = record,
                    Step::Vacant(address) => {
                        assert!(!self.on.contains(&address), "taken for a stranger's: {address}");
                    }
                    Step::Add(address) => {
                        self.on.retain(|there| *there != address);
                        self.on.push(address);
                    }
                }
                let recorded: Vec<_> = self.record.address.iter().collect();
                assert!(self.on.iter().all(|there| recorded.contains(&there)), "{self:?}");
            }
        }
    }

    fn order() -> impl Strategy<Value = MasterIpOrder> {
        prop_oneof![
            Just(MasterIpOrder::Keep(None)),
            (1..3u8).prop_map(|last| MasterIpOrder::Keep(Some(address(last)))),
            (1..3u8).prop_map(|last| MasterIpOrder::Up(address(last))),
            Just(MasterIpOrder::Down),
        ]
    }

    proptest! {
        /// Whatever is ordered, whoever becomes master, wherever it crashes: only a recorded address is on the machine, and
        /// none once a node that is not the record's master has looked.
        #[test]
        fn what_is_on_the_machine_stands_in_the_record(
            history in proptest::collection::vec((order(), 1..4u64, any::<bool>(), 0..7usize), 0..30)
        ) {
            let mut machine = Machine::default();
            for (order, epoch, is_master, crash_after) in history {
                if is_master {
                    let look = follow(&machine.record, role(Role::Master, epoch));
                    machine.run(look, usize::MAX);
                    machine.run(obey(&machine.record, epoch, &order), crash_after);
                    if crash_after > 4 {
                        let up = machine.on.clone();
                        match order {
                            MasterIpOrder::Up(wanted) => prop_assert_eq!(up, vec![wanted]),
                            MasterIpOrder::Down | MasterIpOrder::Keep(None) => prop_assert!(up.is_empty()),
                            MasterIpOrder::Keep(Some(wanted)) => {
                                let wanted = if machine.record.down { vec![] } else { vec![wanted] };
                                prop_assert_eq!(up, wanted);
                            }
                        }
                    }
                } else {
                    let look = follow(&machine.record, role(Role::Candidate, epoch));
                    machine.run(look, crash_after);
                    let again = follow(&machine.record, role(Role::Candidate, epoch));
                    machine.run(again, usize::MAX);
                    prop_assert!(machine.on.is_empty());
                }
            }
        }
    }

    #[test]
    fn an_operators_word_lasts_as_long_as_the_epoch() {
        let keep = MasterIpOrder::Keep(Some(address(1)));
        let mut machine = Machine::default();
        machine.run(obey(&machine.record, 5, &keep), usize::MAX);
        machine.run(obey(&machine.record, 5, &MasterIpOrder::Down), usize::MAX);
        machine.run(obey(&machine.record, 5, &keep), usize::MAX);
        assert!(machine.on.is_empty(), "the operator took it down");
        machine.run(obey(&machine.record, 6, &keep), usize::MAX);
        assert_eq!(machine.on, [address(1)], "the next master has it again");
        machine.run(release(&machine.record), usize::MAX);
        assert!(machine.on.is_empty());
    }

    #[test]
    fn nothing_is_done_twice() {
        let keep = MasterIpOrder::Keep(Some(address(1)));
        let mut machine = Machine::default();
        machine.run(obey(&machine.record, 5, &keep), usize::MAX);
        // Looked at again: the kernel may have lost it, as when its device was made anew.
        assert_eq!(obey(&machine.record, 5, &keep), [Step::Add(address(1))]);
        assert_eq!(follow(&machine.record, role(Role::Master, 5)), []);
        let none = Record { epoch: 5, address: None, down: false };
        assert_eq!(follow(&none, role(Role::Candidate, 6)), []);
    }

    #[test]
    fn announcements_are_arp() {
        let [request, reply] = announcements([2, 0, 0, 0, 0, 7], Ipv4Addr::new(192, 0, 2, 1));
        let hex = |frame: ArpFrame| frame.map(|byte| format!("{byte:02x}")).concat();
        let head = "ffffffffffff020000000007080600010800060400";
        assert_eq!(hex(request), format!("{head}01020000000007c0000201000000000000c0000201"));
        assert_eq!(hex(reply), format!("{head}02020000000007c0000201020000000007c0000201"));
    }
}
