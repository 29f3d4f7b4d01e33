//! The opcodes: which exist, what parameters they take, and the checks made when a job is submitted.
//!
//! Owns the table ([`spec`], [`all`]), the check that fills defaults ([`check`]), the one-line text of an
//! opcode ([`summary`]) and the hiding of secret parameters ([`redact`], [`restore`]). Must not know
//! what an opcode does, nor look at the configuration: a value of the right type that names nothing is
//! found by the job. luxid checks what is submitted, gantry-job and the CLI read the table.
//!
//! # Adding an opcode
//!
//! 1. Add an [`OpcodeSpec`] to the file of its object under `table/`. Parameters are `req` (must be
//!    given), `opt` (null unless given) or `def` (a default of its own). The common ones ([`COMMON`])
//!    are not repeated.
//! 2. A new type is a constant in `named.rs` made of the existing ones; a variant of [`Type`] only when
//!    no combination does (then [`Type::describe`] and the matcher need an arm each).
//! 3. A parameter that carries a secret wraps its type in [`Type::Secret`] and adds its name to
//!    `NAMES` in `secret.rs`; the table test fails if the two differ.
//! 4. Correct the number in `tests/opcode_table.rs`; its checks cover the rest of the entry.
//!
//! Key order: [`check`] inserts own parameters, common ones, then `OP_ID`. `serde_json` sorts the keys of
//! its maps; whoever prints an opcode in the canonical order walks [`OpcodeSpec::keys`].

mod check;
mod named;
mod secret;
mod summary;
mod table;
mod types;

pub use check::{OP_BYTES_MAX, OpcodeError, check};
pub use secret::{REDACTED, Secret, is_redacted, redact, restore};
pub use summary::summary;
pub use types::{Mismatch, Type};

use serde_json::{Value, json};

/// One opcode of the table.
#[derive(Debug, Clone, Copy)]
pub struct OpcodeSpec {
    /// The name on the wire, such as `OP_TEST_DELAY`.
    pub id: &'static str,
    /// Its own parameters, in the order in which they are stored.
    pub params: &'static [ParamSpec],
    /// The parameter whose value stands in parentheses in the summary.
    pub summary: Option<&'static str>,
    /// Whether it runs alone: takes `cluster/BGL` exclusively, where others share it.
    pub needs_bgl: bool,
    /// How much unmodified clients depend on it.
    pub relevance: Relevance,
}

impl OpcodeSpec {
    /// All parameters: its own, then the common ones.
    pub fn all_params(&self) -> impl Iterator<Item = &'static ParamSpec> + use<> {
        self.params.iter().chain(COMMON)
    }

    /// All keys of a checked opcode in canonical order; the last is `OP_ID`.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.all_params().map(|p| p.name).chain([OP_ID])
    }

    /// The parameter of this name, own or common.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&'static ParamSpec> {
        self.all_params().find(|p| p.name == name)
    }
}

/// How much a cluster under unmodified clients depends on an opcode (`spec/opcodes.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relevance {
    /// Needed for a working cluster.
    A,
    /// Needed by single commands only.
    B,
    /// May be accepted and fail as a job until it is built.
    C,
}

/// One parameter of an opcode.
#[derive(Debug, Clone, Copy)]
pub struct ParamSpec {
    /// The key.
    pub name: &'static str,
    /// The values accepted. Null is accepted besides where there is a default; it means "not given".
    pub ty: Type,
    /// What stands there when it is not given.
    pub fill: Fill,
}

impl ParamSpec {
    /// The default; none for a required parameter.
    #[must_use]
    pub fn default(&self) -> Option<Value> {
        match self.fill {
            Fill::Required => None,
            Fill::Null => Some(Value::Null),
            Fill::Bool(b) => Some(json!(b)),
            Fill::Int(i) => Some(json!(i)),
            Fill::Num(n) => Some(json!(n)),
            Fill::Str(s) => Some(json!(s)),
            Fill::EmptyList => Some(json!([])),
            Fill::EmptyObject => Some(json!({})),
        }
    }
}

/// What stands in a parameter that was not given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// Nothing: the opcode is refused.
    Required,
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number written with a fraction.
    Num(f64),
    /// A string.
    Str(&'static str),
    /// `[]`.
    EmptyList,
    /// `{}`.
    EmptyObject,
}

/// The key that names the opcode.
pub const OP_ID: &str = "OP_ID";

/// The parameters that every opcode takes (`spec/opcodes.md` §1). `reason` is required in Ganeti; here
/// a missing one is the empty trail.
pub const COMMON: &[ParamSpec] = &[
    opt("dry_run", &Type::Bool),
    opt("debug_level", &Type::Uint),
    def("priority", named::SUBMIT_PRIORITY, Fill::Int(0)),
    opt("depends", &named::DEPENDENCIES),
    opt("comment", &Type::Text),
    def("reason", named::REASON_TRAIL, Fill::EmptyList),
];

/// The opcode of this name, such as `OP_TEST_DELAY`.
#[must_use]
pub fn spec(op_id: &str) -> Option<&'static OpcodeSpec> {
    all().iter().find(|s| s.id == op_id)
}

/// All opcodes, grouped by object.
#[must_use]
pub fn all() -> &'static [OpcodeSpec] {
    &table::ALL
}

const fn req(name: &'static str, ty: Type) -> ParamSpec {
    ParamSpec { name, ty, fill: Fill::Required }
}

const fn opt(name: &'static str, ty: &'static Type) -> ParamSpec {
    ParamSpec { name, ty: Type::Opt(ty), fill: Fill::Null }
}

const fn def(name: &'static str, ty: Type, fill: Fill) -> ParamSpec {
    ParamSpec { name, ty, fill }
}
