//! The copies of the two logs on this node, on the master too (docs/adr/0008): the server's half of what `lib/copies`
//! sends. It owns the files of the logs beside a writer, bodies that rows name, and `role.json`; it decides nothing that
//! the store's core decides, and a ballot never touches the fence of the node's VMs.
//!
//! | room | what |
//! |---|---|
//! | `log` | a thread a log |
//! | `verbs` | what each verb does on it |
//! | `bodies`, `snapshot` | bytes that come in pieces |
//! | `role` | who runs here |
//! | `office` | elected, stepping down, deposed, alone |
//! | `aside` | which rows were put aside |
//! | `sweep` | what nobody needs any more, and what is damaged |

mod aside;
pub mod bodies;
mod log;
mod office;
pub mod role;
mod snapshot;
mod sweep;
mod verbs;

use bodies::Bodies;
use gantry_copies::wire;
use gantry_model::ids::NodeUuid;
use gantry_model::root::Root;
use gantry_proto::copies::Log;
use gantry_proto::envelope::{Code, Fail};
use gantry_store::LogKind;
use log::LogThread;
use role::Roles;
use std::io;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// All copies of one node. Clones share them.
#[derive(Clone)]
pub struct Copies {
    node: NodeUuid,
    lib: PathBuf,
    roles: Roles,
    bodies: Bodies,
    w: LogThread,
    q: LogThread,
}

/// Runs blocking file work beside the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fail> + Send + 'static,
) -> Result<T, Fail> {
    tokio::task::spawn_blocking(work).await.map_err(|_| crate::error::stopping())?
}

impl Copies {
    /// Those below `root`. Opens none yet: [`Copies::settle`] does, and every verb.
    ///
    /// # Errors
    /// The disk's.
    pub fn new(root: Root, roles: Roles) -> io::Result<Self> {
        let bodies = Bodies::open(&root)?;
        let thread = |log| LogThread::new(log, root.clone(), bodies.clone());
        let (w, q) = (thread(LogKind::W), thread(LogKind::Q));
        Ok(Self { node: roles.current().node, lib: root.lib(), roles, bodies, w, q })
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeUuid {
        self.node
    }

    /// Its role.
    #[must_use]
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    fn of(&self, log: Log) -> &LogThread {
        match wire::log_kind(log) {
            LogKind::W => &self.w,
            LogKind::Q => &self.q,
        }
    }

    /// Opens what is there, which carries on what a crash left half done, and deposes a master whose copies have
    /// promised a higher epoch than its role's. What can't be opened is told, and tried again by each verb.
    pub async fn settle(&self) {
        for log in [Log::W, Log::Q] {
            match self.facts(log).await {
                Ok(Some(facts)) => {
                    if let Err(why) = self.heard(facts.promised.epoch).await {
                        tracing::error!(%why, "can't write role.json");
                    }
                }
                Ok(None) => {}
                Err(why) => tracing::error!(?log, %why, "can't open this node's copy"),
            }
        }
    }

    /// Removes what nobody needs, and looks for what is damaged, until `stop`.
    pub async fn keep_tidy(self, stop: CancellationToken) {
        sweep::run(self, stop).await;
    }

    /// Closes the files, until the next verb.
    pub async fn close(&self) {
        for thread in [&self.w, &self.q] {
            let closed = thread.run(|seat| {
                seat.close();
                Ok(())
            });
            if let Err(why) = closed.await {
                tracing::warn!(%why, "a copy is not closed");
            }
        }
    }

    /// Somebody holds this epoch here.
    pub(super) async fn heard(&self, epoch: u64) -> Result<(), Fail> {
        let roles = self.roles.clone();
        if roles.master().is_none_or(|ours| ours >= epoch) {
            return Ok(());
        }
        blocking(move || roles.depose(epoch)).await
    }
}

fn bad(text: impl Into<String>) -> Fail {
    Fail::new(Code::BadRequest, text)
}
