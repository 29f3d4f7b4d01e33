//! An unjoined node (DESIGN §4): it waits with a secret on its disk, serves a certificate that proves nothing, and
//! answers two verbs. Proofs bind the secret to the TLS connection, so that neither side speaks to a third one.
//!
//! The node is joined once `role.json` is there, which is written last ([`STAGES`]). A crash before that leaves an
//! unjoined node with its secret still good; after it, a member.

use crate::config::Settings;
use crate::core::join::{Bond, SECRET_BYTES, SECRET_MS_MAX, Side, Tries, is_proof, proof};
use crate::error;
use crate::io::data::{self, Change, DataError};
use crate::io::files::{self, FileError};
use gantry_model::ids::{ClusterUuid, Fence, NodeUuid};
use gantry_model::role::{Role, RoleFile};
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::hello::Hello;
use gantry_proto::noded::{self as wire, JoinFinishRequest, JoinProveReply, JoinProveRequest};
use gantry_rpc::tls::{self, Identity, ca};
use gantry_rpc::{Call, Handled, Peer, Service, route};
use gantry_rt::{Tasks, clock};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Connections that have proved the secret and wait for their certificate. There is one master.
const PROVED_MAX: usize = 8;

/// Told in the hello, so that callers know what to ask for.
pub const FEATURE: &str = "unjoined";

#[derive(Debug, Clone, Copy)]
struct Secret {
    bytes: [u8; SECRET_BYTES],
    since_ms: u64,
}

/// What was proved on a connection.
#[derive(Debug, Clone)]
struct Proved {
    cluster: ClusterUuid,
    node: NodeUuid,
    name: String,
    key: String,
}

/// What a join makes durable, checked.
#[derive(Debug, Clone)]
pub struct Membership {
    /// This node's certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
    /// The cluster's CA, PEM.
    pub ca: String,
    /// The master that joined it.
    pub fence: Fence,
    /// For role.json.
    pub role: RoleFile,
}

/// One durable step of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Certificate, key, CA.
    Secrets,
    /// Records with the fence.
    Records,
    /// role.json: the node is joined.
    Role,
    /// The used secret is gone.
    Secret,
}

/// The steps in their order.
pub const STAGES: [Stage; 4] = [Stage::Secrets, Stage::Records, Stage::Role, Stage::Secret];

