//! The limits of running jobs: each class of jobs has its own line and its own number of places (DESIGN §6), so that
//! test runs and reconcilers never wait for users' jobs, nor those for them.

use gantry_model::ids::JobId;
use gantry_model::job::Class;
use std::collections::BTreeSet;

/// How many of the reconcilers' jobs run at once per node that can have VMs: one creates while another destroys.
pub const RECONCILE_PER_NODE: usize = 2;
/// How many of them run at once in all: each is a process on the master.
pub const RECONCILE_RUNNING_MAX: usize = 64;

/// The jobs of one class.
#[derive(Debug)]
pub(super) struct Lane {
    /// Queued jobs whose dependencies are over, in the order of starting.
    pub ready: BTreeSet<(i32, JobId)>,
    /// Jobs with a process.
    pub running: usize,
    /// How many may have one.
    pub max: usize,
    /// Jobs that are not archived.
    pub live: usize,
}

/// All classes.
#[derive(Debug)]
pub(super) struct Lanes([Lane; CLASSES.len()]);

/// The classes, in the order in which their jobs are started.
pub(super) const CLASSES: [Class; 3] = [Class::Ganeti, Class::Attempt, Class::Reconcile];

impl Lanes {
    pub fn new() -> Self {
        let lane = |max| Lane { ready: BTreeSet::new(), running: 0, max, live: 0 };
        // Attempts need no number: each has a lease, or makes the VM of its lease anew, and there are only so many VMs.
        // So none waits for another's turn-over, which ends by itself.
        Self([lane(super::RUNNING_DEFAULT), lane(usize::MAX), lane(RECONCILE_PER_NODE)])
    }

    pub fn of(&self, class: Class) -> &Lane {
        &self.0[index(class)]
    }

    pub fn of_mut(&mut self, class: Class) -> &mut Lane {
        &mut self.0[index(class)]
    }

    pub fn running(&self) -> usize {
        self.0.iter().map(|lane| lane.running).sum()
    }

    pub fn ready(&self) -> usize {
        self.0.iter().map(|lane| lane.ready.len()).sum()
    }
}

fn index(class: Class) -> usize {
    match class {
        Class::Ganeti => 0,
        Class::Attempt => 1,
        Class::Reconcile => 2,
    }
}
