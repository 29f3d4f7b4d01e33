//! The check of a submitted opcode (`spec/opcodes.md` §1, `spec/luxi.md` §8.5).

use super::types::{job_number, shortened, shown};
use super::{COMMON, Mismatch, OP_ID, OpcodeSpec, ParamSpec, all, spec};
use serde_json::{Map, Value};
use std::io;
use thiserror::Error;

/// Largest opcode, in bytes of its JSON text with all defaults filled in. One log row and one frame to
/// the job hold it whole.
pub const OP_BYTES_MAX: usize = 1024 * 1024;

/// Keys that an error lists before it only counts the rest.
const LISTED_KEYS_MAX: usize = 64;

/// Why an opcode is refused. The text continues Ganeti's "Failed to parse request: " and holds no value
/// of a secret parameter; its length is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpcodeError {
    /// Something else than an object.
    #[error("opcode is {given}, accepted is an object with the key 'OP_ID'")]
    NotAnObject {
        /// What it was.
        given: String,
    },
    /// No `OP_ID`.
    #[error("key 'OP_ID' not found, object contains only {keys}")]
    NoId {
        /// The keys, as a JSON list.
        keys: String,
    },
    /// `OP_ID` names nothing.
    #[error("Unknown opcode {given}, accepted is one of {count} names such as OP_TEST_DELAY")]
    Unknown {
        /// What it was.
        given: String,
        /// Number of opcodes.
        count: usize,
    },
    /// Over [`OP_BYTES_MAX`].
    #[error("{opcode}: opcode is larger than {max} bytes of JSON")]
    TooLarge {
        /// The opcode, or what stands in its place.
        opcode: String,
        /// [`OP_BYTES_MAX`].
        max: usize,
    },
    /// A required parameter is missing.
    #[error("{opcode}: key '{param}' not found ({accepted}), object contains only {keys}")]
    Missing {
        /// The opcode.
        opcode: &'static str,
        /// The parameter.
        param: &'static str,
        /// The type wanted.
        accepted: String,
        /// The keys given, as a JSON list.
        keys: String,
    },
    /// Parameters that the opcode does not have.
    #[error("{opcode}: Superfluous dictionary keys: {keys}, but only {accepted} allowed")]
    Superfluous {
        /// The opcode.
        opcode: &'static str,
        /// The keys nobody knows, as a JSON list.
        keys: String,
        /// The keys it has, as a JSON list.
        accepted: String,
    },
    /// A value of the wrong type.
    #[error("{opcode}: parameter '{param}' is {given}, accepted is {accepted}")]
    WrongValue {
        /// The opcode.
        opcode: &'static str,
        /// The parameter and the place in it, such as `disks[0].size`.
        param: String,
        /// What was given.
        given: String,
        /// What is accepted.
        accepted: String,
    },
}

/// Checks one submitted opcode and fills in the defaults: afterwards every parameter is present. Null
/// for a parameter with a default counts as not given; job numbers in `depends` that came as text
/// become numbers. Checking the result again changes nothing.
///
/// # Errors
/// The first reason to refuse it: size, `OP_ID`, unknown keys, then the parameters in table order.
pub fn check(input: &Value) -> Result<Map<String, Value>, OpcodeError> {
    let Value::Object(given) = input else {
        return Err(OpcodeError::NotAnObject { given: shown(input) });
    };
    bounded(given)?;
    let spec = named(given)?;
    no_unknown_keys(spec, given)?;
    let mut filled = Map::new();
    for param in spec.params.iter().chain(COMMON) {
        filled.insert(param.name.to_owned(), value_of(spec, param, given)?);
    }
    if let Some(depends) = filled.get_mut("depends") {
        number_jobs(depends);
    }
    filled.insert(OP_ID.to_owned(), Value::from(spec.id));
    bounded(&filled)?;
    Ok(filled)
}

fn named(given: &Map<String, Value>) -> Result<&'static OpcodeSpec, OpcodeError> {
    let Some(id) = given.get(OP_ID) else {
        let keys = listed(given.keys().map(String::as_str));
        return Err(OpcodeError::NoId { keys });
    };
    id.as_str().and_then(spec).ok_or_else(|| OpcodeError::Unknown { given: shown(id), count: all().len() })
}

fn no_unknown_keys(spec: &OpcodeSpec, given: &Map<String, Value>) -> Result<(), OpcodeError> {
    let known = |key: &str| key == OP_ID || spec.param(key).is_some();
    let mut unknown = given.keys().map(String::as_str).filter(|k| !known(k)).peekable();
    if unknown.peek().is_none() {
        return Ok(());
    }
    Err(OpcodeError::Superfluous { opcode: spec.id, keys: listed(unknown), accepted: listed(spec.keys()) })
}

fn value_of(spec: &OpcodeSpec, param: &ParamSpec, given: &Map<String, Value>) -> Result<Value, OpcodeError> {
    let wrong = |m: Mismatch| OpcodeError::WrongValue {
        opcode: spec.id,
        param: format!("{}{}", param.name, m.at),
        given: m.given,
        accepted: m.accepted,
    };
    match (given.get(param.name), param.default()) {
        (None | Some(Value::Null), Some(default)) => Ok(default),
        (None, None) => Err(OpcodeError::Missing {
            opcode: spec.id,
            param: param.name,
            accepted: param.ty.describe(),
            keys: listed(given.keys().map(String::as_str)),
        }),
        (Some(Value::Null), None) => Err(wrong(Mismatch {
            at: String::new(),
            given: "null".to_owned(),
            accepted: param.ty.describe(),
        })),
        (Some(value), _) => param.ty.accepts(value).map(|()| value.clone()).map_err(wrong),
    }
}

/// Job numbers as text become numbers; expects the type that `depends` has.
fn number_jobs(depends: &mut Value) {
    for entry in depends.as_array_mut().into_iter().flatten() {
        let Some(job) = entry.get_mut(0) else { continue };
        if let Some(number) = job.as_str().and_then(job_number) {
            *job = Value::from(number);
        }
    }
}

/// A JSON list of keys, cut after [`LISTED_KEYS_MAX`].
fn listed<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<String> = keys.map(shortened).collect();
    let more = names.len().saturating_sub(LISTED_KEYS_MAX);
    names.truncate(LISTED_KEYS_MAX);
    let text = Value::from(names).to_string();
    if more == 0 { text } else { format!("{text} and {more} more") }
}

fn bounded(op: &Map<String, Value>) -> Result<(), OpcodeError> {
    let counter = Counter { left: OP_BYTES_MAX };
    serde_json::to_writer(counter, op).map_err(|_| OpcodeError::TooLarge {
        opcode: op.get(OP_ID).and_then(Value::as_str).map_or("opcode".to_owned(), shortened),
        max: OP_BYTES_MAX,
    })
}

/// Counts what is written and refuses at the limit, so that a huge value is not written out first.
struct Counter {
    left: usize,
}

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