/// Why a join could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The records.
    #[error(transparent)]
    Data(#[from] DataError),
    /// role.json.
    #[error("can't write role.json")]
    Role(#[source] std::io::Error),
}

/// The service of an unjoined node.
pub struct Joining {
    settings: Settings,
    secret: Mutex<Secret>,
    tries: Mutex<Tries>,
    proved: Mutex<HashMap<u64, Proved>>,
    /// Held while a join is stored; true once it is.
    finishing: tokio::sync::Mutex<bool>,
    joined: CancellationToken,
    tasks: Tasks,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Values behind these locks are replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Joining {
    /// Waits with a secret, a new one unless a young one is on disk. Blocks on the disk.
    ///
    /// # Errors
    /// When the secret can't be stored.
    pub fn new(settings: Settings, tasks: Tasks) -> Result<Arc<Self>, FileError> {
        let bytes = files::join_secret(&settings.root)?;
        Ok(Arc::new(Self {
            secret: Mutex::new(Secret { bytes, since_ms: clock::millis() }),
            tries: Mutex::default(),
            proved: Mutex::default(),
            finishing: tokio::sync::Mutex::new(false),
            joined: CancellationToken::new(),
            settings,
            tasks,
        }))
    }

    /// Cancelled once this node is a member.
    #[must_use]
    pub fn joined(&self) -> &CancellationToken {
        &self.joined
    }

    /// Replaces a secret that is too old. Called from time to time, and before each proof.
    ///
    /// # Errors
    /// When the new one can't be stored.
    pub fn renew_secret(&self) -> Result<[u8; SECRET_BYTES], FileError> {
        let mut secret = lock(&self.secret);
        let now = clock::millis();
        if now.saturating_sub(secret.since_ms) >= SECRET_MS_MAX {
            *secret = Secret { bytes: files::new_join_secret(&self.settings.root)?, since_ms: now };
            lock(&self.proved).clear();
            tracing::info!("new join secret");
        }
        Ok(secret.bytes)
    }

    fn prove(&self, peer: &Peer, request: JoinProveRequest) -> Result<JoinProveReply, Fail> {
        let now = clock::millis();
        lock(&self.tries).may_try(now).map_err(error::too_many_tries)?;
        let Some(exporter) = peer.exporter else {
            return Err(Fail::new(Code::Denied, "joining needs TLS"));
        };
        if !gantry_model::names::is_host_name(&request.name) {
            return Err(Fail::new(Code::BadRequest, format!("'{}' is no host name", request.name)));
        }
        let secret = self.renew_secret().map_err(|why| error::file(&why))?;
        let bond = Bond { exporter, cluster: request.cluster, node: request.node };
        if !is_proof(&secret, Side::Master, &bond, &request.proof) {
            lock(&self.tries).wrong(now);
            tracing::warn!(peer = peer.id, "wrong join proof");
            let path = self.settings.root.join_secret();
            let text = format!("wrong join secret: it is in {} on the node", path.display());
            return Err(Fail::new(Code::Denied, text));
        }
        // Said to those only who know the secret.
        if let Some(own) = self.settings.name.as_ref().filter(|own| **own != request.name) {
            let text = format!("this node's name is '{own}' in its node.toml, not '{}'", request.name);
            return Err(Fail::new(Code::BadRequest, text));
        }
        let made = ca::make_csr().map_err(|why| Fail::new(Code::Internal, why.to_string()))?;
        let mut proved = lock(&self.proved);
        if proved.len() >= PROVED_MAX && !proved.contains_key(&peer.id) {
            return Err(Fail::new(Code::Busy, format!("{PROVED_MAX} joins are under way")));
        }
        let JoinProveRequest { cluster, node, name, .. } = request;
        proved.insert(peer.id, Proved { cluster, node, name, key: made.key });
        Ok(JoinProveReply { proof: proof(&secret, Side::Node, &bond), csr: made.csr })
    }

    async fn finish(self: &Arc<Self>, peer: &Peer, request: JoinFinishRequest) -> Result<(), Fail> {
        let Some(proved) = lock(&self.proved).get(&peer.id).cloned() else {
            return Err(Fail::new(Code::Denied, "prove the join secret on this connection first"));
        };
        let membership = check(&proved, request)?;
        let (done, answer) = oneshot::channel();
        let joining = Arc::clone(self);
        // Stored to the end, also when the caller goes away meanwhile.
        self.tasks.spawn("join", async move {
            let mut finished = joining.finishing.lock().await;
            let result = if *finished {
                Err(Fail::new(Code::Denied, "this node has just joined by another connection"))
            } else {
                joining.store(&membership, &proved.name).await
            };
            *finished |= result.is_ok();
            let joined = result.is_ok();
            let _ = done.send(result);
            if joined {
                joining.joined.cancel();
            }
        });
        answer.await.map_err(|_| error::stopping())?
    }

    async fn store(&self, membership: &Membership, name: &str) -> Result<(), Fail> {
        for stage in STAGES {
            store_stage(&self.settings, membership, stage).await.map_err(|why| {
                tracing::error!(?stage, error = %why, "can't store the join");
                Fail::new(
                    Code::Internal,
                    format!("the node can't store its membership: {why}; it is still unjoined"),
                )
            })?;
        }
        let RoleFile { node, cluster, .. } = membership.role;
        tracing::info!(%cluster, %node, name, "joined");
        Ok(())
    }

    async fn answer(self: Arc<Self>, call: Call) -> Result<Vec<u8>, Fail> {
        let known = wire::VERBS.iter().any(|(id, _)| *id == call.verb);
        if known && !call.is::<wire::JoinProve>() && !call.is::<wire::JoinFinish>() {
            return Err(Fail::new(
                Code::NotReady,
                "this node has not joined a cluster: gnt-node add it first",
            ));
        }
        let peer = Arc::clone(&call.peer);
        route!(call, {
            wire::JoinProve => |request, _call| self.prove(&peer, request),
            wire::JoinFinish => |request, _call| self.finish(&peer, request).await,
        })
    }
}

/// Whether certificate, key, CA and uuids belong together, and the role can be given.
fn check(proved: &Proved, request: JoinFinishRequest) -> Result<Membership, Fail> {
    let wrong = |why: String| Fail::new(Code::BadRequest, why);
    let JoinFinishRequest { certificate, ca, fence, role } = request;
    let identity =
        Identity::from_pem(&certificate, &proved.key, &ca).map_err(|why| wrong(why.to_string()))?;
    if (identity.cluster(), identity.node()) != (proved.cluster, proved.node) {
        let text = format!(
            "the certificate names node {} of cluster {}, proved was node {} of cluster {}",
            identity.node(),
            identity.cluster(),
            proved.node,
            proved.cluster
        );
        return Err(wrong(text));
    }
    // Building the listener's half compares key and certificate.
    tls::server_config(&identity)
        .map_err(|why| wrong(format!("the certificate is for another key: {why}")))?;
    identity
        .check_signed()
        .map_err(|why| wrong(format!("the certificate is not signed by the CA: {why}")))?;
    if role == Role::Master {
        return Err(Fail::new(Code::Denied, "a joining node can't be the master"));
    }
    let role = RoleFile { node: proved.node, cluster: proved.cluster, role, epoch: fence.epoch };
    Ok(Membership { certificate, key: proved.key.clone(), ca, fence, role })
}

/// Makes one stage of a join durable; each may be repeated.
///
/// # Errors
/// When the disk refuses.
pub async fn store_stage(
    settings: &Settings,
    membership: &Membership,
    stage: Stage,
) -> Result<(), JoinError> {
    let root = &settings.root;
    let Membership { certificate, key, ca, fence, role } = membership;
    match stage {
        Stage::Secrets => files::store_secrets(root, certificate, key, ca)?,
        Stage::Records => {
            let opened = match data::open(&root.lib(), role.cluster, role.node) {
                // Of an earlier membership: another node's floors say nothing about this one's.
                Err(DataError::Foreign { .. }) => {
                    files::set_records_aside(root)?;
                    data::open(&root.lib(), role.cluster, role.node)?
                }
                other => other?,
            };
            opened.0.put(Change::Fence(*fence)).await?;
        }
        Stage::Role => gantry_rt::files::write_role(root, role).map_err(JoinError::Role)?,
        Stage::Secret => files::remove_join_secret(root)?,
    }
    Ok(())
}

impl Service for Joining {
    fn hello(&self) -> Hello {
        let mut hello = Hello::new(wire::PROTOCOL, "gantry-noded");
        hello.features.push(FEATURE.to_owned());
        hello
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(self.answer(call))
    }

    fn gone(&self, peer: &Peer) {
        lock(&self.proved).remove(&peer.id);
    }
}
