//! `role.json` and its spare `role.json.2`: what this node is, with a crc, twice. Owns their form and who is believed.
//!
//! A byte of one that changed costs nothing: the other says the same, and noded mends it ([`mend_role`]). The spare is
//! written first, so that it is never older than what was believed; `role.json` alone decides whether the node has joined.

use crate::files::atomic_write;
use gantry_model::role::RoleFile;
use gantry_model::root::Root;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Everybody may read what a node is.
const MODE: u32 = 0o644;

/// What lies in a file: the fields of [`RoleFile`], and a crc of them.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    role: RoleFile,
    crc: u32,
}

/// Over these four fields in this order, whatever else a later release puts beside them.
fn crc(&RoleFile { node, cluster, role, epoch }: &RoleFile) -> io::Result<u32> {
    Ok(crc32fast::hash(&serde_json::to_vec(&(node, cluster, role, epoch))?))
}

/// The bytes of either file.
///
/// # Errors
/// None in practice: a role is plain data.
pub fn encode_role(role: &RoleFile) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(&Stored { role: *role, crc: crc(role)? })?;
    text.push(b'\n');
    Ok(text)
}

fn decode(bytes: &[u8]) -> io::Result<RoleFile> {
    let Stored { role, crc: said } = serde_json::from_slice(bytes)?;
    if crc(&role)? == said { Ok(role) } else { Err(io::Error::other("its crc is wrong")) }
}

