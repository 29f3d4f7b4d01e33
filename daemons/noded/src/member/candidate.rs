//! Verbs on what a candidate has beside its copies: the CA of the cluster; and on what it knows as plain text.

use super::crypto::trusting;
use super::node::blocking;
use super::{Member, lock, shut};
use crate::core::ssconf;
use crate::error;
use crate::io::files;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{SECRETS_MAX, SecretsRequest, SsconfHaveReply};
use gantry_rpc::tls::{CA_KEY, CA_PEM};
use gantry_rt::crash;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Longest secret, bytes: a certificate or a key as PEM has some hundred.
const SECRET_BYTES_MAX: usize = 16 << 10;
/// What may be stored: no caller can name another file.
const SECRETS: [&str; 2] = [CA_PEM, CA_KEY];

impl Member {
    /// Stores what a master needs, readable by this user only; durable when it returns. Another trust (`ca.pem`, one CA or
    /// several) counts for new connections from then on; those that stand go on.
    ///
    /// # Errors
    /// `Fenced`; `BadRequest` for an unknown name, or a trust in which this node's own certificate is worth nothing: it
    /// would cut itself off. Before anything is written.
    pub async fn secrets(self: &Arc<Self>, request: SecretsRequest) -> Result<(), Fail> {
        check(&request)?;
        let member = Arc::clone(self);
        self.detached("secrets", async move {
            let _one = member.filing.lock().await;
            let _pass = member.gate.enter(request.fence).map_err(shut)?;
            let (root, tls) = (member.settings.root.clone(), lock(&member.tls).clone());
            blocking(move || {
                let trust = request.files.iter().find(|(name, _)| name == CA_PEM);
                let renewed = trust.map(|(_, ca)| trusting(&root, ca)).transpose()?;
                files::store_named(&root, &request.files).map_err(|why| error::file(&why))?;
                crash::point("candidate-secrets");
                match (renewed, tls) {
                    (Some(identity), Some(tls)) => tls
                        .renew(&identity)
                        .map_err(|why| Fail::new(Code::Internal, format!("stored, but not in use: {why}"))),
                    (Some(_) | None, _) => Ok(()),
                }
            })
            .await
        })
        .await
    }

    /// The ssconf files on the disk.
    ///
    /// # Errors
    /// `Internal` when one is there and can't be read.
    pub async fn ssconf_have(&self) -> Result<SsconfHaveReply, Fail> {
        let index = lock(&self.ssconf).index;
        let root = self.settings.root.clone();
        let digests = blocking(move || {
            let mut digests = Vec::new();
            for key in ssconf::KEYS {
                let found = files::read_if_there(&root.ssconf(key)).map_err(|why| error::file(&why))?;
                digests.extend(found.map(|bytes| ((*key).to_owned(), Sha256::digest(bytes).into())));
            }
            Ok(digests)
        })
        .await?;
        Ok(SsconfHaveReply { index, digests })
    }
}

fn check(request: &SecretsRequest) -> Result<(), Fail> {
    let bad = |text: String| Err(Fail::new(Code::BadRequest, text));
    if request.files.len() > SECRETS_MAX {
        return bad(format!(
            "{} secrets in one request, at most {SECRETS_MAX} are taken",
            request.files.len()
        ));
    }
    for (name, text) in &request.files {
        if !SECRETS.contains(&name.as_str()) {
            return bad(format!("'{name}' is no secret of a candidate; there are {}", SECRETS.join(", ")));
        }
        if text.len() > SECRET_BYTES_MAX {
            return bad(format!("{name} has {} bytes, at most {SECRET_BYTES_MAX} are taken", text.len()));
        }
    }
    Ok(())
}
