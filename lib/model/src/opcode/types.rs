//! The types of opcode parameters (`spec/opcodes.md` §1) and the test whether a value has one.

use serde_json::{Map, Value};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// What a parameter accepts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Type {
    /// Any JSON value.
    Any,
    /// `true` or `false`.
    Bool,
    /// A string.
    Str,
    /// A string with at least one character.
    Text,
    /// An integer of 64 bits.
    Int,
    /// An integer from 0.
    Uint,
    /// An integer from 1.
    Pos,
    /// An integer from 0 to below the bound.
    Below(i64),
    /// An integer or a fraction.
    Num,
    /// A string or an integer.
    Val,
    /// One of these strings.
    OneName(&'static [&'static str]),
    /// One of these integers.
    OneInt(&'static [i64]),
    /// A dotted IPv4 address.
    Ipv4,
    /// An IPv4 address, `/`, prefix length.
    Ipv4Net,
    /// An IPv6 address, or `none` as the command line sends it to clear one.
    Ipv6,
    /// An IPv6 address, `/`, prefix length, or `none`.
    Ipv6Net,
    /// A list of any length.
    List(&'static Type),
    /// An object: type of the keys (one of the string types), type of the values.
    Map(&'static Type, &'static Type),
    /// A list with exactly these types.
    Tuple(&'static [Type]),
    /// The type, or null.
    Opt(&'static Type),
    /// The type; values are redacted in stored jobs and never repeated in an error.
    Secret(&'static Type),
    /// Any of these types.
    OneOf(&'static [Type]),
    /// A job in `depends`: a number (negative: relative to the own job) or a number as text.
    JobRef,
    /// The object that describes a new disk. Unknown keys are kept (storage providers have their own).
    Disk,
    /// The object that describes a network interface.
    Nic,
    /// One change of an instance's disks: `[op, index, object]`, or the old form `[op or index, object]`.
    DiskMod,
    /// One change of an instance's network interfaces, formed as a [`Type::DiskMod`].
    NicMod,
}

use Type::{Map as Object, OneName, Str, Uint};

const DISK_MODE: Type = OneName(&["ro", "rw"]);
const MOD_OP: Type = OneName(&["add", "attach", "detach", "modify", "remove"]);
/// The position of a disk or interface; -1 is the last.
const MOD_INDEX_MIN: i64 = -1;

/// The known keys of a disk object (`spec/opcodes.md` §1); null is accepted for each.
const DISK_KEYS: &[(&str, Type)] = &[
    ("size", Uint),
    ("mode", DISK_MODE),
    ("name", Str),
    ("spindles", Uint),
    ("vg", Str),
    ("metavg", Str),
    ("adopt", Str),
    ("access", Str),
    ("provider", Str),
];
/// The keys of a NIC object, all strings or null.
const NIC_KEYS: &[&str] = &["bridge", "ip", "link", "mac", "mode", "name", "network", "vlan"];

/// Longest part of a wrong value that an error repeats, in characters.
const SHOWN_CHARS_MAX: usize = 80;

/// A value that does not have its type. Texts are bounded and never hold a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Where in the value, such as `[0].size`; empty for the value itself.
    pub at: String,
    /// What stands there.
    pub given: String,
    /// What may stand there.
    pub accepted: String,
}

impl Mismatch {
    fn new(ty: &Type, value: &Value) -> Self {
        let given = if ty.holds_secret() { kind(value).to_owned() } else { shown(value) };
        Self { at: String::new(), given, accepted: ty.describe() }
    }

    fn under(self, step: &str) -> Self {
        Self { at: format!("{step}{}", self.at), ..self }
    }
}

impl Type {
    /// Whether `value` has this type.
    ///
    /// # Errors
    /// The first place where it has not.
    pub fn accepts(&self, value: &Value) -> Result<(), Mismatch> {
        match (self, value) {
            (Self::List(item), Value::Array(items)) => each(items.iter().map(|v| (*item, v))),
            (Self::Tuple(types), Value::Array(items)) if types.len() == items.len() => {
                each(types.iter().zip(items))
            }
            (Self::Map(key, item), Value::Object(map)) => accepts_map(key, item, map),
            (Self::Opt(inner), _) if !value.is_null() => inner.accepts(value),
            (Self::Secret(inner), _) => inner
                .accepts(value)
                .map_err(|m| Mismatch { given: format!("{} (not shown)", kind(value)), ..m }),
            (Self::Disk, Value::Object(map)) => accepts_new_disk(map),
            (Self::Nic, Value::Object(map)) => accepts_nic(map),
            (Self::DiskMod | Self::NicMod, Value::Array(items)) => self.accepts_change(value, items),
            _ if self.accepts_plain(value) => Ok(()),
            _ => Err(Mismatch::new(self, value)),
        }
    }

    /// The types without parts of their own to point at; false for the wrong kind of the others.
    fn accepts_plain(&self, value: &Value) -> bool {
        match self {
            Self::Any => true,
            Self::Bool => value.is_boolean(),
            Self::Int => value.is_i64(),
            Self::Uint => value.as_i64().is_some_and(|i| i >= 0),
            Self::Pos => value.as_i64().is_some_and(|i| i > 0),
            Self::Below(bound) => value.as_i64().is_some_and(|i| (0..*bound).contains(&i)),
            Self::OneInt(set) => value.as_i64().is_some_and(|i| set.contains(&i)),
            Self::Num => value.is_number(),
            Self::Val => value.is_string() || value.is_i64(),
            Self::Opt(_) => value.is_null(),
            Self::OneOf(types) => types.iter().any(|t| t.accepts(value).is_ok()),
            Self::JobRef => value.is_i64() || value.as_str().is_some_and(|s| job_number(s).is_some()),
            Self::Str
            | Self::Text
            | Self::OneName(_)
            | Self::Ipv4
            | Self::Ipv4Net
            | Self::Ipv6
            | Self::Ipv6Net => value.as_str().is_some_and(|s| self.accepts_text(s)),
            Self::List(_)
            | Self::Map(..)
            | Self::Tuple(_)
            | Self::Secret(_)
            | Self::Disk
            | Self::Nic
            | Self::DiskMod
            | Self::NicMod => false,
        }
    }

    /// Whether a string, or the key of an object, has this type.
    fn accepts_text(&self, text: &str) -> bool {
        match self {
            Self::Any | Self::Str | Self::Val => true,
            Self::Text => !text.is_empty(),
            Self::OneName(set) => set.contains(&text),
            Self::Ipv4 => Ipv4Addr::from_str(text).is_ok(),
            Self::Ipv4Net => is_net::<Ipv4Addr>(text, 32),
            Self::Ipv6 => text == "none" || Ipv6Addr::from_str(text).is_ok(),
            Self::Ipv6Net => text == "none" || is_net::<Ipv6Addr>(text, 128),
            Self::JobRef => job_number(text).is_some(),
            Self::Opt(inner) | Self::Secret(inner) => inner.accepts_text(text),
            Self::OneOf(types) => types.iter().any(|t| t.accepts_text(text)),
            Self::Bool
            | Self::Int
            | Self::Uint
            | Self::Pos
            | Self::Below(_)
            | Self::Num
            | Self::OneInt(_)
            | Self::List(_)
            | Self::Map(..)
            | Self::Tuple(_)
            | Self::Disk
            | Self::Nic
            | Self::DiskMod
            | Self::NicMod => false,
        }
    }

    fn accepts_change(&self, whole: &Value, items: &[Value]) -> Result<(), Mismatch> {
        let object = match items {
            [op, index, object] => {
                MOD_OP.accepts(op).map_err(|m| m.under("[0]"))?;
                if !is_mod_index(index) && index.as_str().is_none_or(str::is_empty) {
                    return Err(Mismatch {
                        at: "[1]".to_owned(),
                        given: shown(index),
                        accepted: "index (-1 = last), name or UUID".to_owned(),
                    });
                }
                object
            }
            [op, object] => {
                if !is_mod_index(op) {
                    MOD_OP.accepts(op).map_err(|m| m.under("[0]"))?;
                }
                object
            }
            _ => return Err(Mismatch::new(self, whole)),
        };
        let at = format!("[{}]", items.len() - 1);
        let parts = match (self, object) {
            (Self::NicMod, Value::Object(map)) => accepts_nic(map),
            (_, Value::Object(map)) => accepts_disk(map),
            (_, other) => Err(Mismatch::new(&Object(&Str, &Type::Any), other)),
        };
        parts.map_err(|m| m.under(&at))
    }

    /// Whether a value of this type carries a secret anywhere.
    #[must_use]
    pub fn holds_secret(&self) -> bool {
        match self {
            Self::Secret(_) => true,
            Self::List(inner) | Self::Map(_, inner) | Self::Opt(inner) => inner.holds_secret(),
            Self::Tuple(types) | Self::OneOf(types) => types.iter().any(Self::holds_secret),
            Self::Any
            | Self::Bool
            | Self::Str
            | Self::Text
            | Self::Int
            | Self::Uint
            | Self::Pos
            | Self::Below(_)
            | Self::Num
            | Self::Val
            | Self::OneName(_)
            | Self::OneInt(_)
            | Self::Ipv4
            | Self::Ipv4Net
            | Self::Ipv6
            | Self::Ipv6Net
            | Self::JobRef
            | Self::Disk
            | Self::Nic
            | Self::DiskMod
            | Self::NicMod => false,
        }
    }

    /// What is accepted, in words for an error.
    #[must_use]
    pub fn describe(&self) -> String {
        let fixed = match self {
            Self::Any => "any value",
            Self::Bool => "boolean",
            Self::Str => "string",
            Self::Text => "non-empty string",
            Self::Int => "integer",
            Self::Uint => "integer from 0",
            Self::Pos => "integer from 1",
            Self::Num => "number",
            Self::Val => "string or integer",
            Self::Ipv4 => "IPv4 address",
            Self::Ipv4Net => "IPv4 network (address/prefix)",
            Self::Ipv6 => "IPv6 address",
            Self::Ipv6Net => "IPv6 network (address/prefix)",
            Self::JobRef => "job number (negative: relative to this job)",
            Self::Disk => "disk object",
            Self::Nic => "NIC object",
            Self::DiskMod => "[op, index, disk object]",
            Self::NicMod => "[op, index, NIC object]",
            Self::Below(bound) => return format!("integer from 0 to {}", bound - 1),
            Self::OneName(set) => return format!("one of {}", set.join("|")),
            Self::OneInt(set) => return format!("one of {}", joined(set, "|", i64::to_string)),
            Self::List(item) => return format!("list of {}", item.describe()),
            Self::Map(key, item) => return format!("object of {}: {}", key.describe(), item.describe()),
            Self::Tuple(types) => return format!("[{}]", joined(types, ", ", Self::describe)),
            Self::Opt(inner) => return format!("{} or null", inner.describe()),
            Self::Secret(inner) => return inner.describe(),
            Self::OneOf(types) => return joined(types, " or ", Self::describe),
        };
        fixed.to_owned()
    }
}

fn each<'a>(pairs: impl Iterator<Item = (&'a Type, &'a Value)>) -> Result<(), Mismatch> {
    for (at, (ty, value)) in pairs.enumerate() {
        ty.accepts(value).map_err(|m| m.under(&format!("[{at}]")))?;
    }
    Ok(())
}

fn accepts_map(key: &Type, item: &Type, map: &Map<String, Value>) -> Result<(), Mismatch> {
    for (name, value) in map {
        if !key.accepts_text(name) {
            return Err(unknown_key(name, &key.describe()));
        }
        item.accepts(value).map_err(|m| m.under(&format!(".{}", shortened(name))))?;
    }
    Ok(())
}

fn accepts_new_disk(map: &Map<String, Value>) -> Result<(), Mismatch> {
    let given = |key| map.get(key).is_some_and(|v: &Value| !v.is_null());
    if !given("size") && !given("adopt") {
        return Err(Mismatch {
            at: String::new(),
            given: "an object without size and adopt".to_owned(),
            accepted: "disk object with one of them".to_owned(),
        });
    }
    accepts_disk(map)
}

fn accepts_disk(map: &Map<String, Value>) -> Result<(), Mismatch> {
    for (key, ty) in DISK_KEYS {
        match map.get(*key) {
            None | Some(Value::Null) => {}
            Some(value) => ty.accepts(value).map_err(|m| m.under(&format!(".{key}")))?,
        }
    }
    Ok(())
}

fn accepts_nic(map: &Map<String, Value>) -> Result<(), Mismatch> {
    for (name, value) in map {
        if !NIC_KEYS.contains(&name.as_str()) {
            return Err(unknown_key(name, &format!("one of {}", NIC_KEYS.join("|"))));
        }
        Type::Opt(&Str).accepts(value).map_err(|m| m.under(&format!(".{name}")))?;
    }
    Ok(())
}

fn unknown_key(name: &str, accepted: &str) -> Mismatch {
    Mismatch {
        at: String::new(),
        given: format!("key {}", shown(&Value::from(name))),
        accepted: format!("key: {accepted}"),
    }
}

fn is_mod_index(value: &Value) -> bool {
    value.as_i64().is_some_and(|i| i >= MOD_INDEX_MIN)
}

fn is_net<A: FromStr>(text: &str, bits: u8) -> bool {
    text.split_once('/').is_some_and(|(address, prefix)| {
        let digits = prefix.bytes().all(|b| b.is_ascii_digit());
        A::from_str(address).is_ok() && digits && prefix.parse::<u8>().is_ok_and(|p| p <= bits)
    })
}

/// The job number that a string of digits holds.
pub(super) fn job_number(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn joined<T>(items: &[T], between: &str, show: impl Fn(&T) -> String) -> String {
    items.iter().map(show).collect::<Vec<_>>().join(between)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// A wrong value for an error text. Of lists and objects only the size: they may hold secrets further in.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => format!("boolean {b}"),
        Value::Number(n) => format!("number {n}"),
        Value::String(s) => format!("string \"{}\"", shortened(s).escape_debug()),
        Value::Array(items) => format!("list of {} elements", items.len()),
        Value::Object(map) => format!("object of {} keys", map.len()),
    }
}

/// The start of a text, cut so that an error stays readable.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
