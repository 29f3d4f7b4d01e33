//! LuxiD: the one LUXI server and the owner of the job queue (DESIGN §6).
//!
//! It stores jobs durably, schedules them, starts one process per job and learns of its end; it answers
//! queries from its copy of the configuration. It takes no lock and changes no configuration: wconfd
//! does, asked by the jobs.
//!
//! [`serve`] is the whole daemon in the order of P4.7: recover the log, adopt or bury what ran, tell wconfd the
//! owners, then serve.

pub mod api;
pub mod config;
pub mod core;
pub mod error;
pub mod io;

use crate::api::Api;
use crate::core::queue::{Event, Ids, Me, Queue, Rules, StoredRow};
use crate::io::actor::{Actor, Setting, inbox};
use crate::io::blob::{self, Store};
use crate::io::desk::Office;
use crate::io::leases::Leases;
use crate::io::luxi_server::{self, Server};
use crate::io::members::Copies;
use crate::io::metrics::{self, Numbers};
use crate::io::nodes::Nodes;
use crate::io::proof::Proof;
use crate::io::spawn::Program;
use crate::io::spool;
use crate::io::stream::{self, Parts, StreamApi};
use crate::io::view::View;
use crate::io::wconfd::{Gone, Keeper};
use anyhow::Context;
use error::LuxidError;
use gantry_copies::link::TlsLink;
use gantry_copies::peers::Peers;
use gantry_model::ids::Fence;
use gantry_model::role::{Role, RoleFile};
use gantry_model::root::Root;
use gantry_proto::hello::Hello;
use gantry_rt::{Daemon, clock, files};
use gantry_store::{LogKind, StartOptions, Started, Writer};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Log file of all job processes, in the log directory: what they say when something is broken.
const JOB_LOG: &str = "job.log";

/// Runs luxid until it is told to stop. `job_program` executes jobs.
///
/// # Errors
/// What makes luxid unable to go on; boot starts it anew.
pub async fn serve(daemon: Daemon, job_program: PathBuf) -> anyhow::Result<()> {
    let root = daemon.root.clone();
    let role = role(&root)?;
    daemon.ready.set(false, "recovering the queue");
    let (started, copies) = recover(&daemon, &role).await?;
    let me = Me { epoch: started.term.epoch, run: started.term.run };
    let rows =
        started.objects.iter().map(|o| StoredRow { kind: &o.kind, key: &o.key, rev: o.rev, body: &o.body });
    let (mut queue, loaded) =
        Queue::load(me, Rules::ALL, Box::new(RandomIds), clock::now(), rows).map_err(LuxidError::Load)?;
    drop(started.objects);
    // The other half is for tasks that are not over, images, and all else.
    match gantry_body::room::size(&root.lib()).context("can't see the disk's size")? {
        0 => tracing::info!("the disk does not tell its size"),
        size => queue.bound_bodies(size / 2),
    }

    let hello = |protocol: &str| Hello {
        cluster: Some(role.cluster),
        epoch: Some(me.epoch),
        run: Some(me.run),
        ..Hello::new(protocol, "gantry-luxid")
    };
    let (inbox, mailbox) = inbox(&started.writer);
    let (view, gone, numbers) = (View::default(), Gone::default(), Numbers::default());
    let office = Arc::new(Office {
        program: Program {
            path: job_program,
            root: root.clone(),
            cluster: role.cluster,
            log: job_log(&root)?,
            nursery: Mutex::default(),
        },
        hello: hello(gantry_proto::job::PROTOCOL),
        inbox: inbox.clone(),
        stop: daemon.stop.clone(),
    });
    let owners = queue.owners();
    let fence = Fence { epoch: me.epoch, ballot: started.ballot };
    let (keeper, mut config) =
        Keeper::new(&root, hello(gantry_proto::wconfd::PROTOCOL), inbox.clone(), gone.clone());
    let nodes = || Nodes::new(root.clone(), hello(gantry_proto::noded::PROTOCOL));
    let proof = Proof::new(nodes(), fence);
    let (tasks, stop) = (daemon.tasks.clone(), daemon.stop.clone());
    let leases = Leases::new(config.clone(), proof, inbox.clone(), view.grabs().clone(), tasks, stop);
    let setting = Setting {
        leases,
        writer: started.writer.clone(),
        view: view.clone(),
        office,
        gone,
        tasks: daemon.tasks.clone(),
        numbers: numbers.clone(),
        master: role.node,
        fence,
    };
    let registry = Arc::clone(&daemon.metrics);
    {
        let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
        metrics::register(&mut registry, numbers, view.clone(), started.writer.clone());
        copies.register(&mut registry);
    }

    let store = tokio::task::block_in_place(|| Store::open(&root)).context("can't open the body store")?;
    daemon.ready.set(false, "looking for the jobs of an earlier luxid");
    tidy(&root, owners).await.context("can't look through spool files and job sockets")?;
    let mut actor = Actor::new(queue, setting, mailbox);
    let (settled, mut settling) = mpsc::channel(1);
    actor.begin(loaded, settled)?;
    daemon.tasks.spawn("queue", actor.run());
    copies.name_bodies(view.clone());
    daemon.tasks.spawn("copies", copies.clone().deposed(daemon.stop.clone()));
    // Nothing is ever sent: it ends when every start of an earlier luxid is known to live or to be dead.
    settling.recv().await;

    daemon.ready.set(false, "waiting for wconfd");
    daemon.tasks.spawn("wconfd", keeper.run(daemon.stop.clone()));
    tokio::select! {
        () = config.first_state() => {}
        () = daemon.stop.cancelled() => return Ok(()),
    }
    inbox.event(Event::Open).await;
    daemon.tasks.spawn("members", copies.clone().follow(config.clone(), daemon.stop.clone()));

    let parts =
        Parts { store: store.clone(), view: view.clone(), config: config.clone(), nodes: nodes(), fence };
    serve_streams(&daemon, &hello(gantry_proto::stream::PROTOCOL), parts, started.writer.clone())?;
    let server = Server::new(Api { inbox, view, config, nodes: nodes(), store, copies });
    let listener = listen(&root).context("can't listen on luxi.sock")?;
    daemon.tasks.spawn("luxi", server.serve(listener, daemon.tasks.clone(), daemon.stop.clone()));
    daemon.ready.set(true, "");
    daemon.stop.cancelled().await;
    tokio::task::block_in_place(|| started.writer.stop());
    Ok(())
}

