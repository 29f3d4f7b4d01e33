//! Where each collector reads, and what those remember that look at a span of time.

use crate::core::board::Millis;
use crate::core::catalogue::{Index, specs};
use crate::core::collect::containers::{self, History};
use crate::core::collect::daemons::Watch;
use crate::core::collect::load::{Load, busy};
use crate::core::collect::node::View;
use crate::core::collect::resources::{FileSystem, Texts};
use crate::core::collect::{diskstats, drbd, instances, lv, resources, slots};
use crate::core::report::Gathered;
use crate::io::cluster::Told;
use crate::io::daemons::{self, Units};
use crate::io::{lvs, node};
use gantry_model::root::Root;
use gantry_rt::clock;
use gantry_rt::files::read_role;
use nix::unistd::{SysconfVar, sysconf};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// A view of the node that is younger serves the next collector too, ms: half a dozen look at the same time.
const VIEW_MS: Millis = 1_000;

/// Where things are.
#[derive(Debug, Clone)]
pub struct Places {
    /// The node's files.
    pub root: Root,
    /// `/proc`.
    pub proc: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// The program that lists logical volumes.
    pub lvs: PathBuf,
    /// What the kernel counts in.
    pub units: Units,
}

impl Places {
    /// Of this machine.
    #[must_use]
    pub fn of_machine(root: Root) -> Self {
        // Both are fixed on every Linux of today, and asked for all the same.
        let ask = |which, usual: u64| match sysconf(which) {
            Ok(Some(value)) => u64::try_from(value).unwrap_or(usual),
            Ok(None) | Err(_) => usual,
        };
        let units = Units {
            ticks_per_s: ask(SysconfVar::CLK_TCK, 100),
            page_bytes: ask(SysconfVar::PAGE_SIZE, 4096),
        };
        Self { root, proc: "/proc".into(), sys: "/sys".into(), lvs: "lvs".into(), units }
    }

    fn read(&self, name: &str) -> Result<String, String> {
        std::fs::read_to_string(self.proc.join(name)).map_err(|error| format!("{name}: {error}"))
    }
}

/// See the module.
pub struct Sources {
    places: Places,
    told: Told,
    load: Mutex<Load>,
    history: Mutex<History>,
    watch: Mutex<Watch>,
    view: Mutex<Option<(Millis, Arc<View>)>>,
    /// Whether a thread still reads for a collector: a read that hangs keeps one thread, not one a look.
    reads: Vec<AtomicBool>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sources {
    /// Nothing read yet.
    #[must_use]
    pub fn new(places: Places, told: Told) -> Self {
        let reads = specs().iter().map(|_| AtomicBool::new(false)).collect();
        let (load, history, watch, view) = Default::default();
        Self { places, told, load, history, watch, view, reads }
    }

    /// What a collector finds now. Has no time limit of its own; dropping it is fine.
    ///
    /// # Errors
    /// Why it finds nothing, for people.
    pub async fn look(self: Arc<Self>, index: Index) -> Result<Gathered, String> {
        match specs()[index].name {
            "lv" => match Arc::clone(&self).volumes(index).await? {
                Some(text) => lv::gathered(&text, &self.told.disks()),
                None => lv::gathered("", &[]),
            },
            "daemon-status" => {
                let seen = daemons::ask(&self.places.root, &self.places.proc, self.places.units).await;
                let role = read_role(&self.places.root).map_err(|error| format!("role.json: {error}"))?;
                let role = role.map(|file| file.role);
                Ok(lock(&self.watch).gathered(clock::millis(), role, &seen))
            }
            _ => self.read(index).await,
        }
    }

    /// What `lvs` prints. When this is dropped it is killed; as long as one can't be killed no other is started.
    async fn volumes(self: Arc<Self>, index: Index) -> Result<Option<String>, String> {
        if self.reads[index].swap(true, Ordering::AcqRel) {
            return Err("its last look still hangs".to_owned());
        }
        let (mut tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let found = lvs::run(&self.places.lvs, tell.closed()).await;
            self.reads[index].store(false, Ordering::Release);
            let _ = tell.send(found);
        });
        told.await.map_err(|error| error.to_string())?
    }

    /// Reads on a thread that may block.
    async fn read(self: Arc<Self>, index: Index) -> Result<Gathered, String> {
        if self.reads[index].swap(true, Ordering::AcqRel) {
            return Err("its last look still hangs".to_owned());
        }
        let name = specs()[index].name;
        let read = tokio::task::spawn_blocking(move || {
            let found = self.blocking(name);
            self.reads[index].store(false, Ordering::Release);
            found
        });
        read.await.map_err(|error| error.to_string())?
    }

    fn blocking(&self, name: &str) -> Result<Gathered, String> {
        match name {
            "cpu-avg-load" => {
                let ticks = busy(&self.places.read("stat")?).ok_or("stat has no lines of CPUs")?;
                let mut load = lock(&self.load);
                load.push(clock::millis(), ticks);
                Ok(load.gathered(self.places.units.ticks_per_s))
            }
            "xen-cpu-avg-load" => {
                let view = self.view()?;
                let mut history = lock(&self.history);
                history.push(clock::millis(), &view);
                Ok(history.gathered(&view))
            }
            "diskstats" => diskstats::gathered(&self.places.read("diskstats")?),
            "drbd" => self.drbd(),
            "node-resources" => resources::gathered(&self.texts()?),
            "container-usage" => Ok(containers::gathered(&*self.view()?)),
            "pool-status" => Ok(slots::pool_status(&*self.view()?)),
            "slot-status" => Ok(slots::slot_status(&*self.view()?)),
            "lease-status" => Ok(slots::lease_status(&*self.view()?)),
            _ => Ok(instances::gathered(name, &*self.view()?)),
        }
    }

    fn drbd(&self) -> Result<Gathered, String> {
        let text = match std::fs::read_to_string(self.places.proc.join("drbd")) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("drbd: {error}")),
        };
        Ok(drbd::gathered(text.as_deref(), &self.told.minors()))
    }

    fn view(&self) -> Result<Arc<View>, String> {
        let mut kept = lock(&self.view);
        let now = clock::millis();
        if let Some((at, view)) = kept.as_ref()
            && now.saturating_sub(*at) < VIEW_MS
        {
            return Ok(Arc::clone(view));
        }
        let mut view = node::view(&self.places, self.told.instances())?;
        view.leases = self.told.leases(view.slots.iter().filter_map(|slot| slot.holder.as_deref()));
        let view = Arc::new(view);
        *kept = Some((now, Arc::clone(&view)));
        Ok(view)
    }

    fn texts(&self) -> Result<Texts, String> {
        let read = |name: &str| self.places.read(name);
        let pressure = ["cpu", "memory", "io"];
        let root = self.places.root.lib();
        let mounts = [PathBuf::from("/"), root];
        Ok(Texts {
            meminfo: read("meminfo")?,
            loadavg: read("loadavg")?,
            net: read("net/dev")?,
            stat: read("stat")?,
            version: read("version")?,
            // Kernels may be built without it.
            pressure: pressure.map(|what| (what, read(&format!("pressure/{what}")).unwrap_or_default())),
            file_systems: mounts.iter().filter_map(|dir| file_system(dir)).collect(),
        })
    }
}

fn file_system(dir: &Path) -> Option<FileSystem> {
    let (used, total) = node::room(dir)?;
    Some(FileSystem { mount: dir.display().to_string(), total, free: total.saturating_sub(used) })
}
