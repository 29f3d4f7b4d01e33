//! Requests: what is asked, and how strictly it is read (`spec/confd.md` §2, §4).

use super::ascii;
use super::wire::{Form, REQUEST_BYTES_MAX};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::str::FromStr;

/// Deepest nesting of a request's JSON.
pub const DEPTH_MAX: usize = 32;
/// Fewest hex digits of an rsalt of the second form: 128 bits, as plain hex or as a UUID with its dashes.
pub const RSALT_DIGITS_MIN: usize = 32;

/// What is asked for. From [`Kind::Pools`] on only in the second form: Ganeti has no such types, and its numbers end at 11.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The version of the configuration.
    Ping,
    /// What a node is.
    NodeRole,
    /// The node of an instance's address.
    NodeByInstanceIp,
    /// The master.
    Master,
    /// Addresses of all nodes.
    NodeIps,
    /// Addresses of the master candidates.
    CandidateIps,
    /// Addresses of instances on a link.
    InstanceIps,
    /// DRBD minors of a node.
    Minors,
    /// Instances of a node.
    Instances,
    /// Disks of an instance.
    Disks,
    /// A part of the configuration by JSON pointer.
    Config,
    /// MonD's collectors.
    Collectors,
    /// Pools, with how many of their slots are in which state.
    Pools,
    /// Slots of a pool.
    Slots,
    /// Leases.
    Leases,
}

impl Kind {
    /// All, with number and name.
    pub const ALL: [(Self, u32, &'static str); 15] = [
        (Self::Ping, 0, "ping"),
        (Self::NodeRole, 1, "node-role"),
        (Self::NodeByInstanceIp, 2, "node-by-instance-ip"),
        (Self::Master, 3, "master"),
        (Self::NodeIps, 4, "node-ips"),
        (Self::CandidateIps, 5, "candidate-ips"),
        (Self::InstanceIps, 6, "instance-ips"),
        (Self::Minors, 7, "drbd-minors"),
        (Self::Instances, 8, "instances"),
        (Self::Disks, 9, "disks"),
        (Self::Config, 10, "config"),
        (Self::Collectors, 11, "collectors"),
        (Self::Pools, 100, "pools"),
        (Self::Slots, 101, "slots"),
        (Self::Leases, 102, "leases"),
    ];

    /// Its number on the wire.
    #[must_use]
    pub fn number(self) -> u32 {
        Self::row(self).1
    }

    /// Its name on the command line and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::row(self).2
    }

    /// The type of that number in a form; None = there is no such.
    #[must_use]
    pub fn of(number: u64, form: Form) -> Option<Self> {
        let (kind, ..) = *Self::ALL.iter().find(|(_, known, _)| u64::from(*known) == number)?;
        (form == Form::Second || kind < Self::Pools).then_some(kind)
    }

    fn row(self) -> (Self, u32, &'static str) {
        Self::ALL[self as usize]
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.iter().map(|(.., name)| *name).collect::<Vec<_>>().join(", ");
        let found = Self::ALL.iter().find(|(_, number, name)| *name == text || number.to_string() == text);
        found.map(|(kind, ..)| *kind).ok_or_else(|| format!("'{text}' is none of {}", names()))
    }
}

/// A field of [`Kind::Master`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MasterField {
    /// Name of the master node.
    Name,
    /// The cluster's own address.
    ClusterIp,
    /// Primary address of the master node.
    NodeIp,
}

/// The query as an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// `"0"`.
    pub link: Option<String>,
    /// `"1"`.
    pub ip: Option<String>,
    /// `"2"`.
    pub ips: Vec<String>,
    /// `"3"`.
    pub fields: Vec<MasterField>,
}

/// What of it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Nothing in particular.
    Null,
    /// By name, address or pointer.
    Text(String),
    /// By fields.
    Object(Selection),
}

