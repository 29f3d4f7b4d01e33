//! What may go wrong.

use crate::core::snapshot::{Invalid, ObjectError};
use gantry_rt::node_toml::NodeTomlError;
use gantry_store::StoreError;
use std::io;
use std::net::SocketAddr;

/// Why there is no configuration to serve.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The files.
    #[error("the copy of the configuration can't be read")]
    Store(#[from] StoreError),
    /// An object in them.
    #[error("the copy of the configuration holds what this program can't read")]
    Object(#[from] ObjectError),
    /// All of them together.
    #[error("the copy of the configuration is not whole")]
    Invalid(#[from] Invalid),
}

/// Why RConfD can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// node.toml.
    #[error(transparent)]
    NodeToml(#[from] NodeTomlError),
    /// A setting.
    #[error("node.toml: [confd] {0}")]
    Setting(String),
    /// An address.
    #[error("can't listen on UDP {addr}: is the address this machine's, and the port free?")]
    Bind {
        /// Which.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory of the copy.
    #[error("can't watch {dir}")]
    Watch {
        /// Which.
        dir: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}
