//! The texts of refusals, as close to Ganeti's as the facts allow, in one place.

use gantry_model::config::SlotState;
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::Generation;
use gantry_proto::envelope::{Code, Fail};
use std::fmt::Display;

/// Why commands are refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// For people, in Ganeti's form.
    #[error(transparent)]
    Ganeti(#[from] GanetiError),
    /// The lease or its VM is not what the caller thinks any more: over for ever.
    #[error("{0}")]
    Stale(String),
}

impl From<Refusal> for Fail {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Ganeti(error) => error.into(),
            Refusal::Stale(text) => Self::new(Code::Stale, text),
        }
    }
}

pub(super) fn wrong_input(text: impl Into<String>) -> GanetiError {
    GanetiError::prereq(text, Ecode::WrongInput)
}

pub(super) fn wrong_state(text: impl Into<String>) -> GanetiError {
    GanetiError::prereq(text, Ecode::WrongState)
}

pub(super) fn exists(text: impl Into<String>) -> GanetiError {
    GanetiError::prereq(text, Ecode::AlreadyExists)
}

pub(super) fn not_unique(text: impl Into<String>) -> GanetiError {
    GanetiError::prereq(text, Ecode::ResourceNotUnique)
}

/// Nothing has that uuid.
pub(super) fn unknown(what: &str, which: impl Display) -> GanetiError {
    GanetiError::prereq(format!("{what} '{which}' not known"), Ecode::UnknownEntity)
}

/// The caller changes what somebody else changed meanwhile (`spec/config.md`, "Serial numbers").
pub(super) fn updated(stored: u64, read: u64) -> GanetiError {
    GanetiError::new(
        "ConfigurationError",
        format!("Configuration object updated since it has been read: {stored} != {read}"),
    )
}

pub(super) fn tag(text: impl Into<String>) -> GanetiError {
    GanetiError::new("TagError", text)
}

/// A slot is not where the caller thinks it is.
pub(super) fn slot_moved(
    name: &str,
    state: SlotState,
    generation: Generation,
    wanted: impl Display,
) -> GanetiError {
    wrong_state(format!(
        "Slot of instance '{name}' is {} in generation {generation}, but {wanted} was expected",
        state.as_str()
    ))
}
