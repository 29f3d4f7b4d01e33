//! The life of a daemon: from its first line in the log to its exit code.

use crate::admin::{Admin, MODE};
use crate::logs::{self, Filter};
use crate::ready::Readiness;
use crate::tasks::Tasks;
use crate::{JOIN_MS, clock, files};
use anyhow::Context;
use gantry_model::root::Root;
use gantry_rpc::{Limits, serve_unix, unix};
use nix::sys::signal::SigSet;
use prometheus_client::registry::Registry;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Most threads that carry a daemon's tasks.
const WORKERS_MAX: usize = 8;

/// What a daemon's `main` gets.
#[derive(Clone)]
pub struct Daemon {
    /// Its name, such as `luxid`.
    pub name: &'static str,
    /// Where its files lie.
    pub root: Root,
    /// Cancelled when the daemon shall stop: by a signal, or because a task failed.
    pub stop: CancellationToken,
    /// Its tasks.
    pub tasks: Tasks,
    /// What its health says.
    pub ready: Readiness,
    /// Its metrics, served on the admin socket.
    pub metrics: Arc<Mutex<Registry>>,
}

/// How a daemon is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name, such as `luxid`; also that of its admin socket.
    pub name: &'static str,
    /// Where its files lie.
    pub root: Root,
    /// Where its log goes; None = stderr.
    pub log_file: Option<PathBuf>,
}

/// Runs a daemon that logs to stderr; see [`run_with`].
pub fn run<F, Fut>(name: &'static str, root: Root, main: F) -> ExitCode
where
    F: FnOnce(Daemon) -> Fut,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    run_with(Options { name, root, log_file: None }, main)
}

/// Sets up logs, the admin socket and SIGTERM/SIGINT, makes the root's directories, and runs `main` on a
/// multi-threaded runtime. When `main` returns, or [`JOIN_MS`] after `stop`, the daemon stops: tasks are given
/// [`JOIN_MS`] to end, then the process should return the exit code. Thus `main` waits for `stop` in the end.
///
/// The code is a failure if `main` or a task failed. A panic anywhere is logged and aborts the process.
pub fn run_with<F, Fut>(options: Options, main: F) -> ExitCode
where
    F: FnOnce(Daemon) -> Fut,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    run_patiently(options, Duration::from_millis(JOIN_MS), main)
}

/// As [`run_with`], but `main` has `patience` after `stop`: for boot, which stops other processes first.
pub fn run_patiently<F, Fut>(options: Options, patience: Duration, main: F) -> ExitCode
where
    F: FnOnce(Daemon) -> Fut,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // Beside the other tasks: on this thread, each connection that `main` takes would wake one thread more.
    start(options, patience, builder.worker_threads(workers()), |daemon| {
        let main = AbortOnDropHandle::new(tokio::spawn(main(daemon)));
        async { main.await.context("the daemon's main task")? }
    })
}

/// Threads that carry a daemon's tasks: half as many as there are processors. Its decisions are made by one task, and every
/// further thread costs wake-ups of the others; work that blocks has threads of its own.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| processors.get().div_ceil(2)).min(WORKERS_MAX)
}

/// As [`run_patiently`], but on the calling thread alone: for vmd, which shall stay small.
pub fn run_alone<F, Fut>(options: Options, patience: Duration, main: F) -> ExitCode
where
    F: FnOnce(Daemon) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    start(options, patience, &mut tokio::runtime::Builder::new_current_thread(), main)
}

fn start<F, Fut>(
    options: Options,
    patience: Duration,
    builder: &mut tokio::runtime::Builder,
    main: F,
) -> ExitCode
where
    F: FnOnce(Daemon) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let _starts_here = clock::millis();
    // Whoever started us may have blocked signals: a daemon that inherits that could not be stopped.
    if let Err(error) = SigSet::empty().thread_set_mask() {
        eprintln!("gantry-{}: can't unblock signals: {error}", options.name);
    }
    let filter = match logs::init(options.log_file.as_deref()) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("gantry-{}: can't log: {error}", options.name);
            return ExitCode::FAILURE;
        }
    };
    abort_on_panic();
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "can't start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(life(options, patience, filter, main));
    // What still blocks a thread is left behind: the process ends.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "daemon failed");
            ExitCode::FAILURE
        }
    }
}

async fn life<F, Fut>(options: Options, patience: Duration, filter: Filter, main: F) -> anyhow::Result<()>
where
    F: FnOnce(Daemon) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let Options { name, root, log_file: _ } = options;
    let stop = CancellationToken::new();
    let daemon = Daemon {
        name,
        tasks: Tasks::new(stop.clone()),
        stop: stop.clone(),
        ready: Readiness::default(),
        metrics: Arc::new(Mutex::new(Registry::with_prefix("gantry"))),
        root,
    };
    files::make_dirs(&daemon.root).context("can't make the directories of the root")?;
    watch_signals(&daemon)?;
    serve_admin(&daemon, filter)?;
    tracing::info!(daemon = name, pid = std::process::id(), root = %daemon.root.path().display(), "begins");
    let ended = bounded(main(daemon.clone()), &stop, patience).await;
    daemon.ready.set(false, "stopping");
    stop.cancel();
    if !daemon.tasks.join(Duration::from_millis(JOIN_MS)).await {
        tracing::warn!("tasks did not end in time");
    }
    let _ = std::fs::remove_file(daemon.root.admin_socket(name));
    ended?;
    if daemon.tasks.failed() {
        anyhow::bail!("a task failed");
    }
    tracing::info!(daemon = name, "ends");
    Ok(())
}

/// `main`, dropped if it has not ended `patience` after `stop`.
async fn bounded<Fut>(main: Fut, stop: &CancellationToken, patience: Duration) -> anyhow::Result<()>
where
    Fut: Future<Output = anyhow::Result<()>>,
{
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(patience).await;
    };
    tokio::select! {
        ended = main => ended,
        () = late => anyhow::bail!("main did not end in time"),
    }
}

fn watch_signals(daemon: &Daemon) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate()).context("can't watch SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("can't watch SIGINT")?;
    let stop = daemon.stop.clone();
    daemon.tasks.spawn("signals", async move {
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: stops"),
            _ = int.recv() => tracing::info!("SIGINT: stops"),
            () = stop.cancelled() => {}
        }
        stop.cancel();
    });
    Ok(())
}

fn serve_admin(daemon: &Daemon, filter: Filter) -> anyhow::Result<()> {
    let path = daemon.root.admin_socket(daemon.name);
    let listener = unix::bind(&path, MODE)
        .with_context(|| format!("can't listen on {} (does another run?)", path.display()))?;
    let admin = Admin {
        name: daemon.name,
        ready: daemon.ready.clone(),
        metrics: Arc::clone(&daemon.metrics),
        filter,
    };
    let serve = serve_unix(listener, Arc::new(admin), Limits::default(), daemon.stop.clone());
    daemon.tasks.spawn("admin", serve);
    Ok(())
}

/// A panic is a bug, and what it left behind is not to be trusted: the log gets a line, boot a new start.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(panic = %info, %backtrace, "panicked");
        std::process::abort();
    }));
}
