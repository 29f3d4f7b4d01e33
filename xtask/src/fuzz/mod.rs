//! The fuzz targets: built on stable Rust without a sanitizer, run one after the other for a while each, with a corpus that
//! is kept in `target/` and grows from run to run. A table at the end says what each did.

mod seeds;
mod told;

use crate::build::target_dir;
use crate::foreign;
use crate::run::{cargo, run, top};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use told::Told;

/// Most memory of a target. What needs more than this for an input of some KiB is a bug.
const RSS_MIB_MAX: u32 = 1024;
/// Longest time of one input: what takes longer hangs. The machine may be busy.
const INPUT_S_MAX: u32 = 25;
/// What cargo-fuzz builds for, unless told otherwise.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Where things are, all below `target/`.
struct Places {
    build: PathBuf,
    corpus: PathBuf,
    seeds: PathBuf,
    crashes: PathBuf,
    logs: PathBuf,
}

impl Places {
    fn new() -> Self {
        let below = |name: &str| target_dir().join(name);
        Self {
            build: below("fuzz"),
            corpus: below("fuzz-corpus"),
            seeds: below("fuzz-seeds"),
            crashes: below("fuzz-crashes"),
            logs: below("fuzz-logs"),
        }
    }
}

/// Runs one target, or all, for so many seconds each.
///
/// # Errors
/// One crashed, or can't be built.
pub fn run_for(wanted: Option<&str>, seconds: u32) -> Result<()> {
    let all = targets()?;
    let chosen: Vec<&String> =
        all.iter().filter(|name| wanted.is_none_or(|wanted| wanted == *name)).collect();
    ensure!(
        !chosen.is_empty(),
        "there is no target {}; there are {}",
        wanted.unwrap_or("at all"),
        all.join(", ")
    );
    install()?;
    let places = Places::new();
    let build = places.build.display().to_string();
    run(&mut cargo(&["fuzz", "build", "-s", "none", "--target-dir", &build]))?;
    let mut rows = Vec::new();
    for name in chosen {
        rows.push((name.clone(), fuzz(&places, name, seconds)?));
    }
    println!("{}", told::table(&rows));
    let crashed: Vec<&(String, Told)> = rows.iter().filter(|(_, told)| !told.ended_well).collect();
    for (name, told) in &crashed {
        println!("{}", replay(&places, name, told));
    }
    if crashed.is_empty() { Ok(()) } else { bail!("{} of {} targets failed", crashed.len(), rows.len()) }
}

/// The targets' names.
fn targets() -> Result<Vec<String>> {
    let dir = top().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "rs") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Installs what building needs and is missing.
fn install() -> Result<()> {
    foreign::for_fuzzing()?;
    let there = cargo(&["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if there.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    eprintln!(
        "installing cargo-fuzz from crates.io into cargo's own bin directory (builds and starts the fuzz targets)"
    );
    run(&mut cargo(&["install", "cargo-fuzz", "--locked"]))
}

/// Runs one target. Its own words go into a file.
fn fuzz(places: &Places, name: &str, seconds: u32) -> Result<Told> {
    let (corpus, seeds) = (places.corpus.join(name), places.seeds.join(name));
    let crashes = places.crashes.join(name);
    for dir in [&corpus, &seeds, &crashes, &places.logs] {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    seeds::write(name, &seeds)?;
    let log = places.logs.join(format!("{name}.log"));
    let file = fs::File::create(&log).with_context(|| log.display().to_string())?;
    eprintln!("fuzz: {name} for {seconds} s, its words in {}", log.display());
    let mut program = Command::new(places.build.join(TRIPLE).join("release").join(name));
    program.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1");
    program.arg(format!("-rss_limit_mb={RSS_MIB_MAX}")).arg(format!("-timeout={INPUT_S_MAX}"));
    program.arg(format!("-artifact_prefix={}/", crashes.display())).arg(&corpus).arg(&seeds);
    let status =
        program.current_dir(top()).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status();
    let status = status.with_context(|| format!("{name} can't be started"))?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    Ok(Told::read(&text, status.success()))
}

/// How to see a failure again.
fn replay(places: &Places, name: &str, told: &Told) -> String {
    let log = places.logs.join(format!("{name}.log"));
    let build = shown(&places.build);
    match &told.input {
        Some(input) => {
            let input = shown(Path::new(input));
            format!("{name}: again by `cargo fuzz run -s none --target-dir {build} {name} {input}`")
        }
        None => format!("{name}: left no input; its last words are in {}", shown(&log)),
    }
}

/// A path as it is typed at the project's top.
fn shown(path: &Path) -> String {
    path.strip_prefix(top()).unwrap_or(path).display().to_string()
}