/// A request that is well formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub kind: Kind,
    /// What of it.
    pub query: Query,
    /// Salt of the reply.
    pub rsalt: String,
    /// The address it was sent to; the second form's alone.
    pub dst: Option<String>,
}

/// A message that is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// JSON, keys or types.
    #[error("the message is no request of this form")]
    Malformed,
    /// A type of nobody.
    #[error("there is no request of this type in this form")]
    UnknownType,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Legacy {
    protocol: Value,
    r#type: Value,
    #[serde(default)]
    query: Value,
    rsalt: String,
}

/// Keys that are not known leave room to grow.
#[derive(Deserialize)]
struct Second {
    protocol: Value,
    r#type: Value,
    #[serde(default)]
    query: Value,
    rsalt: String,
    dst: String,
}

impl Request {
    /// Reads the message of a request.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(form: Form, msg: &str) -> Result<Self, RequestError> {
        let bad = |_| RequestError::Malformed;
        if !is_shallow(msg) {
            return Err(RequestError::Malformed);
        }
        let (protocol, number, query, rsalt, dst) = match form {
            Form::Legacy => {
                let Legacy { protocol, r#type, query, rsalt } = serde_json::from_str(msg).map_err(bad)?;
                (protocol, r#type, query, rsalt, None)
            }
            Form::Second => {
                let Second { protocol, r#type, query, rsalt, dst } =
                    serde_json::from_str(msg).map_err(bad)?;
                if !is_random(&rsalt) {
                    return Err(RequestError::Malformed);
                }
                (protocol, r#type, query, rsalt, Some(dst))
            }
        };
        // Its value is not looked at: the fourcc says which form it is.
        whole(&protocol).ok_or(RequestError::Malformed)?;
        let number = whole(&number).ok_or(RequestError::Malformed)?;
        let kind = u64::try_from(number).ok().and_then(|number| Kind::of(number, form));
        let kind = kind.ok_or(RequestError::UnknownType)?;
        Ok(Self { kind, query: Query::read(query)?, rsalt, dst })
    }

    /// The message of it.
    ///
    /// # Errors
    /// Longer than any server takes.
    pub fn message(&self, form: Form) -> Result<String, ascii::TooLong> {
        let mut all = json!({
            "protocol": if form == Form::Legacy { 1 } else { 2 },
            "type": self.kind.number(),
            "query": self.query.value(),
            "rsalt": self.rsalt,
        });
        if let Some(dst) = &self.dst {
            all["dst"] = json!(dst);
        }
        ascii::to_string(&all, REQUEST_BYTES_MAX)
    }
}

/// Whether an rsalt may have the bits it must have.
fn is_random(rsalt: &str) -> bool {
    let digits = rsalt.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = rsalt.bytes().filter(|byte| *byte == b'-').count();
    digits >= RSALT_DIGITS_MIN && digits + dashes == rsalt.len()
}

/// A whole number, also when it is written as `0.0`.
fn whole(value: &Value) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_i64().or_else(|| {
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < EXACT)?;
        #[allow(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
        let whole = number as i64;
        Some(whole)
    })
}

/// Whether brackets nest no deeper than [`DEPTH_MAX`].
fn is_shallow(text: &str) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match (quoted, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => quoted = !quoted,
            (false, b'[' | b'{') => depth += 1,
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return false;
        }
    }
    true
}

impl Query {
    fn read(value: Value) -> Result<Self, RequestError> {
        match value {
            Value::Null => Ok(Self::Null),
            Value::String(text) => Ok(Self::Text(text)),
            Value::Object(keys) => Selection::read(keys).map(Self::Object).ok_or(RequestError::Malformed),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) => Err(RequestError::Malformed),
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Text(text) => json!(text),
            Self::Object(selection) => selection.value(),
        }
    }
}

