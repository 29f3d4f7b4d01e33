//! The daemon: recovers the log, then serves.

use crate::api::{Api, Identity};
use crate::core::config::{Config, Object};
use crate::io::claim::{self, Caller};
use crate::io::mailbox;
use crate::io::owner::{Owner, Start};
use crate::io::owner_locks::restore;
use crate::io::ssconf::{self, Values};
use anyhow::{Context as _, bail, ensure};
use gantry_model::ids::Fence;
use gantry_model::role::{Role, RoleFile};
use gantry_rpc::{Limits, serve_unix, tls, unix};
use gantry_rt::{Daemon, clock, files};
use gantry_store::{LogKind, StartOptions, Started, start};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// Mode of the socket: our own user only.
const SOCKET_MODE: u32 = 0o600;

/// What was recovered.
struct Recovered {
    started: Started,
    config: Config,
}

/// Recovers W and loads it. Blocks.
fn recover(dir: &Path, role: &RoleFile) -> anyhow::Result<Recovered> {
    let options = StartOptions { cluster: Some(role.cluster.0), ..StartOptions::new(LogKind::W) };
    let mut started = start(dir, options).context("recovering the configuration log")?;
    let objects = std::mem::take(&mut started.objects).into_iter();
    let objects = objects.map(|object| Object {
        kind: object.kind,
        key: object.key,
        rev: object.rev,
        body: object.body,
    });
    let config = Config::load(objects).context("loading the configuration")?;
    Ok(Recovered { started, config })
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When this node is no master, the log can't be recovered or the socket can't be bound.
pub async fn serve(daemon: Daemon) -> anyhow::Result<()> {
    let role = files::read_role(&daemon.root).context("reading role.json")?;
    let Some(role) = role else { bail!("this node belongs to no cluster: there is no role.json") };
    ensure!(role.role == Role::Master, "this node is not the master");
    daemon.ready.set(false, "recovering the log");
    let dir = daemon.root.lib();
    let recovered = tokio::task::spawn_blocking({
        let dir = dir.clone();
        move || recover(&dir, &role)
    });
    let Recovered { started, config } = recovered.await??;
    ensure!(config.cluster().master_node == role.node, "the configuration names another node as master");
    let fence = Fence { epoch: started.term.epoch, ballot: started.ballot };
    let locks = restore(&started.local)?;
    tracing::info!(
        epoch = started.term.epoch,
        run = started.term.run,
        index = started.committed.0,
        nodes = config.nodes().count(),
        ms = clock::millis(),
        "recovered"
    );
    let begin = Start { config, locks, writer: started.writer, committed: started.committed };
    let (owner, ssconf_news) = Owner::new(begin);
    let targets = owner.targets();
    let (handle, inbox) = mailbox::pair();
    // The owner ends last: it stops on its own once nobody asks it any more.
    daemon.tasks.spawn("owner", owner.run(inbox, daemon.stop.clone()));
    let (values, values_news) = watch::channel(Arc::new(Values::default()));
    daemon.tasks.spawn("ssconf", ssconf::follow(handle.clone(), ssconf_news, values, daemon.stop.clone()));
    let caller = Caller {
        handle: handle.clone(),
        cluster: role.cluster,
        fence,
        identity: Arc::new(tls::Identity::load(&daemon.root.secrets()).context("loading the certificate")?),
        values: values_news,
        tasks: daemon.tasks.clone(),
    };
    daemon.tasks.spawn("claims", claim::supervise(caller, targets, daemon.stop.clone()));
    let identity = Identity {
        cluster: role.cluster,
        node: role.node,
        fence,
        run: started.term.run,
        history: started.history,
    };
    let api = Arc::new(Api::new(handle, identity, dir, daemon.root.secrets()));
    let listener =
        unix::bind(&daemon.root.socket("wconfd.sock"), SOCKET_MODE).context("binding wconfd.sock")?;
    daemon.ready.set(true, "");
    serve_unix(listener, api, Limits::default(), daemon.stop.clone()).await;
    Ok(())
}
