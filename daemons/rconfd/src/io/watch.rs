//! Follows the files: reads the configuration and the keys again when they change, and publishes what is served.

use super::keys;
use super::load::{Loader, Look};
use super::shared::{Serving, Shared};
use crate::core::keep::Keep;
use crate::core::options::Options;
use crate::core::pace::Pace;
use crate::core::snapshot::Snapshot;
use crate::error::StartError;
use anyhow::Context;
use gantry_model::root::Root;
use gantry_rt::{Readiness, clock};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it is noticed that the daemon shall stop, ms.
const STOP_MS: u64 = 200;
/// What is written at each commit.
const WRITTEN: [&str; 2] = ["config.data-wal", "locks.data-wal"];

/// Follows until `stop`.
pub struct Watch {
    root: Root,
    shared: Arc<Shared>,
    ready: Readiness,
    stop: CancellationToken,
    inotify: Inotify,
    loader: Loader,
    keep: Keep,
    /// The last configuration there was, why there is no newer one, and whether it is too old to be served.
    snapshot: Option<Arc<Snapshot>>,
    bad: Option<String>,
    over: bool,
    /// What the key files held; None = there was no key.
    files: Option<keys::Files>,
    /// Why there is none, once it was said.
    no_key: Option<String>,
    /// Nobody is answered for a while, and it was said.
    silent: bool,
}

impl Watch {
    /// Begins to watch the copy of a root.
    ///
    /// # Errors
    /// The system has no watch left.
    pub fn new(
        root: Root,
        shared: Arc<Shared>,
        ready: Readiness,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let dir = root.lib();
        let begin = || {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            // Names that come and go; what is written into files that are there is watched by file, since the queue is
            // written into hundreds of times a second.
            let names = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE;
            inotify.add_watch(&dir, names)?;
            Ok(inotify)
        };
        let inotify = begin().map_err(|errno: nix::Error| StartError::Watch {
            dir: dir.display().to_string(),
            source: io::Error::from(errno),
        })?;
        let loader = Loader::new(&dir);
        let (keep, snapshot, bad, files, no_key) = (Keep::default(), None, None, None, None);
        Ok(Self {
            root,
            shared,
            ready,
            stop,
            inotify,
            loader,
            keep,
            snapshot,
            bad,
            over: false,
            files,
            no_key,
            silent: false,
        })
    }

    /// Looks for the first time; whether anything is there or not.
    pub fn first(&mut self) {
        self.look();
    }

    /// Follows until it shall stop. Blocks.
    ///
    /// # Errors
    /// The watch broke.
    pub fn run(mut self) -> anyhow::Result<()> {
        let mut pace = Pace::new(clock::millis());
        // What was written since the first look has made no event.
        pace.event(clock::millis());
        let mut written = true;
        while !self.stop.is_cancelled() {
            let now = clock::millis();
            let due = pace.due().min(self.end());
            if due <= now {
                // What came since the last wait may be a commit that this look is too early for: another follows.
                written |= self.forget_events().context("the watch of the copy broke")?;
                self.look();
                pace.looked(clock::millis(), std::mem::take(&mut written));
                continue;
            }
            let pause = (due - now).min(STOP_MS);
            if written {
                // A look is due already: further writes, of which there may be hundreds, need not wake this.
                std::thread::sleep(Duration::from_millis(pause));
            } else if self.wait(pause).context("the watch of the copy broke")? {
                written = true;
                pace.event(clock::millis());
            }
        }
        Ok(())
    }

    /// When the health must say that what was served is too old, if it comes to that.
    fn end(&self) -> u64 {
        let ends = self.bad.is_some() && self.snapshot.is_some() && !self.over;
        if ends { self.keep.until() } else { u64::MAX }
    }

