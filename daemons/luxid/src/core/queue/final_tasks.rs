//! Final tasks, oldest first: how many are kept, and how much of the memory they take.

use gantry_model::ids::TaskId;
use gantry_model::task::Task;
use gantry_model::time::Ts;
use std::collections::BTreeMap;

/// Final tasks that are kept; beyond that the oldest are removed, and their bodies with them.
pub const FINAL_TASKS_MAX: usize = 10_000;
/// Most bytes of JSON of all of them: each is in memory with its specification and its result, up to 1.5 MiB.
pub const FINAL_BYTES_MAX: usize = 256 << 20;

/// Which they are.
#[derive(Debug, Default)]
pub(super) struct FinalTasks {
    /// Bytes of each, by its end.
    by_end: BTreeMap<(Ts, TaskId), usize>,
    bytes: usize,
}

impl FinalTasks {
    pub fn len(&self) -> usize {
        self.by_end.len()
    }

    /// A task that ended at `end`. It changes no more.
    pub fn add(&mut self, end: Ts, task: &Task) {
        self.put(end, task.id, serde_json::to_vec(task).map_or(0, |text| text.len()));
    }

    fn put(&mut self, end: Ts, id: TaskId, bytes: usize) {
        let before = self.by_end.insert((end, id), bytes).unwrap_or(0);
        self.bytes = self.bytes - before + bytes;
    }

    /// The oldest one, when there are too many or they are too large.
    pub fn take_beyond(&mut self) -> Option<TaskId> {
        if self.by_end.len() <= FINAL_TASKS_MAX && self.bytes <= FINAL_BYTES_MAX {
            return None;
        }
        let ((_, id), bytes) = self.by_end.pop_first()?;
        self.bytes -= bytes;
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