/// None when there is none.
fn read(path: &Path) -> io::Result<Option<RoleFile>> {
    match std::fs::read(path) {
        Ok(bytes) => decode(&bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads `role.json`, or its spare where that is damaged; None when there is none: the node has not joined.
///
/// # Errors
/// When neither can be read.
pub fn read_role(root: &Root) -> io::Result<Option<RoleFile>> {
    let damaged = match read(&root.role_file()) {
        Err(damaged) => damaged,
        there => return there,
    };
    match read(&root.role_spare()) {
        Ok(Some(role)) => Ok(Some(role)),
        Ok(None) => Err(neither(&damaged, "is missing")),
        Err(error) => Err(neither(&damaged, &error.to_string())),
    }
}

fn neither(damaged: &io::Error, spare: &str) -> io::Error {
    io::Error::new(
        damaged.kind(),
        format!(
            "it is damaged ({damaged}), and its spare role.json.2 can't help ({spare}): remove role.json and join this node \
             again (docs/FAILOVER.md, \"A damaged role\")"
        ),
    )
}

/// Writes both files; durable when this returns. For noded, init and restore only.
///
/// # Errors
/// What the system says.
pub fn write_role(root: &Root, role: &RoleFile) -> io::Result<()> {
    let text = encode_role(role)?;
    atomic_write(&root.role_spare(), &text, MODE)?;
    atomic_write(&root.role_file(), &text, MODE)
}

/// As [`read_role`], and writes the one anew that is damaged or, after a crash, is not what `role.json` says. For noded only.
///
/// # Errors
/// When neither can be read, or one can't be written.
pub fn mend_role(root: &Root) -> io::Result<Option<RoleFile>> {
    let Some(role) = read_role(root)? else { return Ok(None) };
    for path in [root.role_spare(), root.role_file()] {
        let there = read(&path);
        if let Err(why) = &there {
            tracing::warn!(path = %path.display(), %why, "damaged; written anew from its other copy");
        }
        if !matches!(there, Ok(Some(there)) if there == role) {
            atomic_write(&path, &encode_role(&role)?, MODE)?;
        }
    }
    Ok(Some(role))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::make_dirs;
    use gantry_model::ids::{ClusterUuid, NodeUuid};
    use gantry_model::role::Role;

    const ROLE: RoleFile = RoleFile {
        node: NodeUuid(uuid::Uuid::from_u128(0x0a1b_2c3d_4e5f)),
        cluster: ClusterUuid(uuid::Uuid::from_u128(2)),
        role: Role::Candidate,
        epoch: 1234,
    };

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Root::new(dir.path());
        make_dirs(&root).expect("made");
        (dir, root)
    }

    #[test]
    fn a_role_is_read_back_as_json_with_its_keys() {
        let (_dir, root) = root();
        assert_eq!(read_role(&root).expect("no error"), None);
        write_role(&root, &ROLE).expect("written");
        assert_eq!(read_role(&root).expect("no error"), Some(ROLE));
        let text = std::fs::read(root.role_file()).expect("there");
        let plain: RoleFile = serde_json::from_slice(&text).expect("plain JSON");
        assert_eq!(plain, ROLE);
        assert_eq!(std::fs::read(root.role_spare()).expect("there"), text);
    }

    /// Every bit of the file, with and without a spare.
    #[test]
    fn a_flipped_bit_is_never_another_role() {
        let (_dir, root) = root();
        write_role(&root, &ROLE).expect("written");
        let text = std::fs::read(root.role_file()).expect("there");
        let mut noticed = 0;
        for place in 0..text.len() {
            for bit in 0..8 {
                let mut bytes = text.clone();
                bytes[place] ^= 1 << bit;
                std::fs::write(root.role_file(), &bytes).expect("written");
                assert_eq!(read_role(&root).expect("the spare is whole"), Some(ROLE));
                match decode(&bytes) {
                    Ok(role) => assert_eq!(role, ROLE, "bit {bit} of byte {place}"),
                    Err(_) => noticed += 1,
                }
            }
        }
        assert!(noticed > 7 * text.len(), "{noticed} of {} were noticed", 8 * text.len());
    }

    #[test]
    fn one_that_is_damaged_is_mended_from_the_other() {
        let (_dir, root) = root();
        assert_eq!(mend_role(&root).expect("nothing there"), None);
        write_role(&root, &ROLE).expect("written");
        let text = std::fs::read(root.role_file()).expect("there");
        let same = || [root.role_file(), root.role_spare()].map(|path| std::fs::read(path).expect("there"));
        for path in [root.role_file(), root.role_spare()] {
            std::fs::write(&path, "{").expect("written");
            assert_eq!(mend_role(&root).expect("mended"), Some(ROLE));
            assert_eq!(same(), [text.clone(), text.clone()]);
        }
        std::fs::remove_file(root.role_spare()).expect("removed");
        assert_eq!(mend_role(&root).expect("mended"), Some(ROLE));
        assert_eq!(same(), [text.clone(), text]);
    }

    /// A crash between the two files leaves what was believed before.
    #[test]
    fn the_spare_alone_says_nothing_new() {
        let (_dir, root) = root();
        let master = RoleFile { role: Role::Master, epoch: 1235, ..ROLE };
        std::fs::write(root.role_spare(), encode_role(&master).expect("plain")).expect("written");
        assert_eq!(mend_role(&root).expect("read"), None, "a join that was not finished is none");
        std::fs::write(root.role_file(), encode_role(&ROLE).expect("plain")).expect("written");
        assert_eq!(mend_role(&root).expect("read"), Some(ROLE));
        std::fs::write(root.role_file(), "").expect("written");
        assert_eq!(read_role(&root).expect("read"), Some(ROLE), "the spare was brought back to it");
    }

    #[test]
    fn two_that_are_damaged_are_one_clear_error() {
        let (_dir, root) = root();
        write_role(&root, &ROLE).expect("written");
        let old = serde_json::to_vec(&ROLE).expect("plain");
        std::fs::write(root.role_file(), old).expect("written");
        std::fs::write(root.role_spare(), "x").expect("written");
        for said in [read_role(&root), mend_role(&root)] {
            let said = said.expect_err("neither is whole").to_string();
            assert!(
                said.contains("missing field `crc`") && said.contains("remove role.json and join"),
                "{said}"
            );
        }
    }
}
