//! What is wrong with a node's certificates, for `gnt-cluster verify`.

use crate::core::renew::hex;
use gantry_model::role::Role;
use gantry_proto::noded::{CryptoReply, Print};

/// A certificate that ends so soon is told while there is time to renew it.
const SOON_DAYS: i64 = 30;
const DAY: i64 = 86_400;

/// What a node's certificates are held against.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// The master's CA; None: a renewal is under way, and nodes differ.
    pub ca: Option<Print>,
    /// Digest of the master's `hmac.key`, if it has one.
    pub hmac: Option<[u8; 32]>,
    /// Seconds since 1970.
    pub now: i64,
}

/// What does not fit. `candidate`: it may become master.
pub fn findings(reply: &CryptoReply, candidate: bool, expected: Expected) -> Vec<String> {
    let cure = "\"gnt-cluster renew-crypto --new-cluster-certificate\" puts it right";
    let mut found: Vec<String> = ending("its certificate", reply.ends, expected.now).into_iter().collect();
    for ca in &reply.trust {
        found.extend(ending(&format!("the CA {} that it trusts", hex(&ca.print)), ca.ends, expected.now));
    }
    if expected.hmac.is_some() && reply.hmac != expected.hmac {
        found.push("its hmac.key is not the master's: \"gnt-cluster redist-conf\" gives it that".to_owned());
    }
    found.extend(leftover(reply, candidate));
    let Some(ca) = expected.ca else { return found };
    match reply.issuer {
        Some(issuer) if issuer == ca => {}
        Some(other) => {
            found.push(format!("its certificate is of the CA {}, not {}: {cure}", hex(&other), hex(&ca)))
        }
        None => found.push(format!("its certificate is of no CA that it trusts: {cure}")),
    }
    if !reply.trust.iter().any(|known| known.print == ca) {
        found.push(format!("it does not trust the CA {}: {cure}", hex(&ca)));
    }
    for other in reply.trust.iter().filter(|known| known.print != ca) {
        found.push(format!("it trusts the CA {} too: {cure}", hex(&other.print)));
    }
    if candidate && reply.key != Some(ca) {
        let text =
            format!("it has no key of the CA {}, and could sign for nobody as master: {cure}", hex(&ca));
        found.push(text);
    }
    found
}

/// What a node that is no candidate still has of one: a promotion or demotion whose job died, or a node that could not be told.
pub fn leftover(reply: &CryptoReply, candidate: bool) -> Option<String> {
    let what = match (reply.role, reply.key) {
        _ if candidate => return None,
        (Role::Candidate, Some(_)) => "the role of a master candidate, and the CA's key",
        (Role::Candidate, None) => "the role of a master candidate",
        (Role::Regular | Role::Master, Some(_)) => "the CA's key",
        (Role::Regular | Role::Master, None) => return None,
    };
    Some(format!(
        "it has {what}, and is none: the overseer's next audit takes that away, unless its copies are of a history that was given \
         up; \"gnt-node modify -C yes\" makes it a candidate of this one"
    ))
}

/// Whole days until `ends`; negative: it is over.
pub fn days_left(ends: i64, now: i64) -> i64 {
    (ends - now).div_euclid(DAY)
}

/// A certificate that is over, or will be soon.
fn ending(what: &str, ends: i64, now: i64) -> Option<String> {
    match days_left(ends, now) {
        left if left < 0 => Some(format!("{what} has ended: \"gnt-cluster renew-crypto\" makes another")),
        left if left < SOON_DAYS => {
            Some(format!("{what} ends within {} days: \"gnt-cluster renew-crypto\" makes another", left + 1))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_proto::noded::TrustedCa;

    const NOW: i64 = 1_000_000;

    fn reply(trust: &[u8], issuer: Option<u8>, key: Option<u8>) -> CryptoReply {
        let ca = |ca: &u8| TrustedCa { print: [*ca; 32], ends: NOW + 31 * DAY, pem: String::new() };
        CryptoReply {
            state: [0; 32],
            trust: trust.iter().map(ca).collect(),
            issuer: issuer.map(|ca| [ca; 32]),
            ends: NOW + 31 * DAY,
            key: key.map(|ca| [ca; 32]),
            hmac: Some([9; 32]),
            role: if key.is_some() { Role::Candidate } else { Role::Regular },
        }
    }

    #[test]
    fn each_thing_that_does_not_fit_is_told() {
        let settled = Expected { ca: Some([1; 32]), hmac: Some([9; 32]), now: NOW };
        let of = |reply: &CryptoReply, candidate| findings(reply, candidate, settled);
        assert_eq!(of(&reply(&[1], Some(1), None), false), Vec::<String>::new());
        assert_eq!(of(&reply(&[1], Some(1), Some(1)), true), Vec::<String>::new());
        for (wrong, candidate, word) in [
            (reply(&[1], Some(1), Some(2)), true, "no key of the CA 0101"),
            (reply(&[1], None, None), false, "of no CA that it trusts"),
            (reply(&[1, 2], Some(1), None), false, "it trusts the CA 0202"),
        ] {
            let found = of(&wrong, candidate);
            assert!(found.len() == 1 && found[0].contains(word), "{found:?}");
        }
        let renewed = Expected { hmac: Some([8; 32]), ..settled };
        let found = findings(&reply(&[1], Some(1), None), false, renewed);
        assert!(found.len() == 1 && found[0].contains("hmac.key"), "{found:?}");
        let found = of(&reply(&[2], Some(2), None), false);
        assert!(found[0].contains("of the CA 0202") && found[1].contains("does not trust"), "{found:?}");
    }

    #[test]
    fn what_is_left_of_a_candidate_is_told_also_during_a_renewal() {
        let under_way = Expected { ca: None, hmac: None, now: NOW };
        let settled = Expected { ca: Some([1; 32]), ..under_way };
        for (role, key, word) in [
            (Role::Candidate, Some(1), "the role of a master candidate, and the CA's key"),
            (Role::Candidate, None, "the role of a master candidate, and is none"),
            (Role::Regular, Some(1), "it has the CA's key"),
        ] {
            let left = CryptoReply { role, ..reply(&[1], Some(1), key) };
            for expected in [under_way, settled] {
                let found = findings(&left, false, expected);
                assert!(found.len() == 1 && found[0].contains(word), "{found:?}");
            }
            assert_eq!(leftover(&left, true), None);
        }
        assert_eq!(leftover(&reply(&[1], Some(1), None), false), None);
    }

    #[test]
    fn during_a_renewal_only_ends_are_told() {
        let under_way = Expected { ca: None, hmac: None, now: NOW };
        assert_eq!(findings(&reply(&[1, 2], Some(2), None), true, under_way), Vec::<String>::new());
        let later = |days| Expected { ca: None, hmac: None, now: NOW + days * DAY };
        for (days, word) in [(2, "within 30 days"), (31, "within 1 days"), (32, "has ended")] {
            let found = findings(&reply(&[1], Some(1), None), false, later(days));
            assert_eq!(found.len(), 2, "the certificate and the CA: {found:?}");
            assert!(found.iter().all(|text| text.contains(word)), "{found:?}");
        }
        assert_eq!(findings(&reply(&[1], Some(1), None), false, later(1)).len(), 0);
    }
}
