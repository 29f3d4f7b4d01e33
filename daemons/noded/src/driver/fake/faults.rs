//! `etc/gantry/fake.json`: how the fake driver misbehaves. Read anew at each call, so that a test changes it
//! while noded runs. Unknown keys are refused: a typing error must not look like a healthy driver.
//!
//! ```json
//! { "delay_ms":  {"create": 100},
//!   "linger_ms": {"create": 100},
//!   "limit_ms":  {"create": 50},
//!   "hang":      ["destroy"],
//!   "fail":      {"create": {"class": "no-space", "times": 2, "when": "before", "text": "disk is full"}},
//!   "lose":      [{"slot": "UUID", "generation": 3}],
//!   "stop":      [{"slot": "UUID"}],
//!   "boot_id":   "second" }
//! ```

use crate::driver::{CallKind, Class, DriverError, VmId};
use gantry_model::ids::{Generation, InstanceUuid};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// Largest file taken.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The file's content; no file is [`Faults::default`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Sleep before the effect.
    pub delay_ms: HashMap<CallKind, u64>,
    /// Sleep after the effect, before the answer.
    pub linger_ms: HashMap<CallKind, u64>,
    /// Time limits instead of the driver's own.
    pub limit_ms: HashMap<CallKind, u64>,
    /// Calls that never answer.
    pub hang: Vec<CallKind>,
    /// Calls that fail.
    pub fail: HashMap<CallKind, Fail>,
    /// VMs that are gone.
    pub lose: Vec<Which>,
    /// VMs that are there and do not run.
    pub stop: Vec<Which>,
    /// What the driver takes for the machine's boot id: VMs of another one are gone.
    pub boot_id: Option<String>,
    #[serde(skip)]
    crc: u32,
}

/// A failure to play.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fail {
    /// What the caller sees.
    pub class: Class,
    /// How often, counted anew whenever the file's bytes change; None = always.
    pub times: Option<u64>,
    /// Before or after the effect.
    #[serde(default)]
    pub when: When,
    /// Its text.
    #[serde(default)]
    pub text: Option<String>,
}

/// When a failure comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Nothing was done.
    #[default]
    Before,
    /// It was done all the same.
    After,
}

/// A VM of a slot; all generations, or one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// The slot.
    pub slot: InstanceUuid,
    /// None = any.
    #[serde(default)]
    pub generation: Option<Generation>,
}

impl Which {
    /// Whether `vm` is meant.
    #[must_use]
    pub fn is(&self, vm: &VmId) -> bool {
        self.slot == vm.slot && self.generation.is_none_or(|wanted| wanted == vm.generation)
    }
}

/// Failures already played, kept beside the VMs so that noded's death does not start them over.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Played {
    crc: u32,
    counts: HashMap<CallKind, u64>,
}

impl Faults {
    /// Reads `path`; no such file means no faults.
    ///
    /// # Errors
    /// [`Class::Locked`] when it is there and can't be understood.
    pub fn read(path: &Path) -> Result<Self, DriverError> {
        let bad = |why: &dyn std::fmt::Display| {
            DriverError::new(Class::Locked, format!("can't use {}: {why}", path.display()))
        };
        match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(bad(&error)),
            Ok(found) if found.len() > FILE_BYTES_MAX => return Err(bad(&"it is too large")),
            Ok(_) => {}
        }
        let bytes = std::fs::read(path).map_err(|error| bad(&error))?;
        let mut faults: Self = serde_json::from_slice(&bytes).map_err(|error| bad(&error))?;
        faults.crc = crc32fast::hash(&bytes);
        Ok(faults)
    }

    /// Whether `call` is to fail now at `when`, counting it in `played`.
    pub fn strike(&self, call: CallKind, when: When, played: &mut Played) -> Option<DriverError> {
        let fail = self.fail.get(&call).filter(|fail| fail.when == when)?;
        if played.crc != self.crc {
            *played = Played { crc: self.crc, counts: HashMap::new() };
        }
        let count = played.counts.entry(call).or_insert(0);
        if fail.times.is_some_and(|times| *count >= times) {
            return None;
        }
        *count += 1;
        let text = fail.text.clone().unwrap_or_else(|| format!("injected failure of {}", call.name()));
        Some(DriverError::new(fail.class, text))
    }
}
