//! What a corpus begins with: files of `fuzz/seeds`, and the project's golden data in the shape that a target reads.

use crate::run::top;
use anyhow::{Context, Result};
use gantry_proto::codec;
use gantry_proto::envelope::{Envelope, Part};
use std::fs;
use std::path::{Path, PathBuf};

/// Recorded exchanges of Ganeti's clients.
const LUXI: &str = "tests/golden/ganeti/luxi";
/// Bytes of the inside protocols.
const INSIDE: &str = "proto/tests/golden/v1";
/// How a recorded message ends.
const END: &str = "<ETX>";

/// Writes the seeds of a target into a directory of its own.
pub fn write(target: &str, to: &Path) -> Result<()> {
    let seeds = match target {
        "luxi" => luxi()?,
        "hello" => hello()?,
        "frame_envelope" => frames()?,
        _ => Vec::new(),
    };
    for (at, seed) in seeds.iter().chain(&own(target)?).enumerate() {
        fs::write(to.join(format!("{at:03}")), seed).with_context(|| to.display().to_string())?;
    }
    Ok(())
}

fn files(dir: &str) -> Result<Vec<PathBuf>> {
    let dir = top().join(dir);
    let entries = fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// Those that were written for it.
fn own(target: &str) -> Result<Vec<Vec<u8>>> {
    let dir = format!("fuzz/seeds/{target}");
    if !top().join(&dir).is_dir() {
        return Ok(Vec::new());
    }
    files(&dir)?.iter().map(|path| fs::read(path).with_context(|| path.display().to_string())).collect()
}

/// What clients sent.
fn luxi() -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for path in files(LUXI)? {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        all.extend(text.lines().filter_map(sent));
    }
    Ok(all)
}

fn sent(line: &str) -> Option<Vec<u8>> {
    Some([line.strip_prefix("> ")?.strip_suffix(END)?.as_bytes(), &[3]].concat())
}

fn hello() -> Result<Vec<Vec<u8>>> {
    let text = golden("hello.json")?;
    Ok(text.lines().map(|line| line.as_bytes().to_vec()).collect())
}

/// Frames as they are, and one for each request of wconfd's.
fn frames() -> Result<Vec<Vec<u8>>> {
    let golden_envelopes = golden("envelope.hex")?;
    let words = golden_envelopes.lines().filter_map(|line| bytes(line.split(' ').next_back()?));
    // Parts of envelopes stand there too.
    let mut all: Vec<Vec<u8>> = words.filter(|bytes| codec::decode::<Envelope>(bytes).is_ok()).collect();
    for line in golden("wconfd.hex")?.lines() {
        all.extend(request(line));
    }
    Ok(all)
}

/// The frame of a line `VERB NAME request VERSION HEX`.
fn request(line: &str) -> Option<Vec<u8>> {
    let words: Vec<&str> = line.split(' ').collect();
    let (verb, what) = (words.first()?.parse().ok()?, *words.get(2)?);
    let body = bytes(words.get(4).unwrap_or(&""))?;
    let part = Part::Request { verb, deadline_ms: 0, trace: String::new(), body };
    if what == "request" { codec::encode(&Envelope { id: 1, part }).ok() } else { None }
}

fn golden(name: &str) -> Result<String> {
    let path = top().join(INSIDE).join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_data_becomes_seeds() {
        assert!(luxi().unwrap().iter().all(|seed| seed.ends_with(&[3])));
        assert!(luxi().unwrap().len() >= 30);
        assert!(hello().unwrap().len() >= 2);
        let frames = frames().unwrap();
        assert!(frames.len() > 15 && frames.iter().all(|frame| codec::decode::<Envelope>(frame).is_ok()));
        assert!(!own("confd_datagram").unwrap().is_empty() && !own("mond_http").unwrap().is_empty());
        assert_eq!((bytes("00ff"), bytes("0"), bytes("")), (Some(vec![0, 255]), None, Some(vec![])));
    }
}
