//! Which files nobody has named for long enough to be removed: by what was seen, never by the wall clock, which may be years
//! off. Pure: the caller brings what it found and a clock that does not step.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// How long a body is named by nothing before it goes: time to name what was sent. Counted while the process that
/// watches runs, so what an earlier one saw does not count.
pub const UNNAMED_MS_MIN: u64 = 3_600_000;

/// Tells a file from one that took its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Mark {
    /// Of a file.
    #[must_use]
    pub fn of(facts: &Metadata) -> Self {
        let (modified, changed) = ((facts.mtime(), facts.mtime_nsec()), (facts.ctime(), facts.ctime_nsec()));
        Self { inode: facts.ino(), modified, changed }
    }
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    mark: Mark,
    since: u64,
    /// The newest work under way when it was first seen: all up to that may have put it there, and may name it yet.
    newest: u64,
}

/// Work that may name what is there already, by numbers that rise: jobs that write bodies and name them when they end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// The oldest that is under way; None: nothing is.
    pub oldest: Option<u64>,
    /// The newest; 0: nothing is.
    pub newest: u64,
}

/// What was seen without a name, and since when. As many entries as there are such files.
#[derive(Debug, Default)]
pub struct Unnamed(HashMap<String, Seen>);

impl Unnamed {
    /// Notes all files that nothing names now. One that was not among them the last time, or was another file, counts from
    /// now on.
    pub fn look(&mut self, now: u64, found: impl IntoIterator<Item = (String, Mark)>, work: Work) {
        let mut before = std::mem::take(&mut self.0);
        for (name, mark) in found {
            let fresh = Seen { mark, since: now, newest: work.newest };
            let seen = before.remove(&name).filter(|seen| seen.mark == mark).unwrap_or(fresh);
            self.0.insert(name, seen);
        }
    }

    /// Somebody was told that it is there, or put it there: it counts anew.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Whether this file has had no name for long enough, and all work has ended that may name it.
    #[must_use]
    pub fn is_due(&self, name: &str, mark: Mark, now: u64, work: Work) -> bool {
        self.0.get(name).is_some_and(|seen| {
            let over = work.oldest.is_none_or(|oldest| oldest > seen.newest);
            seen.mark == mark && over && now.saturating_sub(seen.since) >= UNNAMED_MS_MIN
        })
    }

    /// All that are due.
    #[must_use]
    pub fn due(&self, now: u64, work: Work) -> Vec<String> {
        let due = self.0.iter().filter(|(name, seen)| self.is_due(name, seen.mark, now, work));
        due.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(inode: u64) -> Mark {
        Mark { inode, modified: (0, 0), changed: (0, 0) }
    }

    fn one(inode: u64) -> [(String, Mark); 1] {
        [("a".to_owned(), mark(inode))]
    }

    const IDLE: Work = Work { oldest: None, newest: 0 };

    #[test]
    fn it_goes_when_it_had_no_name_for_the_whole_time() {
        let mut watch = Unnamed::default();
        watch.look(5, one(1), IDLE);
        assert!(watch.due(UNNAMED_MS_MIN + 4, IDLE).is_empty());
        assert_eq!(watch.due(UNNAMED_MS_MIN + 5, IDLE), ["a"]);
        assert!(!watch.is_due("a", mark(2), UNNAMED_MS_MIN + 5, IDLE), "another file has its name");
        watch.look(UNNAMED_MS_MIN + 5, one(2), IDLE);
        assert!(watch.due(UNNAMED_MS_MIN + 5, IDLE).is_empty(), "it counts anew");
        watch.look(3 * UNNAMED_MS_MIN, [], IDLE);
        watch.look(3 * UNNAMED_MS_MIN, one(2), IDLE);
        assert!(watch.due(3 * UNNAMED_MS_MIN, IDLE).is_empty(), "it was named in between");
        watch.forget("a");
        assert!(watch.due(9 * UNNAMED_MS_MIN, IDLE).is_empty(), "somebody was told of it");
    }

    #[test]
    fn work_that_may_have_put_it_there_keeps_it() {
        let mut watch = Unnamed::default();
        watch.look(0, one(1), Work { oldest: Some(3), newest: 7 });
        let later = 2 * UNNAMED_MS_MIN;
        for (oldest, due) in [(Some(3), 0), (Some(7), 0), (Some(8), 1), (None, 1)] {
            assert_eq!(watch.due(later, Work { oldest, newest: 9 }).len(), due, "{oldest:?}");
        }
    }
}
