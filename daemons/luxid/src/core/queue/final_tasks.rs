//! Final tasks, oldest first: how many are kept, how much of the memory they take, and their bodies of the disk.

use gantry_model::ids::TaskId;
use gantry_model::task::Task;
use gantry_model::time::Ts;
use std::collections::BTreeMap;

/// Final tasks that are kept; beyond that the oldest are removed, and their bodies with them.
pub const FINAL_TASKS_MAX: usize = 10_000;
/// Most bytes of JSON of all of them: each is in memory with its specification and its result, up to 1.5 MiB.
pub const FINAL_BYTES_MAX: usize = 256 << 20;
/// Most bytes of bodies (inputs, outputs, archives) that they name together, where the disk is large enough.
pub const FINAL_BODY_BYTES_MAX: u64 = 64 << 30;

/// Which they are.
#[derive(Debug)]
pub(super) struct FinalTasks {
    /// Bytes of each, by its end.
    by_end: BTreeMap<(Ts, TaskId), usize>,
    bytes: usize,
    /// Size of each body they name, and how many name it.
    bodies: BTreeMap<String, (u64, u32)>,
    body_bytes: u64,
    body_bytes_max: u64,
}

impl Default for FinalTasks {
    fn default() -> Self {
        Self {
            by_end: BTreeMap::new(),
            bytes: 0,
            bodies: BTreeMap::new(),
            body_bytes: 0,
            body_bytes_max: FINAL_BODY_BYTES_MAX,
        }
    }
}

impl FinalTasks {
    pub fn len(&self) -> usize {
        self.by_end.len()
    }

    /// Their bodies may take so much, and [`FINAL_BODY_BYTES_MAX`] at most.
    pub fn bound_bodies(&mut self, bytes: u64) {
        self.body_bytes_max = bytes.min(FINAL_BODY_BYTES_MAX);
    }

    /// A task that ended at `end`. It changes no more.
    pub fn add(&mut self, end: Ts, task: &Task) {
        if !self.put(end, task.id, serde_json::to_vec(task).map_or(0, |text| text.len())) {
            return;
        }
        for (digest, bytes) in task.sized_bodies() {
            let (_, users) = self.bodies.entry(digest.to_owned()).or_insert_with(|| {
                self.body_bytes += bytes;
                (bytes, 0)
            });
            *users += 1;
        }
    }

    /// Whether it is new.
    fn put(&mut self, end: Ts, id: TaskId, bytes: usize) -> bool {
        let before = self.by_end.insert((end, id), bytes);
        self.bytes = self.bytes - before.unwrap_or(0) + bytes;
        before.is_none()
    }

    /// The oldest one, when there are too many or they are too large; to be followed by [`FinalTasks::gone`].
    pub fn take_beyond(&mut self) -> Option<TaskId> {
        let fits = self.bytes <= FINAL_BYTES_MAX && self.body_bytes <= self.body_bytes_max;
        // The newest stays whatever it takes: its user has not seen it yet.
        if self.by_end.len() <= FINAL_TASKS_MAX && fits || self.by_end.len() <= 1 {
            return None;
        }
        let ((_, id), bytes) = self.by_end.pop_first()?;
        self.bytes -= bytes;
        Some(id)
    }

    /// One that was taken is removed.
    pub fn gone(&mut self, task: &Task) {
        for (digest, _) in task.sized_bodies() {
            let Some((bytes, users)) = self.bodies.get_mut(digest) else { continue };
            *users -= 1;
            if *users == 0 {
                self.body_bytes -= *bytes;
                self.bodies.remove(digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::task::BodyRef;
    use serde_json::json;

    #[test]
    fn of_large_tasks_fewer_are_kept() {
        let mut all = FinalTasks::default();
        let each = FINAL_BYTES_MAX / 16;
        for id in (1..=16).flat_map(|id| [id, id]) {
            all.put(Ts(id, 0), TaskId(id), each);
        }
        assert_eq!(all.take_beyond(), None, "each counts once");
        all.put(Ts(99, 0), TaskId(99), 1);
        assert_eq!(all.take_beyond(), Some(TaskId(1)), "the oldest");
        assert_eq!((all.take_beyond(), all.len()), (None, 16));
    }

    #[test]
    fn of_tasks_with_large_bodies_fewer_are_kept_and_a_shared_one_counts_once() {
        let task = |id: u64, digest: &str, bytes: u64| {
            let spec = json!({"pool": "p", "execute": [{"command": "true"}],
                "input": BodyRef { digest: digest.to_owned(), bytes }});
            let task = json!({"id": id, "spec": spec, "state": 5, "received": [1, 0]});
            serde_json::from_value::<Task>(task).unwrap()
        };
        let mut all = FinalTasks::default();
        all.bound_bodies(100);
        for id in 1..=3 {
            all.add(Ts(id, 0), &task(id, "shared", 60));
            all.add(Ts(id, 0), &task(id, "shared", 60));
        }
        assert_eq!(all.take_beyond(), None);
        all.add(Ts(4, 0), &task(4, "own", 41));
        for id in 1..=3 {
            assert_eq!(all.take_beyond(), Some(TaskId(id)), "the oldest, until the body is named by none");
            all.gone(&task(id, "shared", 60));
        }
        assert_eq!((all.take_beyond(), all.len(), all.body_bytes), (None, 1, 41));
        all.bound_bodies(40);
        assert_eq!(all.take_beyond(), None, "the newest is not removed before its user saw it");
        all.add(Ts(5, 0), &task(5, "next", 1));
        assert_eq!(all.take_beyond(), Some(TaskId(4)));
    }
}
