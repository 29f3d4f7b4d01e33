//! Typed access to an opcode's parameters. luxid has checked names and types at submission, so a missing
//! parameter reads as unset, never as a surprise.

use crate::error::OpFail;
use gantry_model::error::Ecode;
use serde_json::{Map, Value};

/// One opcode's parameters.
pub struct Args<'a>(&'a Map<String, Value>);

impl<'a> Args<'a> {
    /// The opcode object.
    pub fn new(map: &'a Map<String, Value>) -> Self {
        Self(map)
    }

    /// The whole object.
    pub fn map(&self) -> &'a Map<String, Value> {
        self.0
    }

    /// `OP_ID`.
    pub fn id(&self) -> &'a str {
        self.str("OP_ID").unwrap_or("")
    }

    /// The raw value; None when unset or null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A text, if set.
    pub fn str(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.as_str()
    }

    /// A text that must be there and not empty.
    pub fn need(&self, name: &str) -> Result<&'a str, OpFail> {
        self.str(name).filter(|text| !text.is_empty()).ok_or_else(|| {
            OpFail::prereq(
                format!("{}: parameter '{name}' is missing or empty", self.id()),
                Ecode::WrongInput,
            )
        })
    }

    /// A flag; unset is false.
    pub fn bool(&self, name: &str) -> bool {
        self.flag(name) == Some(true)
    }

    /// A flag, if set.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name)?.as_bool()
    }

    /// A number that is not negative, if set.
    pub fn uint(&self, name: &str) -> Option<u64> {
        self.get(name)?.as_u64()
    }

    /// A list of texts; unset is empty.
    pub fn texts(&self, name: &str) -> Vec<&'a str> {
        self.list(name).iter().filter_map(Value::as_str).collect()
    }

    /// A list; unset is empty.
    pub fn list(&self, name: &str) -> &'a [Value] {
        self.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// An object, if set.
    pub fn object(&self, name: &str) -> Option<&'a Map<String, Value>> {
        self.get(name)?.as_object()
    }

    /// The uuid twin of a name when it is given, else the name (`spec/opcodes.md` §1: the uuid wins).
    pub fn named(&self, name: &str, uuid: &str) -> Result<&'a str, OpFail> {
        match self.str(uuid) {
            Some(uuid) => Ok(uuid),
            None => self.need(name),
        }
    }
}
