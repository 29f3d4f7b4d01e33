//! How the TLS listener proves itself and what it wants to see: the node's certificate, the CAs it trusts, the bearer tokens. All
//! are read anew when their files change, so that `gnt-cluster renew-crypto` and an editor are enough.

use crate::core::tokens::Tokens;
use crate::io::watched::{Broken, Watched};
use gantry_model::root::Root;
use gantry_rpc::tls::{CA_PEM, Identity, NODE_KEY, NODE_PEM, PublicTls};
use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

/// Longest file of tokens, bytes: as many as are taken, with a comment each.
const FILE_BYTES_MAX: u64 = 128 << 10;
/// Mode bits that a file of tokens may not have: nothing for others, nothing to write for the group.
const MODE_FORBIDDEN: u32 = 0o027;

/// See the module.
pub struct Proofs {
    tls: Watched<PublicTls>,
    tokens: Option<Watched<Arc<Tokens>>>,
}

impl Proofs {
    /// Of the node with this root.
    #[must_use]
    pub fn new(root: &Root, token_file: Option<&Path>) -> Self {
        let secrets = root.secrets();
        let files = [CA_PEM, NODE_PEM, NODE_KEY].map(|name| secrets.join(name)).to_vec();
        // A renewal that is half done, or a disk that fails, does not close the door on who is still trusted.
        let tls = Watched::new("the node's certificate", files, Broken::Last, move || {
            let made = Identity::load(&secrets).and_then(|identity| PublicTls::new(&identity));
            made.map_err(|error| match error.source() {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            })
        });
        // Who takes a token away wants it to count no more, also when the rest of the file is wrong.
        let tokens = token_file.map(|path| {
            let path = path.to_owned();
            Watched::new("the file of tokens", vec![path.clone()], Broken::Nothing, move || {
                read_tokens(&path).map(Arc::new)
            })
        });
        Self { tls, tokens }
    }

    /// What holds for a new connection; None: the node has no certificate that can be used. Blocks for some small reads.
    #[must_use]
    pub fn current(&self) -> Option<(PublicTls, Arc<Tokens>)> {
        let tokens = self.tokens.as_ref().and_then(Watched::current).unwrap_or_default();
        Some((self.tls.current()?, tokens))
    }
}

/// The tokens of a file that others can't read.
///
/// # Errors
/// Why it can't be used, and what to do.
pub fn read_tokens(path: &Path) -> Result<Tokens, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("token file {}: {why}", path.display());
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(|error| wrong(&error))?.is_file() {
        return Err(wrong(&"it is no file"));
    }
    let file = File::open(path).map_err(|error| wrong(&error))?;
    let meta = file.metadata().map_err(|error| wrong(&error))?;
    let mode = meta.permissions().mode() & 0o7777;
    if mode & MODE_FORBIDDEN != 0 {
        let why =
            format!("its mode is {mode:04o}, so others may have read it: chmod 600, and make new tokens");
        return Err(wrong(&why));
    }
    if meta.len() > FILE_BYTES_MAX {
        return Err(wrong(&format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| wrong(&error))?;
    Tokens::read(&text).map_err(|error| wrong(&error))
}