    /// Waits for an event; whether there was one.
    fn wait(&self, ms: u64) -> nix::Result<bool> {
        let mut fds = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) | Err(nix::Error::EINTR) => return Ok(false),
            Ok(_) => {}
            Err(why) => return Err(why),
        }
        self.forget_events()
    }

    /// Takes the events that are there; whether there were any.
    fn forget_events(&self) -> nix::Result<bool> {
        match self.inotify.read_events() {
            Ok(events) => Ok(!events.is_empty()),
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(false),
            Err(why) => Err(why),
        }
    }

    fn look(&mut self) {
        for name in WRITTEN {
            // Made anew when the last that had it open is gone; watching it twice is watching it once.
            let _ = self.inotify.add_watch(&self.root.lib().join(name), AddWatchFlags::IN_MODIFY);
        }
        let no_key = self.no_key.clone();
        let keys = self.look_at_keys();
        let config = self.look_at_config();
        let over = !self.keep.may_serve(clock::millis());
        let aged = std::mem::replace(&mut self.over, over) != over;
        let changed = keys.is_some() || config || aged || no_key != self.no_key;
        let old = self.shared.serving();
        let silent_s = self.look_at_clock();
        let clock_news = silent_s > 0 || self.silent;
        self.silent = silent_s > 0;
        if !changed && !clock_news {
            return;
        }
        let options = match &self.snapshot {
            Some(snapshot) => snapshot.options(),
            None => Options::spoken(self.digest().as_deref()),
        };
        let nodes = self.snapshot.iter().flat_map(|snapshot| snapshot.nodes.values());
        let nodes = nodes.filter_map(|node| node.primary_ip.parse::<IpAddr>().ok()).collect();
        let keys = keys.unwrap_or_else(|| Arc::clone(&old.keys));
        let why = match (self.snapshot.as_ref().filter(|_| !over), &self.bad, keys.is_empty()) {
            (_, _, true) => {
                format!("answers nobody: {}", self.no_key.as_deref().unwrap_or("no key was read"))
            }
            _ if silent_s > 0 => {
                format!(
                    "answers nobody for {silent_s} s: requests of that time may have been answered before (the clock was set \
                     back, or more was asked than replay_entries remembers)"
                )
            }
            (Some(_), None, false) => String::new(),
            (Some(_), Some(why), false) => format!("serves the last good configuration: {why}"),
            (None, why, false) => {
                let why = why.as_deref().unwrap_or("not read yet");
                format!("answers that there is no configuration: {why}")
            }
        };
        self.ready.set(true, why);
        let snapshot = self.snapshot.clone();
        self.shared.serve(Serving { snapshot, options, keys, nodes: Arc::new(nodes) });
    }

    /// How long nobody will be answered because requests of that time may have been, seconds.
    fn look_at_clock(&self) -> u64 {
        let gate = self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let silent_s = gate.silent_s(clock::now().0);
        if silent_s > 0 && !self.silent {
            tracing::warn!(
                silent_s,
                "nobody is answered: the clock was set back, or more was asked than is remembered"
            );
        }
        silent_s
    }

    /// The form that is spoken while there is no configuration.
    fn digest(&self) -> Option<String> {
        let text = fs::read_to_string(self.root.ssconf("confd_digest")).ok()?;
        Some(text.trim().to_owned())
    }

    /// The keys, if they are others now.
    fn look_at_keys(&mut self) -> Option<Arc<Vec<gantry_confd::Keys>>> {
        let (files, keys) = match keys::read(&self.root) {
            Ok((files, keys)) => (Some(files), keys),
            Err(why) => {
                let why = format!("{:#}", anyhow::Error::from(why));
                if self.no_key.as_ref() != Some(&why) {
                    tracing::warn!(error = why, "answers nobody");
                    self.no_key = Some(why);
                }
                (None, Vec::new())
            }
        };
        if files.is_some() {
            self.no_key = None;
        }
        if files == self.files {
            return None;
        }
        match files.as_ref().map(Vec::len) {
            Some(1) => tracing::info!("one key counts"),
            Some(_) => tracing::info!(
                seconds = keys::OLD_KEY_S,
                "hmac.key was renewed; the old one counts for a while"
            ),
            None => {}
        }
        self.files = files;
        Some(Arc::new(keys))
    }

    /// Whether the configuration, or what is known of it, is another now.
    fn look_at_config(&mut self) -> bool {
        let counts = &self.shared.counts;
        let began = clock::millis();
        match self.loader.look() {
            Ok(look) => {
                self.keep.good(began);
                self.shared.good_until(self.keep.until());
                let healed = self.bad.take().is_some();
                match look {
                    Look::Same => return healed,
                    Look::Whole(snapshot) => {
                        counts.loads.fetch_add(1, Ordering::Relaxed);
                        let (serial, instances) = (snapshot.config_serial(), snapshot.instances.len());
                        tracing::info!(index = snapshot.index, serial, instances, "read the configuration");
                        self.snapshot = Some(snapshot);
                    }
                    Look::Changes(snapshot, changes) => {
                        counts.follows.fetch_add(1, Ordering::Relaxed);
                        tracing::debug!(index = snapshot.index, changes, "read what changed");
                        self.snapshot = Some(snapshot);
                    }
                }
                true
            }
            Err(why) => {
                let why = format!("{:#}", anyhow::Error::from(why));
                if self.keep.bad() {
                    tracing::warn!(error = why, "no new configuration");
                }
                let news = self.bad.as_ref() != Some(&why);
                self.bad = Some(why);
                news
            }
        }
    }
}
