//! The renewal of the cluster's CA (docs/adr/0010): which step is next, from what the nodes say and nothing else. A job, a
//! wconfd, a master may die at any time; the next job looks, and goes on.
//!
//! What must hold at all times: any two nodes trust each other. So a node's CA is believed by all before it signs anything,
//! and is dropped only when it has signed nothing that is in use.

use gantry_model::ids::NodeUuid;
use gantry_proto::noded::{Print, TrustedCa};
use std::collections::BTreeSet;

/// A node of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub node: NodeUuid,
    /// May become master. The master is one too.
    pub candidate: bool,
    /// The job runs there.
    pub master: bool,
    /// What it says; None: silent, or marked offline.
    pub said: Option<Said>,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Whom it trusts.
    pub trusts: BTreeSet<Print>,
    /// Who signed its certificate; None: nobody it trusts.
    pub issuer: Option<Print>,
    /// Of which CA it has the key.
    pub key: Option<Print>,
}

/// What to do now, with these nodes. Then the nodes are asked again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// They shall trust the wanted CA beside those they trust.
    Trust(Vec<NodeUuid>),
    /// They get the wanted CA's key.
    Key(Vec<NodeUuid>),
    /// They get a certificate of the wanted CA.
    Certificate(Vec<NodeUuid>),
    /// They shall trust the wanted CA alone.
    Alone(Vec<NodeUuid>),
    /// Nothing can be done before these have answered.
    Wait(Vec<NodeUuid>),
    /// All is done: the intent is taken back.
    Done,
}

/// The rules, one switch each. Production has all of them; tests take one away and must see a promise break.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "one switch per rule, never passed on singly")]
pub struct Rules {
    /// All trust a CA before it signs.
    trust_first: bool,
    /// Silent nodes are waited for.
    silent_count: bool,
    /// Whoever may become master can sign by the wanted CA before anybody trusts it alone.
    keys: bool,
    /// A CA is dropped when it has signed nothing that is in use.
    certificates_first: bool,
    /// The intent is taken back when nobody trusts anything else.
    alone_at_last: bool,
}

impl Rules {
    /// Every rule.
    pub const ALL: Self = Self {
        trust_first: true,
        silent_count: true,
        keys: true,
        certificates_first: true,
        alone_at_last: true,
    };
}

/// The first line of the table in docs/adr/0010 that applies.
pub fn next(rules: Rules, nodes: &[Seen], wanted: Print) -> Step {
    let lacking = |lacks: &dyn Fn(&Seen, &Said) -> bool| -> Vec<NodeUuid> {
        let of = |seen: &&Seen| seen.said.as_ref().is_some_and(|said| lacks(seen, said));
        nodes.iter().filter(of).map(|seen| seen.node).collect()
    };
    let silent: Vec<NodeUuid> =
        nodes.iter().filter(|seen| seen.said.is_none()).map(|seen| seen.node).collect();
    let trust = lacking(&|_, said| !said.trusts.contains(&wanted));
    let certificate = lacking(&|_, said| said.issuer != Some(wanted) && said.trusts.contains(&wanted));
    let alone = lacking(&|_, said| said.trusts.len() > 1);
    if !trust.is_empty() && (rules.trust_first || certificate.is_empty()) {
        return Step::Trust(trust);
    }
    if rules.silent_count && !silent.is_empty() {
        return Step::Wait(silent);
    }
    let key = |master: bool| {
        lacking(&|seen, said| seen.candidate && seen.master == master && said.key != Some(wanted))
    };
    // The master last: it signs joining nodes, by the wanted CA once all who may follow it can.
    for key in [key(false), key(true)] {
        if rules.keys && !key.is_empty() {
            return Step::Key(key);
        }
    }
    if !certificate.is_empty() && (rules.certificates_first || alone.is_empty()) {
        return Step::Certificate(certificate);
    }
    if rules.alone_at_last && !alone.is_empty() {
        return Step::Alone(alone);
    }
    Step::Done
}

/// The trust of all these, and the wanted CA, as one PEM text; each CA once, the wanted one last.
pub fn grown(trusts: &[&[TrustedCa]], certificate: &str, wanted: &Print) -> String {
    let mut known = BTreeSet::from([*wanted]);
    let mut text = String::new();
    for ca in trusts.iter().copied().flatten() {
        if known.insert(ca.print) {
            text.push_str(&ca.pem);
        }
    }
    text + certificate
}

/// A fingerprint as people read it.
pub fn hex(print: &Print) -> String {
    print.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A fingerprint from its text.
pub fn parse(text: &str) -> Option<Print> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut print = [0; 32];
    for (at, byte) in print.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(print)
}

#[cfg(test)]
#[path = "renew_history.rs"]
mod history;
