//! Ganeti's errors: a class name and its arguments, as they stand in LUXI answers and opcode results
//! (`spec/luxi.md` §4).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;

/// The second argument of `OpPrereqError` (`spec/luxi.md` §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the texts")]
pub enum Ecode {
    ResolverError,
    InsufficientResources,
    TempInsufficientResources,
    WrongInput,
    WrongState,
    UnknownEntity,
    AlreadyExists,
    ResourceNotUnique,
    InternalError,
    EnvironmentError,
}

impl Ecode {
    /// The text on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ResolverError => "resolver_error",
            Self::InsufficientResources => "insufficient_resources",
            Self::TempInsufficientResources => "temp_insufficient_resources",
            Self::WrongInput => "wrong_input",
            Self::WrongState => "wrong_state",
            Self::UnknownEntity => "unknown_entity",
            Self::AlreadyExists => "already_exists",
            Self::ResourceNotUnique => "resource_not_unique",
            Self::InternalError => "internal_error",
            Self::EnvironmentError => "environment_error",
        }
    }
}

/// An error a Ganeti client can raise again: `[class, [args…]]`.
/// Carried as JSON text inside bincode bodies, since arguments may be any JSON.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub struct GanetiError {
    /// Class name, such as `OpPrereqError`.
    pub class: String,
    /// Its arguments.
    pub args: Vec<Value>,
}

impl fmt::Display for GanetiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.args.first() {
            Some(Value::String(text)) => f.write_str(text),
            _ => write!(f, "{} {}", self.class, Value::Array(self.args.clone())),
        }
    }
}

impl GanetiError {
    /// An error of `class` with one text.
    pub fn new(class: &str, text: impl Into<String>) -> Self {
        Self { class: class.to_owned(), args: vec![Value::String(text.into())] }
    }

    /// A refused request: `OpPrereqError [text, ecode]`.
    pub fn prereq(text: impl Into<String>, ecode: Ecode) -> Self {
        Self {
            class: "OpPrereqError".to_owned(),
            args: vec![Value::String(text.into()), json!(ecode.as_str())],
        }
    }

    /// A failed execution: `OpExecError [text]`.
    pub fn exec(text: impl Into<String>) -> Self {
        Self::new("OpExecError", text)
    }

    /// Anything else: `GenericError [text]`.
    pub fn generic(text: impl Into<String>) -> Self {
        Self::new("GenericError", text)
    }

    /// `[class, [args…]]`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        json!([self.class, self.args])
    }

    /// Reads `[class, [args…]]` back; None for any other shape.
    #[must_use]
    pub fn from_value(value: &Value) -> Option<Self> {
        let [class, args] = value.as_array()?.as_slice() else {
            return None;
        };
        Some(Self { class: class.as_str()?.to_owned(), args: args.as_array()?.clone() })
    }

    /// The code of an `OpPrereqError`, if it has one.
    #[must_use]
    pub fn ecode(&self) -> Option<&str> {
        self.args.get(1)?.as_str()
    }
}