/// Serves `stream.sock`, and keeps the body store tidy.
fn serve_streams(daemon: &Daemon, hello: &Hello, parts: Parts, writer: Writer) -> anyhow::Result<()> {
    let listener = stream::listen(&daemon.root).context("can't listen on stream.sock")?;
    for_admins(&daemon.root.socket(stream::SOCKET));
    let (store, view, config) = (parts.store.clone(), parts.view.clone(), parts.config.clone());
    daemon.tasks.spawn("sweep", blob::sweep::run(store, view, config, writer, daemon.stop.clone()));
    let api = StreamApi::new(&daemon.root, hello, parts);
    daemon.tasks.spawn("stream", api.serve(listener, daemon.stop.clone()));
    Ok(())
}

/// Random ids.
#[derive(Debug)]
struct RandomIds;

impl Ids for RandomIds {
    fn fresh(&mut self) -> [u8; 16] {
        uuid::Uuid::new_v4().into_bytes()
    }
}

/// This node's role, which must be master.
fn role(root: &Root) -> anyhow::Result<RoleFile> {
    let role = files::read_role(root).context("can't read role.json")?;
    let refuse = |why: String| LuxidError::NotMaster { why };
    let role = role.ok_or_else(|| refuse("it has no role".to_owned()))?;
    if role.role != Role::Master {
        return Err(refuse(format!("its role is {:?} of epoch {}", role.role, role.epoch)).into());
    }
    Ok(role)
}

/// Recovers Q with its other copies, in the epoch of the role.
async fn recover(daemon: &Daemon, role: &RoleFile) -> anyhow::Result<(Started, Copies)> {
    let root = &daemon.root;
    let options = StartOptions { cluster: Some(role.cluster.0), ..StartOptions::new(LogKind::Q) };
    let peers = Peers::of_dir(&root.lib());
    let link = Arc::new(TlsLink::of_dir(root.secrets(), role.cluster, "gantry-luxid", peers));
    let stop = daemon.stop.clone();
    let start =
        gantry_copies::Start { root: root.clone(), options, node: role.node, epoch: role.epoch, link, stop };
    let ready = daemon.ready.clone();
    let say = move |text: &str| ready.set(false, text);
    let (started, handle) = gantry_copies::start(start, say).await.map_err(LuxidError::Copies)?;
    let (won, epoch) = (started.term.epoch, role.epoch);
    if won != epoch {
        let why = format!("its role is of epoch {epoch}, its queue was won for epoch {won}");
        return Err(LuxidError::NotMaster { why }.into());
    }
    let me = started.members.iter().find(|member| member.node == role.node.0).copied();
    let me = me.context("the newest list of queue.data does not name this node")?;
    let asks = TlsLink::of_dir(root.secrets(), role.cluster, "gantry-luxid", Peers::of_dir(&root.lib()));
    let copies = Copies::new(started.writer.clone(), handle, me, asks);
    Ok((started, copies))
}

fn job_log(root: &Root) -> anyhow::Result<std::fs::File> {
    let path = root.log().join(JOB_LOG);
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("can't open {}", path.display()))
}

/// Deals with spool files and sockets of starts that are not current.
async fn tidy(root: &Root, current: Vec<gantry_model::ids::JobOwner>) -> std::io::Result<()> {
    for owner in spool::leftovers(root, &current.into_iter().collect())? {
        spool::discard(root, owner).await;
    }
    Ok(())
}

/// Listens on `luxi.sock`; with `compat.ganeti_paths` Ganeti's clients find it under its name there too.
fn listen(root: &Root) -> anyhow::Result<tokio::net::UnixListener> {
    let path = root.socket("luxi.sock");
    let listener = gantry_rpc::unix::bind(&path, luxi_server::MODE)?;
    for_admins(&path);
    match gantry_rt::node_toml::load(root) {
        Ok(node) if node.compat.ganeti_paths => {
            ganeti_path(root, &path).context("can't make Ganeti's socket path")?
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "no compat paths: node.toml can't be read"),
    }
    Ok(listener)
}

/// Gives a socket to the group of administrators, if there is one.
fn for_admins(path: &Path) {
    if let Ok(Some(group)) = nix::unistd::Group::from_name("gantry-admin")
        && let Err(error) = std::os::unix::fs::chown(path, None, Some(group.gid.as_raw()))
    {
        tracing::warn!(%error, path = %path.display(), "can't give a socket to the group gantry-admin");
    }
}

fn ganeti_path(root: &Root, socket: &Path) -> std::io::Result<()> {
    let dir = root.path().join("var/run/ganeti/socket");
    std::fs::create_dir_all(&dir)?;
    let link = dir.join("ganeti-query");
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(std::path::absolute(socket)?, link)
}
