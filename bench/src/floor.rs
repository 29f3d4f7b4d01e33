//! What this machine can do at best: start and reap a static program that does nothing, and flush appended data.

use crate::figure::Figure;
use anyhow::{Context, Result, ensure};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long each floor is measured.
const WINDOW: Duration = Duration::from_secs(3);

/// Both floors.
pub fn measure() -> Result<Vec<Figure>> {
    Ok(vec![
        Figure {
            name: "floor: spawn and reap a static `true`, 2 at a time",
            value: format!("{:.0}/s", spawn_rate()?),
            aim: String::new(),
        },
        Figure {
            name: "floor: append 4 KiB + fdatasync",
            value: format!("{:.0}/s", flush_rate()?),
            aim: String::new(),
        },
    ])
}

/// Starts per second, two at a time (as many as the reference machine has cores).
pub fn spawn_rate() -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let program = static_true(dir.path())?;
    let count = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(|| spawn_for(&program))).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
            .sum::<Result<u32>>()
    })?;
    Ok(f64::from(count) / WINDOW.as_secs_f64())
}

fn spawn_for(program: &Path) -> Result<u32> {
    let (end, mut count) = (Instant::now() + WINDOW, 0);
    while Instant::now() < end {
        let status = Command::new(program).stdin(Stdio::null()).status()?;
        ensure!(status.success(), "the static program fails");
        count += 1;
    }
    Ok(count)
}

/// A static program that returns 0, made with the compiler that built us.
fn static_true(dir: &Path) -> Result<std::path::PathBuf> {
    let (source, program) = (dir.join("true.rs"), dir.join("true"));
    std::fs::write(&source, "fn main() {}\n")?;
    let status = Command::new("rustc")
        .args(["-O", "-C", "target-feature=+crt-static", "-C", "panic=abort", "-C", "strip=symbols", "-o"])
        .args([&program, &source])
        .status()
        .context("rustc")?;
    ensure!(status.success(), "rustc can't make a static program");
    Ok(program)
}

/// Flushes per second of one writer.
pub fn flush_rate() -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let mut file = OpenOptions::new().create(true).append(true).open(dir.path().join("log"))?;
    let (end, mut count, block) = (Instant::now() + WINDOW, 0_u32, [7_u8; 4096]);
    while Instant::now() < end {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / WINDOW.as_secs_f64())
}
