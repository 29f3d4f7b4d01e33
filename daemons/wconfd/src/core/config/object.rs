//! Stored objects and their changes, as they travel to and from the log.

/// A stored object: JSON under (kind, key).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Kind, as in `gantry_model::config::kind`.
    pub kind: String,
    /// Key within the kind.
    pub key: String,
    /// Revision: the serial number where the object has one.
    pub rev: u64,
    /// JSON.
    pub body: Vec<u8>,
}

/// An object's new value, or its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Kind.
    pub kind: String,
    /// Key.
    pub key: String,
    /// The new revision; at a removal the last one.
    pub rev: u64,
    /// JSON; None = removed.
    pub body: Option<Vec<u8>>,
}
