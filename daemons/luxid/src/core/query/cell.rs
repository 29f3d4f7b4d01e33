//! One value of an answer, borrowed from the state wherever it can be, with its result status.

use gantry_model::config::Params;
use gantry_model::job::OpState;
use gantry_model::opcode;
use gantry_model::time::Ts;
use serde::ser::{SerializeSeq, SerializeTuple};
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Why there is no value (`spec/query.md` §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The field does not exist.
    Unknown,
    /// Could not be fetched now.
    NoData,
    /// Does not exist for this object, or is not computed.
    Unavail,
    /// The node is marked offline and was not asked.
    Offline,
}

impl Missing {
    /// The result status on the wire.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Unknown => 1,
            Self::NoData => 2,
            Self::Unavail => 3,
            Self::Offline => 4,
        }
    }
}

/// A part of a job's opcodes: a list with one entry per opcode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpPart {
    /// The opcode objects.
    Input,
    /// Status words.
    Status,
    /// Results.
    Result,
    /// Log entries.
    Log,
    /// Priorities.
    Priority,
    /// Times of leaving `queued`.
    Start,
    /// Times of beginning to work.
    Exec,
    /// Times of ending.
    End,
    /// Summaries.
    Summary,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell<'a> {
    /// A valid null.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number.
    Uint(u64),
    /// A number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A string.
    Str(&'a str),
    /// A string made for the answer.
    Text(String),
    /// A uuid as a string.
    Uuid(Uuid),
    /// Any JSON of the state.
    Json(&'a Value),
    /// An object of the state.
    Map(&'a Params),
    /// JSON made for the answer.
    Made(Value),
    /// A list of strings.
    Tags(&'a BTreeSet<String>),
    /// A list; a missing entry is null.
    List(Vec<Cell<'a>>),
    /// `[seconds, microseconds]`; null when not yet.
    Time(Option<Ts>),
    /// A list over opcodes.
    Ops(&'a [OpState], OpPart),
    /// No value.
    Missing(Missing),
}

impl<'a> Cell<'a> {
    /// Does not exist for this object.
    pub const UNAVAIL: Cell<'static> = Cell::Missing(Missing::Unavail);

    /// The result status on the wire.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Missing(missing) => missing.status(),
            _ => 0,
        }
    }

    /// A string, or status 3.
    #[must_use]
    pub fn str_or_unavail(text: Option<&'a str>) -> Self {
        text.map_or(Self::UNAVAIL, Cell::Str)
    }

    /// A string, or a valid null.
    #[must_use]
    pub fn str_or_null(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, Cell::Str)
    }

    /// JSON of the state, or status 3.
    #[must_use]
    pub fn json_or_unavail(value: Option<&'a Value>) -> Self {
        value.map_or(Self::UNAVAIL, Cell::Json)
    }

    /// What filters compare.
    #[must_use]
    pub fn scalar(&self) -> Scalar<'_> {
        match self {
            Self::Null | Self::Missing(_) | Self::Time(None) => Scalar::Null,
            Self::Bool(flag) => Scalar::Bool(*flag),
            Self::Uint(number) => Scalar::Int(i128::from(*number)),
            Self::Int(number) => Scalar::Int(i128::from(*number)),
            Self::Float(number) => Scalar::Float(*number),
            Self::Str(text) => Scalar::Text(Cow::Borrowed(text)),
            Self::Text(text) => Scalar::Text(Cow::Borrowed(text)),
            Self::Uuid(uuid) => Scalar::Text(Cow::Owned(uuid.to_string())),
            Self::Json(value) => scalar_of(value),
            Self::Made(value) => scalar_of(value),
            Self::Time(Some(ts)) => Scalar::Int(i128::from(ts.0)),
            Self::Map(_) | Self::Tags(_) | Self::List(_) | Self::Ops(..) => Scalar::Composite,
        }
    }

    /// The entries of a list; None for anything else.
    #[must_use]
    pub fn items(&self) -> Option<Vec<Scalar<'_>>> {
        match self {
            Self::Tags(tags) => Some(tags.iter().map(|tag| Scalar::Text(Cow::Borrowed(tag))).collect()),
            Self::List(cells) => Some(cells.iter().map(Cell::scalar).collect()),
            Self::Json(Value::Array(items)) => Some(items.iter().map(scalar_of).collect()),
            Self::Made(Value::Array(items)) => Some(items.iter().map(scalar_of).collect()),
            Self::Ops(ops, part) => Some(ops.iter().map(|op| op_scalar(op, *part)).collect()),
            Self::Null
            | Self::Bool(_)
            | Self::Uint(_)
            | Self::Int(_)
            | Self::Float(_)
            | Self::Str(_)
            | Self::Text(_)
            | Self::Uuid(_)
            | Self::Json(_)
            | Self::Made(_)
            | Self::Map(_)
            | Self::Time(_)
            | Self::Missing(_) => None,
        }
    }
}

