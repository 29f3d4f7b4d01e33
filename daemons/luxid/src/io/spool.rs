//! Spool files: what a job's process left behind when no luxid was there to take its outcome (P4.4, P4.6).

use gantry_model::ids::JobOwner;
use gantry_model::job::{Outcome, Report};
use gantry_model::root::Root;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

/// Where spool files go that belong to no current start.
const ASIDE: &str = "aside";
/// Most files kept there: they are for people who look into an accident, not for ever.
const ASIDE_FILES_MAX: usize = 100;
/// Largest spool file read: a whole report is within a few MiB.
const SPOOL_BYTES_MAX: u64 = 16 << 20;

/// The report in the spool file of a start; None when there is none or it is not one of that start.
pub async fn read(root: &Root, owner: JobOwner) -> Option<Report> {
    let path = root.spool_file(owner);
    match tokio::fs::metadata(&path).await {
        Ok(facts) if facts.len() > SPOOL_BYTES_MAX => {
            tracing::error!(%owner, bytes = facts.len(), "spool file is too large to be one");
            return None;
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::error!(%owner, %error, "can't look at a spool file");
            return None;
        }
    }
    let text = tokio::fs::read(&path)
        .await
        .inspect_err(|error| tracing::error!(%owner, %error, "can't read a spool file"));
    match serde_json::from_slice::<Report>(&text.ok()?) {
        Ok(report) if report.owner == owner => Some(report),
        Ok(report) => {
            tracing::error!(%owner, found = %report.owner, "a spool file holds another start's report");
            None
        }
        Err(error) => {
            tracing::error!(%owner, %error, "a spool file is no report");
            None
        }
    }
}

/// What follows the start in the name of a spool file that a job was writing when it died.
const UNFINISHED: &str = ".tmp";

/// Deletes the spool file and the sockets of a start that is over.
pub fn clean(root: &Root, owner: JobOwner) {
    let spool = root.spool_file(owner);
    let unfinished = spool.with_file_name(format!("{owner}{UNFINISHED}"));
    for path in [spool, unfinished, root.job_socket(owner), root.job_delay_socket(owner)] {
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "can't delete"),
        }
    }
}

/// Deletes the spool file of a start that is not the current one when it never began; else moves it aside.
pub async fn discard(root: &Root, owner: JobOwner) {
    if let Some(report) = read(root, owner).await
        && report.outcome != Outcome::NeverBegan
    {
        tracing::warn!(%owner, "spool file of a start that is not the current one: moved aside");
        if let Err(error) = move_aside(root, owner) {
            tracing::warn!(%owner, %error, "can't move a spool file aside");
        }
    }
    clean(root, owner);
}

fn move_aside(root: &Root, owner: JobOwner) -> io::Result<()> {
    let aside = root.spool_dir().join(ASIDE);
    std::fs::create_dir_all(&aside)?;
    std::fs::rename(root.spool_file(owner), aside.join(owner.to_string()))?;
    let mut files: Vec<(std::time::SystemTime, PathBuf)> = std::fs::read_dir(&aside)?
        .filter_map(|entry| entry.ok())
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    for (_, path) in files.iter().rev().skip(ASIDE_FILES_MAX) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// The starts that left a spool file (also a half-written one) or a socket and are not in `current`: to be discarded.
///
/// # Errors
/// When a directory can't be read.
pub fn leftovers(root: &Root, current: &BTreeSet<JobOwner>) -> io::Result<BTreeSet<JobOwner>> {
    let mut found = BTreeSet::new();
    for dir in [root.spool_dir(), root.job_dir()] {
        for entry in std::fs::read_dir(dir)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            let start = name.strip_suffix(UNFINISHED).unwrap_or(&name);
            let start = start.strip_suffix(".sock").or(start.strip_suffix(".delay")).unwrap_or(start);
            if let Ok(owner) = start.parse::<JobOwner>() {
                found.insert(owner);
            }
        }
    }
    Ok(found.difference(current).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ids::{JobId, StartNo};

    #[tokio::test]
    async fn what_a_start_that_is_not_current_did_is_kept_aside_and_nothing_of_one_that_never_began() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.spool_dir()).unwrap();
        let owner = |counter| JobOwner { job: JobId(7), start: StartNo { epoch: 1, run: 2, counter } };
        for (counter, outcome) in [(1, Outcome::NeverBegan), (2, Outcome::Ended)] {
            let owner = owner(counter);
            let report = Report { owner, number: 1, outcome, ops: Vec::new(), seen_w: 0, stage: None };
            std::fs::write(root.spool_file(owner), serde_json::to_vec(&report).unwrap()).unwrap();
            discard(&root, owner).await;
            assert!(!root.spool_file(owner).exists());
        }
        let aside = root.spool_dir().join(ASIDE);
        let kept: Vec<_> = std::fs::read_dir(&aside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(kept, [owner(2).to_string().as_str()]);
    }

    #[test]
    fn whatever_a_dead_start_left_is_found_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for dir in [root.spool_dir(), root.job_dir()] {
            std::fs::create_dir_all(dir).unwrap();
        }
        let owner = |counter| JobOwner { job: JobId(7), start: StartNo { epoch: 1, run: 2, counter } };
        let half = |owner: JobOwner| root.spool_dir().join(format!("{owner}.tmp"));
        let left = [
            root.spool_file(owner(1)),
            half(owner(2)),
            root.job_socket(owner(3)),
            root.job_delay_socket(owner(4)),
            half(owner(5)),
        ];
        left.iter().for_each(|path| std::fs::write(path, "").unwrap());
        let found = leftovers(&root, &BTreeSet::from([owner(5)])).unwrap();
        assert_eq!(found, (1..=4).map(owner).collect());
        found.iter().for_each(|owner| clean(&root, *owner));
        let kept: Vec<bool> = left.iter().map(|path| path.exists()).collect();
        assert_eq!(kept, [false, false, false, false, true], "a current start may still write");
    }
}
