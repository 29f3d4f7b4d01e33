//! The daemon: recovers the log, then serves.

use crate::api::{Api, Identity};
use crate::core::config::{Config, Object};
use crate::io::claim::{self, Caller};
use crate::io::effects::Keeper;
use crate::io::mailbox;
use crate::io::members::{self, Members};
use crate::io::owner::{Owner, Start};
use crate::io::owner_locks::restore;
use crate::io::ssconf::{self, Values};
use anyhow::{Context as _, bail, ensure};
use gantry_copies::CopiesHandle;
use gantry_copies::link::TlsLink;
use gantry_copies::peers::Peers;
use gantry_model::ids::Fence;
use gantry_model::role::{Role, RoleFile};
use gantry_rpc::{Limits, serve_unix, tls, unix};
use gantry_rt::{Daemon, clock, files};
use gantry_store::{LogKind, Member, StartOptions, Started};
use std::sync::{Arc, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Mode of the socket: our own user only.
const SOCKET_MODE: u32 = 0o600;

/// What was recovered.
struct Recovered {
    started: Started,
    copies: CopiesHandle<TlsLink>,
    config: Config,
}

/// Recovers W with its other copies and loads it.
async fn recover(daemon: &Daemon, role: &RoleFile, link: &Arc<TlsLink>) -> anyhow::Result<Recovered> {
    let options = StartOptions { cluster: Some(role.cluster.0), ..StartOptions::new(LogKind::W) };
    let start = gantry_copies::Start {
        root: daemon.root.clone(),
        options,
        node: role.node,
        epoch: role.epoch,
        link: Arc::clone(link),
        stop: daemon.stop.clone(),
    };
    let ready = daemon.ready.clone();
    let say = move |text: &str| ready.set(false, text);
    let (mut started, copies) =
        gantry_copies::start(start, say).await.context("recovering the configuration log")?;
    ensure!(
        started.term.epoch == role.epoch,
        "the log was won for epoch {}, but this node's role is of epoch {}",
        started.term.epoch,
        role.epoch
    );
    let objects = std::mem::take(&mut started.objects).into_iter();
    let objects = objects.map(|object| Object {
        kind: object.kind,
        key: object.key,
        rev: object.rev,
        body: object.body,
    });
    let config = Config::load(objects).context("loading the configuration")?;
    Ok(Recovered { started, copies, config })
}

/// The id of this node's copy, which the newest list names.
fn own_copy(started: &Started, role: &RoleFile) -> anyhow::Result<Uuid> {
    let own = started.members.iter().find(|member| member.node == role.node.0);
    own.map(|member| member.copy_id).context("the newest list does not name this node")
}

/// Ends the daemon when a copy knows a newer master (P1.9).
async fn deposed(copies: CopiesHandle<TlsLink>, stop: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        why = copies.deposed() => Err(why).context("this node is no longer the master"),
        () = stop.cancelled() => Ok(()),
    }
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
    // Said at once when it is no use; then it is read for each new connection, so that a renewed one is taken.
    tls::Identity::load(&daemon.root.secrets()).context("loading the certificate")?;
    let link = || {
        let peers = Peers::of_dir(&dir);
        TlsLink::of_dir(daemon.root.secrets(), role.cluster, "gantry-wconfd", peers)
    };
    let asks = link();
    let link = Arc::new(link());
    let Recovered { started, copies, config } = recover(&daemon, &role, &link).await?;
    let Some(me) = config.node(role.node) else { bail!("the configuration does not know this node") };
    let my_name = me.name.clone();
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
    let me = Member { node: role.node.0, copy_id: own_copy(&started, &role)? };
    let writer = started.writer.clone();
    let begin = Start { config, locks, writer: started.writer, committed: started.committed };
    let (mut owner, ssconf_news) = Owner::new(begin);
    let before =
        owner.take_over(role.node).map_err(|why| anyhow::anyhow!("naming this node as the master: {why}"))?;
    let config_news = ssconf_news.clone();
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
        secrets: daemon.root.secrets(),
        values: values_news,
        tasks: daemon.tasks.clone(),
    };
    daemon.tasks.spawn("claims", claim::supervise(caller, targets, daemon.stop.clone()));
    let named = handle.clone();
    copies.set_named(Arc::new(move || {
        let handle = named.clone();
        Box::pin(async move {
            handle.ask(|owner: &mut Owner, reply| owner.image_digests(reply)).await.unwrap_or_default()
        })
    }));
    let name = my_name.clone();
    let parts =
        members::Parts { handle: handle.clone(), writer, copies: copies.clone(), link: asks, me, my_name };
    let members = Members::new(parts);
    daemon.tasks.spawn("members", members.clone().settle(daemon.stop.clone()));
    let keeper = Keeper {
        handle: handle.clone(),
        members: members.clone(),
        root: daemon.root.clone(),
        cluster: role.cluster,
        node: role.node,
        fence,
        name,
        before,
    };
    daemon.tasks.spawn("effects", keeper.keep(config_news, daemon.stop.clone()));
    {
        let mut registry = daemon.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        gantry_copies::metrics::register(&mut registry, "wconfd", copies.clone());
    }
    daemon.tasks.spawn("copies", deposed(copies, daemon.stop.clone()));
    let identity = Identity {
        cluster: role.cluster,
        node: role.node,
        fence,
        run: started.term.run,
        history: started.history,
    };
    let api = Arc::new(Api::new(handle, members, identity, dir, daemon.root.secrets()));
    let listener =
        unix::bind(&daemon.root.socket("wconfd.sock"), SOCKET_MODE).context("binding wconfd.sock")?;
    daemon.ready.set(true, "");
    serve_unix(listener, api, Limits::default(), daemon.stop.clone()).await;
    Ok(())
}