/// A value reduced to what the filter language knows.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar<'a> {
    /// A valid null.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer; seconds for times.
    Int(i128),
    /// A number with a fraction.
    Float(f64),
    /// A string.
    Text(Cow<'a, str>),
    /// A list or object.
    Composite,
}

fn scalar_of(value: &Value) -> Scalar<'_> {
    match value {
        Value::Null => Scalar::Null,
        Value::Bool(flag) => Scalar::Bool(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Scalar::Int(i128::from(number)),
            (None, Some(number)) => Scalar::Int(i128::from(number)),
            (None, None) => Scalar::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Scalar::Text(Cow::Borrowed(text)),
        Value::Array(_) | Value::Object(_) => Scalar::Composite,
    }
}

fn op_scalar(op: &OpState, part: OpPart) -> Scalar<'_> {
    match part {
        OpPart::Status => Scalar::Text(Cow::Borrowed(op.status.as_str())),
        OpPart::Summary => Scalar::Text(Cow::Owned(opcode::summary(&op.input))),
        OpPart::Priority => Scalar::Int(i128::from(op.priority)),
        OpPart::Result => scalar_of(&op.result),
        OpPart::Start => Cell::Time(op.start_timestamp).owned_scalar(),
        OpPart::Exec => Cell::Time(op.exec_timestamp).owned_scalar(),
        OpPart::End => Cell::Time(op.end_timestamp).owned_scalar(),
        OpPart::Input | OpPart::Log => Scalar::Composite,
    }
}

impl Cell<'_> {
    fn owned_scalar(&self) -> Scalar<'static> {
        match self {
            Self::Time(Some(ts)) => Scalar::Int(i128::from(ts.0)),
            _ => Scalar::Null,
        }
    }
}

/// The value alone; null where it is missing.
impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null | Self::Missing(_) => to.serialize_unit(),
            Self::Bool(flag) => to.serialize_bool(*flag),
            Self::Uint(number) => to.serialize_u64(*number),
            Self::Int(number) => to.serialize_i64(*number),
            Self::Float(number) => to.serialize_f64(*number),
            Self::Str(text) => to.serialize_str(text),
            Self::Text(text) => to.serialize_str(text),
            Self::Uuid(uuid) => to.serialize_str(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer())),
            Self::Json(value) => value.serialize(to),
            Self::Made(value) => value.serialize(to),
            Self::Map(map) => map.serialize(to),
            Self::Tags(tags) => tags.serialize(to),
            Self::List(cells) => cells.serialize(to),
            Self::Time(ts) => ts.serialize(to),
            Self::Ops(ops, part) => serialize_ops(ops, *part, to),
        }
    }
}

fn serialize_ops<S: Serializer>(ops: &[OpState], part: OpPart, to: S) -> Result<S::Ok, S::Error> {
    let mut list = to.serialize_seq(Some(ops.len()))?;
    for op in ops {
        match part {
            OpPart::Input => list.serialize_element(&op.input)?,
            OpPart::Status => list.serialize_element(op.status.as_str())?,
            OpPart::Result => list.serialize_element(&op.result)?,
            OpPart::Log => list.serialize_element(&op.log)?,
            OpPart::Priority => list.serialize_element(&op.priority)?,
            OpPart::Start => list.serialize_element(&op.start_timestamp)?,
            OpPart::Exec => list.serialize_element(&op.exec_timestamp)?,
            OpPart::End => list.serialize_element(&op.end_timestamp)?,
            OpPart::Summary => list.serialize_element(&opcode::summary(&op.input))?,
        }
    }
    list.end()
}

/// `[status, value]`.
pub(super) struct Pair<'a>(pub Cell<'a>);

impl Serialize for Pair<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut pair = to.serialize_tuple(2)?;
        pair.serialize_element(&self.0.status())?;
        pair.serialize_element(&self.0)?;
        pair.end()
    }
}
