//! Where the cluster's address is, against where it should be, for `gnt-cluster verify`.

use gantry_model::master_ip::MasterAddress;
use gantry_proto::effects::AddressLookReply;

/// What does not fit on the master, and what is only worth saying.
pub fn on_master(wanted: &MasterAddress, seen: &AddressLookReply) -> Result<Option<String>, String> {
    let cure = "\"gnt-cluster activate-master-ip\" puts it up, or says what keeps it";
    match &seen.device {
        Some(device) if *device == wanted.device => Ok(None),
        Some(device) => Err(format!(
            "the cluster's address {wanted} is on its {device}, and not by Gantry: remove it there, or give the cluster another \
             address"
        )),
        None if seen.down => Ok(Some(format!(
            "the cluster's address {wanted} is down by an operator's word, until \"gnt-cluster activate-master-ip\" or the next \
             master"
        ))),
        None => Err(format!("the cluster's address {wanted} is not there: {cure}")),
    }
}

/// What does not fit on any other node; `master`: what the master said. A node that shares the master's devices has what that has.
pub fn elsewhere(
    wanted: &MasterAddress,
    seen: &AddressLookReply,
    master: Option<&AddressLookReply>,
) -> Option<String> {
    let device = seen.device.as_ref()?;
    let shared = master.is_some_and(|master| master.stack == seen.stack);
    (!shared).then(|| {
        format!(
            "it has the cluster's address {wanted} on its {device}, and is not the master: who speaks to the cluster may reach \
             it; remove it there"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> MasterAddress {
        MasterAddress { ip: "192.0.2.1".parse().expect("an address"), prefix: 32, device: "eth0".to_owned() }
    }

    fn seen(device: Option<&str>, down: bool, stack: &str) -> AddressLookReply {
        AddressLookReply { device: device.map(str::to_owned), down, stack: stack.to_owned() }
    }

    #[test]
    fn the_master_has_it_on_its_device_unless_an_operator_said_otherwise() {
        let of = |device, down| on_master(&wanted(), &seen(device, down, "a"));
        assert_eq!(of(Some("eth0"), false), Ok(None));
        assert!(of(Some("eth1"), false).is_err_and(|text| text.contains("on its eth1")));
        assert!(of(None, false).is_err_and(|text| text.contains("is not there")));
        assert!(of(None, true).is_ok_and(|text| text.is_some_and(|text| text.contains("operator"))));
    }

    #[test]
    fn nobody_else_has_it_but_who_shares_the_masters_devices() {
        let master = seen(Some("eth0"), false, "a");
        assert_eq!(elsewhere(&wanted(), &seen(None, false, "b"), Some(&master)), None);
        assert_eq!(elsewhere(&wanted(), &seen(Some("eth0"), false, "a"), Some(&master)), None);
        for known in [Some(&master), None] {
            let text = elsewhere(&wanted(), &seen(Some("eth3"), false, "b"), known).expect("a finding");
            assert!(text.contains("eth3") && text.contains("not the master"), "{text}");
        }
    }
}
