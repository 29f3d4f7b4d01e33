//! Logs: one line an event on stderr or in a file, with a filter that can be changed while running.

use crate::{LOG_ENV, LOG_FORMAT_ENV};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Shown unless [`LOG_ENV`] says otherwise.
const FILTER: &str = "info";

/// Changes the filter of a running process.
#[derive(Clone)]
pub(crate) struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// Sets the filter.
    ///
    /// # Errors
    /// What is wrong with `text`.
    pub fn set(&self, text: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

/// Starts logging to `file` (appended), or stderr. Only the first call in a process has an effect on where logs go.
///
/// # Errors
/// When the file can't be opened.
pub(crate) fn init(file: Option<&Path>) -> io::Result<Filter> {
    let filter = std::env::var(LOG_ENV).unwrap_or_default();
    let filter = if filter.is_empty() { FILTER.to_owned() } else { filter };
    let filter = EnvFilter::try_new(&filter).map_err(io::Error::other)?;
    let (filter, handle) = reload::Layer::new(filter);
    let (writer, ansi) = match file {
        Some(path) => (BoxMakeWriter::new(Mutex::new(open(path)?)), false),
        None => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
    };
    let lines = fmt::layer().with_writer(writer).with_ansi(ansi);
    let json = std::env::var(LOG_FORMAT_ENV).is_ok_and(|format| format == "json");
    let lines = if json { lines.json().boxed() } else { lines.boxed() };
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Ok(Filter(handle))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}
