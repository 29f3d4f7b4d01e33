//! What archives of inputs hold: each body is looked at once, before a task names it, by the check that its node makes
//! again. Bodies are immutable, so that what was found stays true.

use super::{Store, blocking};
use gantry_archive::Unfit;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;

/// Where the artifacts of a task are collected, below its home.
const OUT: &str = "out";
/// Most bodies whose verdict is remembered, the newest ones. A verdict is a number or a short text.
const VERDICTS_MAX: usize = 1_024;

/// What an archive of an input holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes of its files.
    pub bytes: u64,
    /// Files and directories.
    pub entries: u64,
    /// Whether it has a file where the directory for artifacts is.
    pub out_is_file: bool,
}

/// What an archive holds, or why it is of no use.
pub type Verdict = Result<Held, Unfit>;

/// Verdicts by digest, bounded.
#[derive(Debug, Default)]
pub struct Verdicts {
    known: HashMap<String, Verdict>,
    /// Oldest first.
    order: VecDeque<String>,
}

impl Verdicts {
    fn get(&self, digest: &str) -> Option<Verdict> {
        self.known.get(digest).cloned()
    }

    fn put(&mut self, digest: &str, verdict: Verdict) {
        if self.known.insert(digest.to_owned(), verdict).is_none() {
            self.order.push_back(digest.to_owned());
        }
        if self.order.len() > VERDICTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

impl Store {
    /// What the archive with that digest holds. One archive is looked at a time, so that all submissions together take
    /// no more memory than one.
    ///
    /// # Errors
    /// When the body can't be read.
    pub async fn inspect(&self, digest: &str) -> io::Result<Verdict> {
        let mut verdicts = self.0.verdicts.lock().await;
        if let Some(known) = verdicts.get(digest) {
            return Ok(known);
        }
        let path = self.0.root.blob(digest);
        let verdict = blocking(move || {
            let mut body = File::open(path)?;
            Ok(gantry_archive::check(&mut body, "").map(|content| Held {
                bytes: content.bytes,
                entries: content.entries as u64,
                out_is_file: content.files.contains(OUT),
            }))
        })
        .await?;
        verdicts.put(digest, verdict.clone());
        Ok(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_verdicts_are_forgotten() {
        let mut verdicts = Verdicts::default();
        let held = |bytes| Held { bytes, ..Held::default() };
        for number in 0..=VERDICTS_MAX as u64 {
            verdicts.put(&number.to_string(), Ok(held(number)));
            verdicts.put(&number.to_string(), Ok(held(number)));
        }
        assert_eq!((verdicts.get("0"), verdicts.get("1")), (None, Some(Ok(held(1)))));
        assert_eq!((verdicts.known.len(), verdicts.order.len()), (VERDICTS_MAX, VERDICTS_MAX));
    }
}
