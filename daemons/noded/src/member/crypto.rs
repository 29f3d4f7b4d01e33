//! Verbs by which the master renews this node's certificate and trust (docs/adr/0010): what they are, a request for a
//! certificate, and one change of them.
//!
//! A change rests on what the caller has seen. So a late message of a dead job, which would undo a later one's step, finds
//! another state and does nothing.

use super::node::blocking;
use super::{Member, lock, shut};
use crate::error;
use crate::io::files;
use gantry_model::ids::Fence;
use gantry_model::role::Role;
use gantry_model::root::Root;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{CryptoChange, CryptoReply, CryptoStoreRequest, TrustedCa};
use gantry_rpc::tls::facts::{self, Own};
use gantry_rpc::tls::{CA_KEY, CA_PEM, Identity, NODE_KEY, NODE_PEM, TlsError, ca, server_config};
use gantry_rt::crash;
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::sync::Arc;

/// Longest text taken, bytes: a set of some CAs.
const PEM_BYTES_MAX: usize = 64 << 10;
/// Length of an `hmac.key`: from 128 bits, as Ganeti's, to what nobody needs more of.
const HMAC_CHARACTERS: std::ops::RangeInclusive<usize> = 32..=256;

impl Member {
    /// Whom this node trusts, what its certificate is, whose key it has.
    ///
    /// # Errors
    /// `Internal` when its files can't be read.
    pub async fn crypto(&self) -> Result<CryptoReply, Fail> {
        let (root, role) = (self.settings.root.clone(), self.copies.roles().current().role);
        blocking(move || look(&root, role)).await
    }

    /// Makes a new key, kept in memory, and asks for its certificate. A restart forgets it; who asked asks again.
    ///
    /// # Errors
    /// `Fenced`; `Internal` without randomness.
    pub async fn crypto_ask(&self, fence: Fence) -> Result<String, Fail> {
        let _one = self.filing.lock().await;
        let _pass = self.gate.enter(fence).map_err(shut)?;
        let made = ca::make_csr().map_err(|why| Fail::new(Code::Internal, why.to_string()))?;
        *lock(&self.asked) = Some(made.key);
        Ok(made.csr)
    }

    /// Changes one of this node's secrets; durable and in use for new connections when it returns.
    ///
    /// # Errors
    /// `Fenced`; `Stale` when they are not as the caller has seen them; `BadRequest` for what would cut this node off or
    /// does not fit. Before anything is written.
    pub async fn crypto_store(self: &Arc<Self>, request: CryptoStoreRequest) -> Result<(), Fail> {
        let member = Arc::clone(self);
        self.detached("crypto_store", async move { member.crypto_store_now(request).await }).await
    }

    async fn crypto_store_now(&self, request: CryptoStoreRequest) -> Result<(), Fail> {
        let _one = self.filing.lock().await;
        let _pass = self.gate.enter(request.fence).map_err(shut)?;
        let CryptoStoreRequest { seen, change, .. } = request;
        let (root, key) = (self.settings.root.clone(), lock(&self.asked).clone());
        let role = self.copies.roles().current().role;
        let identity = blocking(move || {
            if is_done(&root, &change) {
                return Ok(None);
            }
            if look(&root, role)?.state != seen {
                let text = "this node's certificates have changed since they were looked at: look again";
                return Err(Fail::new(Code::Stale, text));
            }
            store(&root, change, key.as_deref())
        })
        .await?;
        let tls = lock(&self.tls).clone();
        match (identity, tls) {
            (Some(identity), Some(tls)) => tls
                .renew(&identity)
                .map_err(|why| Fail::new(Code::Internal, format!("stored, but not in use: {why}"))),
            (Some(_) | None, _) => Ok(()),
        }
    }
}

fn internal(why: &TlsError) -> Fail {
    Fail::new(Code::Internal, format!("this node's certificates can't be read: {}", chain(why)))
}

fn bad(why: impl std::fmt::Display) -> Fail {
    Fail::new(Code::BadRequest, why.to_string())
}

/// An error with its cause.
fn chain(why: &TlsError) -> String {
    match std::error::Error::source(why) {
        Some(cause) => format!("{why}: {cause}"),
        None => why.to_string(),
    }
}

fn look(root: &Root, role: Role) -> Result<CryptoReply, Fail> {
    let secrets = root.secrets();
    let Own { trust, issuer, ends, key } = Own::load(&secrets).map_err(|why| internal(&why))?;
    let mut state = Sha256::new();
    let digest = |path: PathBuf| -> Result<Option<[u8; 32]>, Fail> {
        let bytes = files::read_if_there(&path).map_err(|why| error::file(&why))?;
        Ok(bytes.map(|bytes| Sha256::digest(bytes).into()))
    };
    let hmac = digest(root.hmac_key())?;
    for name in [CA_PEM, NODE_PEM, CA_KEY] {
        // Each by its own digest: nothing wanders from one to the next.
        state.update(digest(secrets.join(name))?.unwrap_or_default());
    }
    state.update(hmac.unwrap_or_default());
    let trust =
        trust.into_iter().map(|ca| TrustedCa { print: ca.print, ends: ca.ends, pem: ca.pem }).collect();
    Ok(CryptoReply { state: state.finalize().into(), trust, issuer, ends, key, hmac, role })
}