impl Selection {
    fn read(keys: Map<String, Value>) -> Option<Self> {
        let mut all = Self::default();
        for (key, value) in keys {
            match (key.as_str(), value) {
                ("0" | "1", Value::Null) => {}
                ("0", Value::String(link)) => all.link = Some(link),
                ("1", Value::String(ip)) => all.ip = Some(ip),
                ("2", Value::Array(ips)) => {
                    all.ips = ips.into_iter().map(text).collect::<Option<_>>()?;
                }
                ("3", Value::Array(fields)) => {
                    all.fields = fields.iter().map(MasterField::read).collect::<Option<_>>()?;
                }
                _ => return None,
            }
        }
        Some(all)
    }

    fn value(&self) -> Value {
        let mut all = Map::new();
        let mut put = |key: &str, value: Value| all.insert(key.to_owned(), value);
        if let Some(link) = &self.link {
            put("0", json!(link));
        }
        if let Some(ip) = &self.ip {
            put("1", json!(ip));
        }
        if !self.ips.is_empty() {
            put("2", json!(self.ips));
        }
        if !self.fields.is_empty() {
            put("3", self.fields.iter().map(|field| *field as u32).collect());
        }
        Value::Object(all)
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

impl MasterField {
    /// Ganeti's debugging client writes the number as a text.
    fn read(value: &Value) -> Option<Self> {
        let number = whole(value).or_else(|| value.as_str()?.parse().ok())?;
        match number {
            0 => Some(Self::Name),
            1 => Some(Self::ClusterIp),
            2 => Some(Self::NodeIp),
            _ => None,
        }
    }
}

/// Whether a salt is a plain number of seconds.
#[must_use]
pub fn seconds(salt: &str) -> Option<u64> {
    let plain = !salt.is_empty() && salt.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| salt.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 128 bits.
    const RSALT: &str = "0123456789abcdef0123456789abcdef";

    fn second(msg: &str) -> Result<Request, RequestError> {
        Request::parse(Form::Second, msg)
    }

    fn legacy(msg: &str) -> Result<Request, RequestError> {
        Request::parse(Form::Legacy, msg)
    }

    #[test]
    fn the_table_is_in_order() {
        for (at, (kind, number, name)) in Kind::ALL.into_iter().enumerate() {
            assert_eq!((kind as usize, kind.number(), kind.name()), (at, number, name));
            assert_eq!(name.parse(), Ok(kind));
        }
    }

    #[test]
    fn what_is_read() {
        let ping = |protocol: &str, number: &str| {
            legacy(&format!(r#"{{"protocol":{protocol},"type":{number},"rsalt":""}}"#))
                .map(|request| request.kind)
        };
        for (protocol, number) in [("1", "0"), ("7", "0.0"), ("1.0", "0"), ("-1", "0e3")] {
            assert_eq!(ping(protocol, number), Ok(Kind::Ping), "{protocol} {number}");
        }
        for (protocol, number) in
            [("1", "\"0\""), ("\"1\"", "0"), ("1.5", "0"), ("null", "0"), ("1", "0.5"), ("1", "true")]
        {
            assert_eq!(ping(protocol, number), Err(RequestError::Malformed), "{protocol} {number}");
        }
        for number in ["12", "-1", "100", "1e15"] {
            assert_eq!(ping("1", number), Err(RequestError::UnknownType), "{number}");
        }
    }

    #[test]
    fn queries() {
        let query = |query: &str| {
            legacy(&format!(r#"{{"protocol":1,"type":2,"query":{query},"rsalt":"r"}}"#))
                .map(|request| request.query)
        };
        assert_eq!(query("null"), Ok(Query::Null));
        assert_eq!(query(r#""x""#), Ok(Query::Text("x".to_owned())));
        let want = Selection {
            link: Some("l".to_owned()),
            ip: Some("1".to_owned()),
            ips: vec!["2".to_owned()],
            fields: vec![MasterField::NodeIp, MasterField::Name],
        };
        assert_eq!(query(r#"{"0":"l","1":"1","2":["2"],"3":[2,"0"]}"#), Ok(Query::Object(want)));
        assert_eq!(query(r#"{"0":null,"1":null}"#), Ok(Query::Object(Selection::default())));
        for bad in [
            "[]",
            "1",
            "true",
            r#"{"4":1}"#,
            r#"{"link":"x"}"#,
            r#"{"2":"x"}"#,
            r#"{"2":[1]}"#,
            r#"{"3":[3]}"#,
        ] {
            assert_eq!(query(bad), Err(RequestError::Malformed), "{bad}");
        }
    }

    #[test]
    fn keys_are_closed_in_the_legacy_form_and_open_in_the_second() {
        let more = format!(r#"{{"protocol":1,"type":0,"rsalt":"{RSALT}","dst":"::1","more":1}}"#);
        assert_eq!(legacy(&more), Err(RequestError::Malformed));
        assert_eq!(second(&more).unwrap().dst.as_deref(), Some("::1"));
        let bad = format!(r#"{{"protocol":2,"type":0,"rsalt":"{RSALT}"}}"#);
        assert_eq!(second(&bad), Err(RequestError::Malformed), "without dst");
        for bad in [
            r#"{"protocol":1,"type":0}"#,
            r#"{"type":0,"rsalt":""}"#,
            r#"{"protocol":1,"rsalt":""}"#,
            "[]",
            "",
            "x",
        ] {
            assert_eq!(legacy(bad), Err(RequestError::Malformed), "{bad}");
        }
        let pools = format!(r#"{{"protocol":2,"type":100,"rsalt":"{RSALT}","dst":"::1"}}"#);
        assert_eq!(second(&pools).unwrap().kind, Kind::Pools);
    }

    #[test]
    fn an_rsalt_of_the_second_form_has_128_bits() {
        let takes = |rsalt: &str| {
            second(&format!(r#"{{"protocol":2,"type":0,"rsalt":"{rsalt}","dst":"::1"}}"#)).is_ok()
        };
        let uuid = "00000000-0000-4000-8000-00000000000a";
        for good in [RSALT, &RSALT.to_uppercase(), uuid, &"0".repeat(40)] {
            assert!(takes(good), "{good}");
        }
        let not_hex = format!("{}g", &RSALT[1..]);
        let nul = format!("{RSALT}\\u0000");
        for bad in ["", "0123456789abcdef", &RSALT[1..], &uuid[1..], &not_hex, &nul, &format!("{{{uuid}}}")] {
            assert!(!takes(bad), "{bad}");
        }
        // Ganeti's form says nothing of it.
        assert!(legacy(r#"{"protocol":1,"type":0,"rsalt":""}"#).is_ok());
    }

    #[test]
    fn deep_messages_are_none() {
        let deep = |depth: usize| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            let msg = format!(
                r#"{{"protocol":2,"type":0,"rsalt":"{RSALT}","dst":"[[[[\"[[","more":{open}{close}}}"#
            );
            second(&msg).is_ok()
        };
        assert!(deep(DEPTH_MAX - 1) && !deep(DEPTH_MAX) && !deep(1000));
    }

    #[test]
    fn salts_are_plain_numbers() {
        assert_eq!((seconds("1700000000"), seconds("0")), (Some(1_700_000_000), Some(0)));
        for bad in ["", "+1", "-1", " 1", "1 ", "1.0", "1e3", "0x1", "１", "99999999999999999999"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number in 0..15usize, text in any::<String>(), ips in prop::collection::vec(any::<String>(), 0..3)) {
            let selection = Selection { link: Some(text.clone()), ip: None, ips, fields: vec![MasterField::ClusterIp] };
            for query in [Query::Null, Query::Text(text.clone()), Query::Object(selection)] {
                let rsalt = RSALT.to_owned();
                let asked = Request { kind: Kind::ALL[number].0, query, rsalt, dst: Some("127.0.0.1".to_owned()) };
                let Ok(msg) = asked.message(Form::Second) else { continue };
                prop_assert_eq!(Request::parse(Form::Second, &msg), Ok(asked));
            }
        }
    }
}
