//! The spool file: the last whole report of a start whose luxid is away (P4.4, P4.6).

use gantry_model::ids::JobOwner;
use gantry_model::job::{Outcome, Report};
use gantry_model::root::Root;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

/// Writes `report` as the spool file of its owner. Durable when it returns: temporary file, flush, rename,
/// directory flush.
///
/// # Errors
/// When any step fails; the file is then as it was before, or not there.
pub fn write(root: &Root, report: &Report) -> io::Result<()> {
    let path = root.spool_file(report.owner);
    let temporary = path.with_extension(format!("{}.tmp", report.owner.start));
    let text = serde_json::to_vec(report)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    File::open(root.spool_dir())?.sync_all()
}

/// The report of a start that was never told to go (P4.3).
pub fn never_began(owner: JobOwner) -> Report {
    Report { owner, number: 0, outcome: Outcome::NeverBegan, ops: Vec::new(), seen_w: 0, stage: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ids::{JobId, StartNo};

    #[test]
    fn what_was_spooled_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::create_dir_all(root.spool_dir()).unwrap();
        let owner = JobOwner { job: JobId(3), start: StartNo { epoch: 1, run: 1, counter: 9 } };
        write(&root, &never_began(owner)).unwrap();
        let text = fs::read(root.spool_file(owner)).unwrap();
        assert_eq!(serde_json::from_slice::<Report>(&text).unwrap(), never_began(owner));
        assert_eq!(fs::read_dir(root.spool_dir()).unwrap().count(), 1, "no temporary file is left");
    }
}
