//! `gnt-os`: images that blueprints name.

use crate::archive::normalise;
use crate::error::CliError;
use crate::list::{ListOptions, Listing, TableOptions};
use crate::opcode::SubmitOptions;
use crate::output::units::{Units, shown};
use crate::session::Session;
use crate::{spool, stream};
use serde_json::json;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Images for blueprints
#[derive(Debug, clap::Args)]
pub struct Family {
    #[command(subcommand)]
    command: Os,
}

#[derive(Debug, clap::Subcommand)]
enum Os {
    /// Import a directory or a tar archive as an image
    #[command(after_help = "Example:\n  gnt-os import debian12 rootfs.tar.gz")]
    Import {
        /// Its name: lower-case letters, digits and inner '-'
        image: String,
        /// A directory, or a tar archive, plain or gzip. Devices, pipes, owners and setuid bits are left out
        path: PathBuf,
        #[command(flatten)]
        job: SubmitOptions,
    },
    /// List images
    #[command(after_help = "Example:\n  gnt-os list")]
    List {
        /// Names, or one filter
        names: Vec<String>,
        #[command(flatten)]
        list: ListOptions,
    },
    /// List the fields that 'list' can show
    ListFields {
        /// Only these
        fields: Vec<String>,
        #[command(flatten)]
        table: TableOptions,
    },
    /// Remove an image that no blueprint names
    #[command(after_help = "Example:\n  gnt-os remove debian12")]
    Remove {
        /// The image
        image: String,
        #[command(flatten)]
        job: SubmitOptions,
    },
}

const LIST: Listing = Listing {
    what: "image",
    fields: &["name", "size", "digest"],
    key: "name",
    numeric: false,
    overrides: &[],
};

/// Bytes as people read them.
fn size(bytes: f64) -> String {
    if bytes < 1024.0 * 1024.0 {
        format!("{:.0}K", (bytes / 1024.0).ceil())
    } else {
        // Rounded up, as in the list.
        shown((bytes / 1024.0 / 1024.0).ceil(), Units::H)
    }
}

/// Runs one command.
///
/// # Errors
/// The command's.
pub async fn run(mut session: Session, family: Family) -> Result<(), CliError> {
    let session = &mut session;
    match family.command {
        Os::Import { image, path, job } => import(session, &image, &path, &job).await,
        Os::List { names, list } => session.list(&LIST, &list, &names).await,
        Os::ListFields { fields, table } => session.list_fields("image", &fields, &table).await,
        Os::Remove { image, job } => {
            session.command = "remove".to_owned();
            session.run_op("OP_OS_REMOVE", json!({"image_name": image}), &job).await.map(drop)
        }
    }
}

async fn import(
    session: &mut Session,
    image: &str,
    path: &Path,
    job: &SubmitOptions,
) -> Result<(), CliError> {
    session.command = "import".to_owned();
    if !gantry_model::pool::is_name(image) || image == gantry_model::pool::IMAGE_HOST {
        return Err(CliError::Usage(format!(
            "'{image}' cannot name an image: give lower-case letters, digits and inner '-', beginning with a letter, \
             and not 'host', which is this system's own files"
        )));
    }
    let mut file = spool::file()?;
    let failed = |error| CliError::plain(format!("cannot import {}: {error}", path.display()));
    let mut out = BufWriter::new(&mut file);
    let notes = normalise(path, &mut out).map_err(failed)?;
    out.flush().map_err(failed)?;
    drop(out);
    if let Some(first) = &notes.first {
        let text =
            format!("{} device(s), pipe(s) or socket(s) are left out, such as {first}", notes.left_out);
        session.screen.note(&text);
    }
    let (digest, bytes) = spool::digest(&mut file).map_err(failed)?;
    stream::put_blob(session, &format!("image {image}"), &mut file, &digest, bytes).await?;
    let given = json!({"image_name": image, "digest": digest, "bytes": bytes});
    if session.run_op("OP_OS_IMPORT", given, job).await?.is_none() {
        return Ok(());
    }
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let text = size(bytes as f64);
    session.screen.line(&format!("Imported {image}: {} entries, {text}, sha256 {digest}", notes.entries))
}
