//! luxid's command line.

use clap::Parser;
use gantry_model::root::{ROOT_ENV, Root};
use std::path::PathBuf;

/// The environment variable that names the directory of Gantry's programs.
pub const LIBEXEC_ENV: &str = "GANTRY_LIBEXEC";
/// The program that executes jobs.
const JOB_PROGRAM: &str = "gantry-job";

/// The LUXI server and owner of the job queue. Started by gantry-boot on the master.
#[derive(Debug, Clone, Parser)]
#[command(name = "gantry-luxid", version)]
pub struct Args {
    /// Root directory; $GANTRY_ROOT, or / by default.
    #[arg(long)]
    pub root: Option<PathBuf>,
    /// Directory of gantry-job; $GANTRY_LIBEXEC, or the directory of this program by default.
    #[arg(long)]
    pub libexec: Option<PathBuf>,
    /// File for the log; stderr by default.
    #[arg(long)]
    pub log_file: Option<PathBuf>,
}

impl Args {
    /// Where everything lies.
    #[must_use]
    pub fn root(&self) -> Root {
        let path = self.root.clone().or_else(|| std::env::var_os(ROOT_ENV).map(PathBuf::from));
        path.map(Root::new).unwrap_or_default()
    }

    /// The program of job processes.
    ///
    /// # Errors
    /// When this program's own place can't be found out.
    pub fn job_program(&self) -> std::io::Result<PathBuf> {
        if let Some(dir) = self.libexec.clone().or_else(|| std::env::var_os(LIBEXEC_ENV).map(PathBuf::from)) {
            return Ok(dir.join(JOB_PROGRAM));
        }
        let own = std::env::current_exe()?;
        Ok(own.with_file_name(JOB_PROGRAM))
    }
}
