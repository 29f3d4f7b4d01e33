//! NodeD's verbs on what nobody can refuse afterwards.

use crate::sheet::{Sheet, ids};
use gantry_model::master_ip::MasterAddress;
use gantry_proto::effects::{
    AddressLookReply, HookEnd, HookPhase, HookStatus, HooksRunRequest, MasterIpOrder, MasterIpReply,
    MasterIpRequest,
};
use gantry_proto::noded::{AddressLook, ConfdLegacy, HooksRun, LegacySource, MasterIp};
use std::net::Ipv4Addr;

pub fn samples(sheet: &mut Sheet) {
    let address = MasterAddress { ip: Ipv4Addr::new(192, 0, 2, 1), prefix: 24, device: "eth0".to_owned() };
    let orders = [
        MasterIpOrder::Keep(None),
        MasterIpOrder::Keep(Some(address.clone())),
        MasterIpOrder::Up(address),
        MasterIpOrder::Down,
    ];
    let orders = orders.map(|order| MasterIpRequest { fence: ids::FENCE, order });
    sheet.verb::<MasterIp>(&orders, &[], &[MasterIpReply { up: true }]);
    let seen = [Some("eth0".to_owned()), None].map(|device| AddressLookReply {
        down: device.is_none(),
        device,
        stack: "b1 net:[7]".to_owned(),
    });
    sheet.verb::<AddressLook>(&["192.0.2.1".parse().expect("an address")], &[], &seen);
    let sources = ["192.0.2.7", "2001:db8::7"]
        .map(|ip| LegacySource { ip: ip.parse().expect("an address"), ago_s: 300 });
    sheet.verb::<ConfdLegacy>(&[()], &[], &[Vec::new(), sources.to_vec()]);
    let run = |phase| HooksRunRequest {
        fence: ids::FENCE,
        path: "node-add".to_owned(),
        phase,
        env: vec![("GANETI_MASTER".to_owned(), "n1.example".to_owned())],
    };
    let ends = [HookStatus::Skipped, HookStatus::Failed, HookStatus::Succeeded].map(|status| HookEnd {
        script: "node-add-pre.d/10-check".to_owned(),
        status,
        output: "no".to_owned(),
    });
    sheet.verb::<HooksRun>(&[HookPhase::Pre, HookPhase::Post].map(run), &[], &[ends.to_vec()]);
}
