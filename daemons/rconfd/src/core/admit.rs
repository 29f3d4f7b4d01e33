//! From a datagram to a question that is to be answered: the checks in the order of `spec/confd.md` §2, and nothing said to
//! who fails one. Pure.

use super::gate::Shut;
use super::options::Options;
use gantry_confd::core::request::seconds;
use gantry_confd::core::wire::{Mac, Outer, OuterError};
use gantry_confd::{Form, Keys, REQUEST_BYTES_MAX, Request};
use gantry_model::network::Network;
use std::net::{IpAddr, SocketAddr};

/// Why a datagram gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// Longer than any request.
    Long,
    /// From nowhere we answer to.
    Source,
    /// Not one of ours.
    Fourcc,
    /// A form that is not spoken here.
    Form,
    /// No three texts.
    Outer,
    /// Signed with no key of ours.
    Mac,
    /// No request inside.
    Message,
    /// Of no type we know, or not for who asks.
    Type,
    /// No time in its salt.
    Salt,
    /// Too old, or from the future.
    Clock,
    /// Sent to somebody else.
    Destination,
    /// Answered before.
    Replay,
    /// Its source asks too much.
    Rate,
    /// All together get too much.
    Bytes,
}

impl Dropped {
    /// All, with their names in metrics.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::Long, "long"),
        (Self::Source, "source"),
        (Self::Fourcc, "fourcc"),
        (Self::Form, "form"),
        (Self::Outer, "outer"),
        (Self::Mac, "mac"),
        (Self::Message, "message"),
        (Self::Type, "type"),
        (Self::Salt, "salt"),
        (Self::Clock, "clock"),
        (Self::Destination, "destination"),
        (Self::Replay, "replay"),
        (Self::Rate, "rate"),
        (Self::Bytes, "bytes"),
    ];
}

impl From<Shut> for Dropped {
    fn from(shut: Shut) -> Self {
        match shut {
            Shut::Replay => Self::Replay,
            Shut::Rate => Self::Rate,
            Shut::Bytes => Self::Bytes,
        }
    }
}

/// What requests are measured against.
pub struct Rules<'a> {
    /// What the cluster says.
    pub options: &'a Options,
    /// Keys that count, the newest first.
    pub keys: &'a [Keys],
    /// Networks that are answered when the cluster names none.
    pub near: &'a [Network],
    /// Whether an address is a node's.
    pub is_node: &'a dyn Fn(IpAddr) -> bool,
    /// The own address and port.
    pub own: SocketAddr,
    /// How far clocks may be apart, s.
    pub clock_s: u64,
}

/// A request that is to be answered, if the gate lets it in.
#[derive(Debug)]
pub struct Admitted {
    /// The form it came in.
    pub form: Form,
    /// What it asks.
    pub request: Request,
    /// Its MAC.
    pub mac: Mac,
    /// The time in its salt.
    pub salt: u64,
    /// Which key it was made with.
    pub key: usize,
}

/// Whether anything from there is answered. Looked at first: it costs nothing and says nothing.
#[must_use]
pub fn is_answered(rules: &Rules<'_>, from: SocketAddr) -> bool {
    let ip = from.ip().to_canonical();
    let near = || rules.near.iter().any(|network| network.has(ip)) || (rules.is_node)(ip);
    let allowed = match &rules.options.allowed {
        Some(allowed) => allowed.iter().any(|network| network.has(ip)),
        None => near(),
    };
    // Two servers must not be made to talk to each other.
    let server = from.port() == rules.own.port() && !(rules.is_node)(ip);
    allowed && from.port() != 0 && !server
}

/// Checks a datagram.
///
/// # Errors
/// Why it gets no answer; with the difference of the clocks, if that alone is why.
pub fn admit(
    rules: &Rules<'_>,
    datagram: &[u8],
    from: SocketAddr,
    now_s: u64,
) -> Result<Admitted, (Dropped, Option<i64>)> {
    let no = |dropped| (dropped, None);
    if datagram.len() > REQUEST_BYTES_MAX {
        return Err(no(Dropped::Long));
    }
    if !is_answered(rules, from) {
        return Err(no(Dropped::Source));
    }
    let outer = Outer::parse(datagram).map_err(|why| match why {
        OuterError::Fourcc => no(Dropped::Fourcc),
        OuterError::Json => no(Dropped::Outer),
    })?;
    if !rules.options.accepts(outer.form, from.ip().to_canonical()) {
        return Err(no(Dropped::Form));
    }
    // Before anything inside is looked at.
    let key = rules.keys.iter().position(|keys| outer.is_request_of(keys)).ok_or(no(Dropped::Mac))?;
    let request = Request::parse(outer.form, &outer.msg).map_err(|why| match why {
        gantry_confd::core::request::RequestError::Malformed => no(Dropped::Message),
        gantry_confd::core::request::RequestError::UnknownType => no(Dropped::Type),
    })?;
    let salt = seconds(&outer.salt).ok_or(no(Dropped::Salt))?;
    if salt.abs_diff(now_s) > rules.clock_s {
        return Err((Dropped::Clock, Some(difference(salt, now_s))));
    }
    let to_us =
        |dst: &String| dst.parse().is_ok_and(|ip: IpAddr| ip.to_canonical() == rules.own.ip().to_canonical());
    if request.dst.as_ref().is_some_and(|dst| !to_us(dst)) {
        return Err(no(Dropped::Destination));
    }
    if !rules.options.has_type(outer.form, request.kind) {
        return Err(no(Dropped::Type));
    }
    Ok(Admitted { form: outer.form, request, mac: outer.mac, salt, key })
}

/// How far a salt is ahead, s; negative = behind.
fn difference(salt: u64, now_s: u64) -> i64 {
    let apart = i64::try_from(salt.abs_diff(now_s)).unwrap_or(i64::MAX);
    if salt < now_s { -apart } else { apart }
}
