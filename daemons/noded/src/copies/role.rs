//! Who runs here: `role.json`, kept by this noded alone (docs/adr/0008, 10 and 11). Boot starts and stops the master's
//! daemons by it. Everything here blocks on the disk; what a function says is durable when it returns.

use gantry_model::ids::ClusterUuid;
use gantry_model::role::{Role, RoleFile};
use gantry_model::root::Root;
use gantry_proto::envelope::{Code, Fail};
use gantry_store::LogKind;
use std::fs::{File, OpenOptions, TryLockError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The role of one node. Clones share it.
#[derive(Debug, Clone)]
pub struct Roles {
    root: Root,
    /// Held while the file is written, so that two changes do not cross.
    current: Arc<Mutex<RoleFile>>,
    /// Tells that it was written.
    news: Arc<watch::Sender<u64>>,
}

impl Roles {
    /// Of a node whose file says `current`.
    #[must_use]
    pub fn new(root: Root, current: RoleFile) -> Self {
        Self { root, current: Arc::new(Mutex::new(current)), news: Arc::new(watch::Sender::new(0)) }
    }

    fn lock(&self) -> MutexGuard<'_, RoleFile> {
        // Replaced whole, after the file was.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the file says it now: `gantry-wconfd init` writes it too, and it is what counts.
    fn fresh(&self) -> Result<MutexGuard<'_, RoleFile>, Fail> {
        let mut current = self.lock();
        let read = gantry_rt::files::read_role(&self.root);
        let read = read.map_err(|why| Fail::new(Code::Internal, format!("can't read role.json: {why}")))?;
        *current = read.unwrap_or(*current);
        Ok(current)
    }

    /// What changes whenever the file was written.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// What the file says.
    #[must_use]
    pub fn current(&self) -> RoleFile {
        *self.lock()
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterUuid {
        self.lock().cluster
    }

    /// The epoch of which this node is the master.
    #[must_use]
    pub fn master(&self) -> Option<u64> {
        let current = self.lock();
        (current.role == Role::Master).then_some(current.epoch)
    }

    /// Does something that only a node may do which is no master, and becomes none meanwhile.
    pub fn unless_master<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let current = self.fresh().ok()?;
        (current.role != Role::Master).then(work)
    }

    fn put(&self, current: &mut RoleFile, role: Role, epoch: u64) -> Result<(), Fail> {
        let next = RoleFile { role, epoch, ..*current };
        if next != *current {
            gantry_rt::files::write_role(&self.root, &next)
                .map_err(|why| Fail::new(Code::Internal, format!("can't write role.json: {why}")))?;
            tracing::info!(?role, epoch, before = ?current.role, "role set");
            *current = next;
            self.news.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    /// Sets a role that a master gives.
    ///
    /// # Errors
    /// `Denied` for the role master, and for the master of this very epoch or a later one.
    pub fn set(&self, role: Role, epoch: u64) -> Result<(), Fail> {
        if role == Role::Master {
            return Err(Fail::new(
                Code::Denied,
                "only an election makes a master: gnt-cluster master-failover",
            ));
        }
        let mut current = self.fresh()?;
        not_the_master(&current, epoch)?;
        self.put(&mut current, role, epoch)
    }

    /// Refuses what a master may not do to itself.
    ///
    /// # Errors
    /// `Denied` for the master of `epoch` or a later one.
    pub fn not_the_master(&self, epoch: u64) -> Result<(), Fail> {
        not_the_master(&*self.fresh()?, epoch)
    }

    /// This node has won `epoch`, which its copies have been seen to promise.
    ///
    /// # Errors
    /// `Stale` when a later epoch was heard of meanwhile.
    pub fn elected(&self, epoch: u64) -> Result<(), Fail> {
        let mut current = self.fresh()?;
        if current.epoch > epoch {
            let text = format!("this node has its role from epoch {} already", current.epoch);
            return Err(Fail::new(Code::Stale, text));
        }
        self.put(&mut current, Role::Master, epoch)
    }

    /// Somebody holds a higher epoch: a master of a lower one is none any more (P1.9).
    ///
    /// # Errors
    /// The disk's.
    pub fn depose(&self, epoch: u64) -> Result<(), Fail> {
        let mut current = self.fresh()?;
        if current.role != Role::Master || current.epoch >= epoch {
            return Ok(());
        }
        tracing::warn!(ours = current.epoch, heard = epoch, "deposed: another node has a higher epoch");
        self.put(&mut current, Role::Candidate, epoch)
    }

    /// The master of just this epoch becomes a candidate; whether it was that master.
    ///
    /// # Errors
    /// The disk's.
    pub fn step_down(&self, epoch: u64) -> Result<bool, Fail> {
        let mut current = self.fresh()?;
        let master = current.role == Role::Master && current.epoch == epoch;
        if master {
            self.put(&mut current, Role::Candidate, epoch)?;
        }
        Ok(master)
    }

    /// Whether a writer of either log still runs here. Only for a node that is no master: a writer that starts
    /// meanwhile could find the lock taken.
    ///
    /// # Errors
    /// The disk's.
    pub fn writers_run(&self) -> Result<bool, Fail> {
        for log in [LogKind::W, LogKind::Q] {
            let path = self.root.lib().join(log.lock_name());
            let held = match OpenOptions::new().read(true).write(true).open(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
                Ok(file) => held(&file),
            };
            let held = held
                .map_err(|why| Fail::new(Code::Internal, format!("can't look at {}: {why}", path.display())));
            if held? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn held(file: &File) -> std::io::Result<bool> {
    match file.try_lock() {
        Ok(()) => file.unlock().map(|()| false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn not_the_master(current: &RoleFile, epoch: u64) -> Result<(), Fail> {
    if current.role == Role::Master && current.epoch >= epoch {
        return Err(Fail::new(Code::Denied, "this node is the master of this epoch"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ids::NodeUuid;
    use uuid::Uuid;

    fn roles(role: Role) -> (tempfile::TempDir, Roles) {
        let dir = tempfile::tempdir().expect("dir");
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).expect("made");
        let (node, cluster) = (NodeUuid(Uuid::from_u128(1)), ClusterUuid(Uuid::from_u128(2)));
        let file = RoleFile { node, cluster, role, epoch: 5 };
        gantry_rt::files::write_role(&root, &file).expect("written");
        (dir, Roles::new(root, file))
    }

    fn on_disk(roles: &Roles) -> (Role, u64) {
        let file = gantry_rt::files::read_role(&roles.root).expect("read").expect("there");
        (file.role, file.epoch)
    }

    #[test]
    fn a_higher_epoch_deposes_and_the_own_does_not() {
        let (_dir, roles) = roles(Role::Master);
        roles.depose(5).expect("no change");
        roles.depose(4).expect("no change");
        assert_eq!(on_disk(&roles), (Role::Master, 5));
        roles.depose(6).expect("written");
        assert_eq!(on_disk(&roles), (Role::Candidate, 6));
        assert!(roles.elected(5).is_err(), "an older victory comes late");
        roles.elected(7).expect("written");
        assert_eq!(on_disk(&roles), (Role::Master, 7));
    }

    #[test]
    fn only_the_master_of_that_epoch_steps_down() {
        let (_dir, roles) = roles(Role::Master);
        assert!(!roles.step_down(4).expect("looked"));
        assert_eq!(roles.master(), Some(5));
        assert!(roles.step_down(5).expect("written"));
        assert_eq!(on_disk(&roles), (Role::Candidate, 5));
        assert!(!roles.step_down(5).expect("looked"), "done already");
    }

    #[test]
    fn a_running_writer_is_seen_by_its_lock() {
        let (_dir, roles) = roles(Role::Candidate);
        assert!(!roles.writers_run().expect("no files"));
        let path = roles.root.lib().join(LogKind::Q.lock_name());
        let file = File::create(&path).expect("made");
        file.lock().expect("locked");
        assert!(roles.writers_run().expect("looked"));
        file.unlock().expect("unlocked");
        assert!(!roles.writers_run().expect("looked"));
    }
}