/// Whether the change was made before: a repeated call.
fn is_done(root: &Root, change: &CryptoChange) -> bool {
    let text = |name: &str| std::fs::read_to_string(root.secrets().join(name)).unwrap_or_default();
    match change {
        CryptoChange::Trust(pem) => text(CA_PEM) == *pem,
        CryptoChange::Key(pem) => text(CA_KEY) == *pem,
        CryptoChange::Hmac(hex) => std::fs::read_to_string(root.hmac_key()).is_ok_and(|text| text == *hex),
        CryptoChange::Certificate(pem) => !pem.is_empty() && text(NODE_PEM).starts_with(pem.as_str()),
    }
}

/// Checks and stores one change; this node as it is then, if that is for its listener.
fn store(root: &Root, change: CryptoChange, key: Option<&str>) -> Result<Option<Identity>, Fail> {
    let (CryptoChange::Trust(pem)
    | CryptoChange::Key(pem)
    | CryptoChange::Certificate(pem)
    | CryptoChange::Hmac(pem)) = &change;
    if pem.len() > PEM_BYTES_MAX {
        return Err(bad(format!("{} bytes of PEM, at most {PEM_BYTES_MAX} are taken", pem.len())));
    }
    match change {
        CryptoChange::Trust(pem) => store_trust(root, pem).map(Some),
        CryptoChange::Key(pem) => store_key(root, pem).map(|()| None),
        CryptoChange::Certificate(pem) => store_certificate(root, &pem, key).map(Some),
        CryptoChange::Hmac(hex) => store_hmac(root, &hex).map(|()| None),
    }
}

fn store_trust(root: &Root, pem: String) -> Result<Identity, Fail> {
    let identity = trusting(root, &pem)?;
    let alone = facts::authorities(&pem).is_ok_and(|all| all.len() == 1);
    if alone {
        clear(root)?;
    }
    put(root, CA_PEM, pem)?;
    crash::point(if alone { "renew-trust-alone" } else { "renew-trust-grown" });
    Ok(identity)
}

fn store_hmac(root: &Root, text: &str) -> Result<(), Fail> {
    let hex = text.trim_end();
    if !HMAC_CHARACTERS.contains(&hex.len()) || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad("an hmac.key is a line of hex"));
    }
    files::store_hmac(root, text).map_err(|why| error::file(&why))
}

fn store_key(root: &Root, pem: String) -> Result<(), Fail> {
    let known = std::fs::read_to_string(root.secrets().join(CA_PEM)).unwrap_or_default();
    let of = |pair: &ca::Pair| facts::print_of(&pair.certificate);
    let print = facts::signer("", &pem).and_then(|pair| of(&pair)).map_err(|why| bad(chain(&why)))?;
    let trust = facts::authorities(&known).map_err(|why| internal(&why))?;
    if !trust.iter().any(|ca| ca.print == print) {
        return Err(bad("a key of a CA that this node does not trust"));
    }
    put(root, CA_KEY, pem)?;
    crash::point("renew-key-stored");
    files::remove_next_key(root).map_err(|why| error::file(&why))
}

/// Certificate and key in one file, by one rename: no crash leaves one without the other.
fn store_certificate(root: &Root, pem: &str, key: Option<&str>) -> Result<Identity, Fail> {
    let old = Identity::load(&root.secrets()).map_err(|why| internal(&why))?;
    let Some(key) = key else {
        return Err(Fail::new(
            Code::Stale,
            "this node has restarted since it asked for a certificate: ask again",
        ));
    };
    let trust = std::fs::read_to_string(root.secrets().join(CA_PEM)).unwrap_or_default();
    let new = Identity::from_pem(pem, key, &trust).map_err(|why| bad(chain(&why)))?;
    if (new.cluster(), new.node()) != (old.cluster(), old.node()) {
        return Err(bad(format!("a certificate of node {} of cluster {}", new.node(), new.cluster())));
    }
    // Building the listener's half compares key and certificate.
    server_config(&new).map_err(|why| {
        Fail::new(Code::Stale, format!("a certificate for another request: {why}; ask again"))
    })?;
    new.check_signed().map_err(|why| bad(format!("a certificate of a CA that is not trusted: {why}")))?;
    put(root, NODE_PEM, format!("{pem}{key}"))?;
    crash::point("renew-certificate-stored");
    // It counts no more; a crash before this leaves it, unread, until the last step.
    files::remove_secret(root, NODE_KEY).map_err(|why| error::file(&why))?;
    Ok(new)
}

/// What a crash behind an earlier step has left goes before the last one: keys that nobody reads any more.
fn clear(root: &Root) -> Result<(), Fail> {
    let secrets = root.secrets();
    if secrets.join(CA_KEY).exists() {
        files::remove_next_key(root).map_err(|why| error::file(&why))?;
    }
    if facts::key_is_beside(&secrets).map_err(|why| internal(&why))? {
        files::remove_secret(root, NODE_KEY).map_err(|why| error::file(&why))?;
    }
    Ok(())
}

fn put(root: &Root, name: &str, pem: String) -> Result<(), Fail> {
    files::store_named(root, &[(name.to_owned(), pem)]).map_err(|why| error::file(&why))
}

/// This node with another trust, by which the others must still believe it.
pub(super) fn trusting(root: &Root, ca: &str) -> Result<Identity, Fail> {
    let bad = |why: TlsError| {
        let text = format!("with this {CA_PEM} the node's own certificate would be worth nothing: {why}");
        Fail::new(Code::BadRequest, text)
    };
    let identity = Identity::load_trusting(&root.secrets(), ca).map_err(bad)?;
    identity.check_signed().map_err(bad)?;
    Ok(identity)
}
