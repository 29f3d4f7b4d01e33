//! `gnt-lease put` and `get`: files into a leased machine and out of it, as tar archives.

use super::find;
use crate::archive::{PackError, fits, pack, sources, unpack};
use crate::error::CliError;
use crate::output::text::counted;
use crate::session::Session;
use crate::spool;
use crate::stream::{self, PIECE, broke, failed, piece};
use gantry_model::path::join;
use gantry_model::task::INPUT_BYTES_MAX;
use gantry_proto::stream::{LeaseGet, LeaseGetReply, LeaseGetRequest, LeasePut, LeasePutRequest};
use gantry_rpc::Event;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Put {
    /// The lease: its uuid, or enough of its beginning
    lease: String,
    /// Which of its machines, from 0
    #[arg(short = 'n', long, value_name = "N", default_value_t = 0)]
    vm: u32,
    /// Files and directories here, then the directory there that they come into
    #[arg(required = true, value_name = "LOCAL")]
    paths: Vec<PathBuf>,
    /// The directory below the machine's home, made if need be
    #[arg(long, value_name = "REMOTE-DIR")]
    to: Option<String>,
    /// Send what symbolic links point to; without it they are refused
    #[arg(long)]
    follow: bool,
}

#[derive(Debug, clap::Args)]
pub struct Get {
    /// The lease: its uuid, or enough of its beginning
    lease: String,
    /// Which of its machines, from 0
    #[arg(short = 'n', long, value_name = "N", default_value_t = 0)]
    vm: u32,
    /// A file or a directory below the machine's home
    remote: String,
    /// Directory here that it comes into; made if need be
    #[arg(default_value = ".")]
    local: PathBuf,
    /// Replace files that are there already
    #[arg(short, long)]
    force: bool,
}

/// Sends files.
///
/// # Errors
/// What cannot be sent, by its path; the server's.
pub async fn put(session: &mut Session, put: Put) -> Result<(), CliError> {
    session.command = "put".to_owned();
    let (paths, to) = places(&put)?;
    if !to.is_empty() {
        gantry_model::path::parts(&to).map_err(CliError::Usage)?;
    }
    let mut all = Vec::new();
    for path in &paths {
        let name = path.canonicalize().ok().and_then(|full| Some(full.file_name()?.to_str()?.to_owned()));
        // A link keeps the name it has here.
        let name =
            path.file_name().and_then(|own| own.to_str()).map(str::to_owned).or(name).unwrap_or_default();
        sources(path, &name, put.follow, &mut all).map_err(|error| told(&error))?;
    }
    all.iter().try_for_each(|one| fits(&one.path, &join(&to, &one.name))).map_err(|error| told(&error))?;
    let mut file = spool::file()?;
    let mut out = BufWriter::new(&mut file);
    let packed = pack(&all, put.follow, INPUT_BYTES_MAX, &mut out).map_err(|error| told(&error))?;
    out.flush().map_err(|error| CliError::plain(format!("cannot write the archive: {error}")))?;
    drop(out);
    let total = file.metadata().map_or(0, |meta| meta.len());
    let lease = find(session, &put.lease).await?;
    let upload = format!("cli-{}", uuid::Uuid::new_v4().simple());
    stream::upload(session, "put", total, |client, offset| {
        let read = piece(&mut file, offset, total);
        let (upload, path, vm) = (upload.clone(), to.clone(), put.vm);
        async move {
            let (bytes, last) = read?;
            let request = LeasePutRequest { lease, vm, upload, path, offset, bytes, last };
            Ok(client.call::<LeasePut>(&request, PIECE).await)
        }
    })
    .await?;
    let place = if to.is_empty() { "the home".to_owned() } else { format!("{to}/") };
    session.screen.line(&format!("Sent {}, {} bytes to {place}", files(packed.files), packed.bytes))
}

/// What is sent and where to. As with cp the last of several paths is where to; but a file of that name here may be
/// meant to be sent, so that it has to be said.
fn places(put: &Put) -> Result<(Vec<PathBuf>, String), CliError> {
    let mut paths = put.paths.clone();
    let to = match &put.to {
        Some(to) => to.clone(),
        None if paths.len() == 1 => String::new(),
        None => {
            let last = paths.pop().unwrap_or_default().display().to_string();
            if !last.ends_with('/') && Path::new(&last).is_file() {
                return Err(CliError::Usage(format!(
                    "{last} is a file here; is it to be sent, or the name of the directory there? Say where to with --to DIR, \
                     such as --to . for the home"
                )));
            }
            last
        }
    };
    let to = to.trim_start_matches("./").trim_end_matches('/');
    Ok((paths, if to == "." { String::new() } else { to.to_owned() }))
}

fn files(count: u64) -> String {
    counted(count, "file")
}

fn told(error: &PackError) -> CliError {
    let hint = if matches!(error, PackError::Link(_)) { ", or give --follow" } else { "" };
    CliError::plain(format!("{error}{hint}"))
}

/// Fetches a file or a directory.
///
/// # Errors
/// The server's; what may not be unpacked.
pub async fn get(session: &mut Session, get: Get) -> Result<(), CliError> {
    session.command = "get".to_owned();
    if std::fs::metadata(&get.local).is_ok_and(|meta| !meta.is_dir()) {
        return Err(CliError::plain(format!(
            "{} is a file; name the directory that {} comes into",
            get.local.display(),
            get.remote
        )));
    }
    let lease = find(session, &get.lease).await?;
    let request = LeaseGetRequest { lease, vm: get.vm, path: get.remote, bytes_max: INPUT_BYTES_MAX };
    let mut fruitless = 0;
    let (file, reply) = loop {
        match download(session, &request).await? {
            Ok(done) => break done,
            // The archive is made anew each time: from the start.
            Err(error) if broke(&error) && fruitless < stream::FRUITLESS_MAX => fruitless += 1,
            Err(error) => return Err(failed("get", &error)),
        }
    };
    let done = unpack(file, &get.local, INPUT_BYTES_MAX, get.force)
        .map_err(|error| CliError::plain(error.to_string()))?;
    if reply.refused > 0 {
        session.screen.note(&format!(
            "Left out: {} (links, hard links, devices, names that cannot be told, or over the limit)",
            counted(reply.refused, "thing")
        ));
    }
    session.screen.line(&format!("Fetched {}, {} bytes", files(done.files), done.bytes))
}

type Got = Result<(std::fs::File, LeaseGetReply), gantry_rpc::CallError>;

async fn download(session: &Session, request: &LeaseGetRequest) -> Result<Got, CliError> {
    let disk =
        |error| CliError::plain(format!("get: cannot keep it in the directory for temporary files: {error}"));
    let mut file = spool::file()?;
    let client = stream::connect(session).await?;
    let mut items = match client.open::<LeaseGet>(request).await {
        Ok(items) => items,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        match items.next().await {
            Ok(Event::Item(item)) => file.write_all(&item.bytes).map_err(disk)?,
            Ok(Event::End(reply)) => {
                file.seek(SeekFrom::Start(0)).map_err(disk)?;
                return Ok(Ok((file, reply)));
            }
            Err(error) => return Ok(Err(error)),
        }
    }
}
