//! `gnt-task fetch`: a task's artifacts and outputs as files.

use super::{not_found, query, state_line};
use crate::archive::unpack;
use crate::error::CliError;
use crate::output::text::counted;
use crate::session::Session;
use crate::stream;
use gantry_model::task::{ARTIFACT_BYTES_MAX, Output};
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

/// Writes `DIR/out/…` and `DIR/step-N.stdout`, `.stderr`.
///
/// # Errors
/// No such task or no result yet; a file that is there already without `force`; the server's.
pub async fn run(session: &mut Session, id: u64, dir: &Path, force: bool) -> Result<(), CliError> {
    session.command = "fetch".to_owned();
    if fs::metadata(dir).is_ok_and(|meta| !meta.is_dir()) {
        let text =
            format!("{} is a file; name the directory that task {id}'s results come into", dir.display());
        return Err(CliError::plain(text));
    }
    let (task, _, _) = query(session, id).await?.ok_or_else(|| not_found(session, id))?;
    let Some(result) = &task.result else {
        return Err(CliError::plain(format!(
            "{}: there is no result to fetch.\n{}",
            state_line(&task),
            if task.state.is_final() { "It ended before a step did." } else { "Wait for its end first." }
        )));
    };
    fs::create_dir_all(dir)
        .map_err(|error| CliError::plain(format!("cannot make {}: {error}", dir.display())))?;
    for (at, step) in result.steps.iter().enumerate() {
        let number = if task.spec.compile.is_some() { at } else { at + 1 };
        for (output, ending) in [(&step.out, "stdout"), (&step.err, "stderr")] {
            let path = dir.join(format!("step-{number}.{ending}"));
            write(session, output, &path, force).await?;
        }
    }
    let mut files = 0;
    if let Some(archive) = &result.archive {
        let body = stream::get_blob(session, "artifacts", &archive.digest).await?;
        let done = unpack(body, &dir.join("out"), ARTIFACT_BYTES_MAX, force)
            .map_err(|error| CliError::plain(error.to_string()))?;
        files = done.files;
    }
    if result.refused > 0 {
        session.screen.note(&format!(
            "Left out of out/: {} (links, hard links, devices, names that cannot be told, or over the limit)",
            counted(result.refused, "thing")
        ));
    }
    session.screen.line(&format!(
        "Fetched the outputs of {} and {} into {}",
        counted(result.steps.len() as u64, "step"),
        counted(files, "artifact"),
        dir.display()
    ))
}

async fn write(session: &Session, output: &Output, path: &Path, force: bool) -> Result<(), CliError> {
    let mut from: Box<dyn Read> = match (&output.text, &output.digest) {
        (Some(text), _) => Box::new(io::Cursor::new(text.clone().into_bytes())),
        (None, Some(digest)) => {
            Box::new(stream::get_blob(session, &path.display().to_string(), digest).await?)
        }
        (None, None) => Box::new(io::empty()),
    };
    if force {
        // What cannot be removed cannot be made anew either, and that is told.
        let _ = fs::remove_file(path);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
        CliError::plain(if error.kind() == io::ErrorKind::AlreadyExists {
            format!(
                "{} is there already; name another directory, or give --force to replace files",
                path.display()
            )
        } else {
            format!("cannot write {}: {error}", path.display())
        })
    })?;
    io::copy(&mut from, &mut file)
        .map(drop)
        .map_err(|error| CliError::plain(format!("cannot write {}: {error}", path.display())))
}
