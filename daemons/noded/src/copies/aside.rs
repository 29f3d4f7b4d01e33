//! What a change of masters cut off from this node's copies (P1.9), by the names of its files. Nothing here reads them.

use super::{Copies, blocking};
use gantry_proto::copies::{ASIDE_MAX, AsideReply};
use gantry_proto::envelope::{Code, Fail};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::SystemTime;

impl Copies {
    /// The files with rows put aside.
    ///
    /// # Errors
    /// The disk's.
    pub async fn aside(&self) -> Result<AsideReply, Fail> {
        let dir = self.lib.join(gantry_store::ASIDE);
        blocking(move || {
            look(&dir).map_err(|why| Fail::new(Code::Internal, format!("{}: {why}", dir.display())))
        })
        .await
    }
}

fn look(dir: &Path) -> io::Result<AsideReply> {
    let entries = match std::fs::read_dir(dir) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(AsideReply::default()),
        other => other?,
    };
    // Never more than one name above what is told, however many there are.
    let (mut count, mut newest) = (0, Vec::<(SystemTime, String)>::with_capacity(ASIDE_MAX + 1));
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| holds_rows(name)) else { continue };
        let Ok(made) = entry.metadata().and_then(|meta| meta.modified()) else { continue };
        count += 1;
        newest.push((made, name.to_owned()));
        newest.sort_unstable_by(|one, other| other.cmp(one));
        newest.truncate(ASIDE_MAX);
    }
    Ok(AsideReply { count, newest: newest.into_iter().map(|(_, name)| name).collect() })
}

/// `LOG-EPOCH-IDX`, and `.N` where that was taken: other things are put aside there, too.
fn holds_rows(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let place = name.strip_prefix("W-").or_else(|| name.strip_prefix("Q-"));
    let Some((epoch, idx)) = place.and_then(|place| place.split_once('-')) else { return false };
    number(epoch) && idx.split_once('.').map_or(number(idx), |(idx, nth)| number(idx) && number(nth))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_the_newest_files_with_rows_are_named_and_all_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(look(&dir.path().join("none")).unwrap(), AsideReply::default());
        for name in ["W-copy", "W-copy.1", "restore-1", "W-1-", "Q--3", "W-1-2.x"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(look(dir.path()).unwrap(), AsideReply::default());
        for nth in 0..20_u64 {
            let file = std::fs::File::create(dir.path().join(format!("Q-5-{nth}"))).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(nth)).unwrap();
        }
        std::fs::write(dir.path().join("W-6-1.12"), "").unwrap();
        let told = look(dir.path()).unwrap();
        assert_eq!((told.count, told.newest.len()), (21, ASIDE_MAX));
        assert_eq!(told.newest[..2], ["W-6-1.12", "Q-5-19"]);
    }
}
