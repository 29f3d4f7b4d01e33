//! Building: the daemons and the CLI in one call, gantry-job and gantry-init in one of their own (static, fat LTO: one is
//! started for every job, the other in every VM; docs/adr/0003, 0006), all gathered in one directory as they would be installed.

use crate::run::{cargo, run, top};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs of the one call.
const PROGRAMS: [&str; 10] = [
    "gantry-wconfd",
    "gantry-luxid",
    "gantry-overseer",
    "gantry-rconfd",
    "gantry-mond",
    "gantry-mon-collector",
    "gantry-noded",
    "gantry-vmd",
    "gantry-boot",
    "gantry",
];
/// Those of the other.
const STATIC_PROGRAMS: [&str; 2] = ["gantry-job", "gantry-init"];
/// Most bytes of gantry-init, which is started for every VM and forks for every command: a static program that does nothing has some
/// 1.0 MiB of C and Rust library, and this one is to stay near that.
const INIT_BYTES_MAX: u64 = 3 << 19;
/// Names under which the CLI is also found.
const LINKS: [&str; 12] = [
    "gnt-cluster",
    "gnt-node",
    "gnt-group",
    "gnt-instance",
    "gnt-job",
    "gnt-blueprint",
    "gnt-pool",
    "gnt-slot",
    "gnt-lease",
    "gnt-task",
    "gnt-os",
    "gnt-debug",
];
/// The bench that makes real VMs.
const BENCH_OF_VMS: &str = "runs";
/// crt-static needs the target named.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds all programs, those to be shipped when `release`. Where they are.
pub fn all(release: bool) -> Result<PathBuf> {
    if release {
        let bins = PROGRAMS.iter().flat_map(|name| ["--bin", name]);
        let args: Vec<&str> = ["build", "--workspace", "--profile", "dist"].into_iter().chain(bins).collect();
        run(&mut cargo(&args))?;
    } else {
        // The whole workspace: features are then the same as in the tests' build, and nothing is built twice.
        run(&mut cargo(&["build", "--workspace", "--bins"]))?;
    }
    static_programs()?;
    let target = target_dir();
    let place = target.join("gantry").join(if release { "release" } else { "bin" });
    fs::create_dir_all(&place)?;
    let built = target.join(if release { "dist" } else { "debug" });
    for program in PROGRAMS {
        put(&built.join(program), &place.join(program))?;
    }
    for program in STATIC_PROGRAMS {
        put(&target.join(TARGET).join("job").join(program), &place.join(program))?;
    }
    let init = fs::metadata(place.join("gantry-init"))?.len();
    ensure!(init <= INIT_BYTES_MAX, "gantry-init has {init} bytes, at most {INIT_BYTES_MAX} can be");
    for name in LINKS {
        let link = place.join(name);
        if !link.is_symlink() {
            std::os::unix::fs::symlink("gantry", &link).with_context(|| link.display().to_string())?;
        }
    }
    Ok(place)
}

fn static_programs() -> Result<()> {
    let packages = STATIC_PROGRAMS.iter().flat_map(|name| ["--package", name]);
    let args: Vec<&str> =
        ["build", "--profile", "job", "--target", TARGET].into_iter().chain(packages).collect();
    run(cargo(&args).env("RUSTFLAGS", "-C target-feature=+crt-static"))
}

/// Where cargo builds.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| top().join("target"), PathBuf::from)
}

/// A copy under a new inode: a program that runs is never written to.
fn put(from: &Path, to: &Path) -> Result<()> {
    let new = to.with_extension("new");
    fs::copy(from, &new).with_context(|| from.display().to_string())?;
    fs::rename(&new, to).with_context(|| to.display().to_string())
}

/// Writes the manual pages of all commands.
pub fn man(dir: &Path) -> Result<()> {
    run(&mut cargo(&["build", "--workspace", "--bins"]))?;
    run(Command::new(target_dir().join("debug/gantry")).arg("man").arg(dir))?;
    run(Command::new(target_dir().join("debug/gantry-mond")).arg("--man").arg(dir))?;
    println!("man -l {}/gantry.1", dir.display());
    Ok(())
}

/// Runs the benches against programs built with optimisation.
pub fn bench(filter: Option<&str>) -> Result<()> {
    if filter.is_none_or(|filter| BENCH_OF_VMS.contains(filter)) {
        crate::foreign::for_benches()?;
    }
    let programs = all(true)?;
    let mut args = vec!["run", "--release", "--package", "gantry-bench", "--"];
    args.extend(filter);
    run(cargo(&args).env("GANTRY_BIN_DIR", programs))
}
