//! Lock names: `level/name`, totally ordered (`spec/locks.md` §1). Parsing is the only way in.
//! Whether an object of that name exists is not asked here.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name within a level, in bytes: the length of the longest DNS name, which instance names are.
pub const NAME_BYTES_MAX: usize = 255;

/// How the group lock of a level is written.
const SET: &str = "[lockset]";
/// The big lock, only named lock of level `cluster`.
const BGL: &str = "BGL";
/// The configuration lock. Written under `cluster/` though it is a level of its own.
const CONFIG: &str = "config";

/// A level of locks. The order of the variants is the order in which a job must take them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The big lock.
    Cluster,
    /// Instances, by name.
    Instance,
    /// Node groups, by uuid.
    NodeGroup,
    /// Nodes, by uuid.
    Node,
    /// Memory and disk of nodes, by node uuid.
    #[serde(rename = "node-res")]
    NodeRes,
    /// Networks, by uuid.
    Network,
    /// The configuration lock alone. It has no group lock.
    Config,
}

impl Level {
    /// All levels, in lock order.
    pub const ALL: [Level; 7] = [
        Level::Cluster,
        Level::Instance,
        Level::NodeGroup,
        Level::Node,
        Level::NodeRes,
        Level::Network,
        Level::Config,
    ];

    /// The level's name as clients write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Cluster => "cluster",
            Level::Instance => "instance",
            Level::NodeGroup => "nodegroup",
            Level::Node => "node",
            Level::NodeRes => "node-res",
            Level::Network => "network",
            Level::Config => CONFIG,
        }
    }

    /// Position in [`Level::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Level {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Level::ALL
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| NameError::UnknownLevel { text: text.to_owned() })
    }
}

/// Why a text names no lock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is no `/` between level and name.
    #[error("'{text}' is no lock name: it has no level")]
    NoLevel {
        /// What was given.
        text: String,
    },
    /// No level of that name.
    #[error("'{text}' is no lock level")]
    UnknownLevel {
        /// What was given.
        text: String,
    },
    /// The name within the level is empty or longer than [`NAME_BYTES_MAX`].
    #[error("a name of {bytes} bytes is no name of a lock of level {level}")]
    BadLength {
        /// Its level.
        level: Level,
        /// The length found.
        bytes: usize,
    },
    /// The name has a slash, a blank or a control character, or is the reserved word of group locks.
    #[error("'{text}' is no name of a lock of level {level}")]
    BadName {
        /// Its level.
        level: Level,
        /// The name within the level.
        text: String,
    },
}

/// The name of one lock. Cloning is cheap. The order is the order in which locks must be taken:
/// by level, within a level the group lock first and then by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LockName {
    level: Level,
    /// None = the group lock of the level, which `Ord` puts first as it must be.
    name: Option<Arc<str>>,
}

impl LockName {
    /// The big lock, `cluster/BGL`.
    #[must_use]
    pub fn bgl() -> Self {
        Self { level: Level::Cluster, name: Some(BGL.into()) }
    }

    /// The configuration lock, `cluster/config`, last of all locks.
    #[must_use]
    pub fn config() -> Self {
        Self { level: Level::Config, name: Some(CONFIG.into()) }
    }

    /// The group lock of `level`; none for level `config`.
    #[must_use]
    pub fn set(level: Level) -> Option<Self> {
        match level {
            Level::Config => None,
            Level::Cluster
            | Level::Instance
            | Level::NodeGroup
            | Level::Node
            | Level::NodeRes
            | Level::Network => Some(Self { level, name: None }),
        }
    }

    /// The lock of the object `name` at `level`.
    ///
    /// # Errors
    /// When the name is empty, too long, has a slash, blank or control character, or is none of the
    /// fixed names of levels `cluster` and `config`.
    pub fn named(level: Level, name: &str) -> Result<Self, NameError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(NameError::BadLength { level, bytes: name.len() });
        }
        let good = match level {
            Level::Cluster => name == BGL,
            Level::Config => name == CONFIG,
            Level::Instance | Level::NodeGroup | Level::Node | Level::NodeRes | Level::Network => {
                name != SET && !name.chars().any(|c| c == '/' || c.is_whitespace() || c.is_control())
            }
        };
        if !good {
            return Err(NameError::BadName { level, text: name.to_owned() });
        }
        Ok(Self { level, name: Some(name.into()) })
    }

    /// Its level.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// The name within the level; none for a group lock.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether this is the group lock of its level.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.name.is_none()
    }

    /// The group lock this lock is a member of; none for group locks and the configuration lock.
    #[must_use]
    pub fn group(&self) -> Option<Self> {
        if self.is_set() { None } else { Self::set(self.level) }
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Config => Level::Cluster,
            Level::Cluster
            | Level::Instance
            | Level::NodeGroup
            | Level::Node
            | Level::NodeRes
            | Level::Network => self.level,
        };
        write!(f, "{level}/{}", self.name().unwrap_or(SET))
    }
}

impl FromStr for LockName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (level, name) =
            text.split_once('/').ok_or_else(|| NameError::NoLevel { text: text.to_owned() })?;
        let level = match level.parse()? {
            Level::Cluster if name == CONFIG => Level::Config,
            // `config/…` is never written.
            Level::Config => return Err(NameError::UnknownLevel { text: level.to_owned() }),
            level @ (Level::Cluster
            | Level::Instance
            | Level::NodeGroup
            | Level::Node
            | Level::NodeRes
            | Level::Network) => level,
        };
        match Self::set(level) {
            Some(set) if name == SET => Ok(set),
            Some(_) | None => Self::named(level, name),
        }
    }
}

impl TryFrom<String> for LockName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<LockName> for String {
    fn from(name: LockName) -> Self {
        name.to_string()
    }
}
