//! Standard output and standard error of one command.

use crate::error::CliError;
use std::io::{IsTerminal, Write};

/// Writes a command's results and notices. A closed standard output ends the command quietly.
#[derive(Debug, Default)]
pub struct Screen;

impl Screen {
    /// One line of results.
    ///
    /// # Errors
    /// [`CliError::OutputGone`] when nobody reads any more.
    pub fn line(&self, text: &str) -> Result<(), CliError> {
        self.raw(text)?;
        self.raw("\n")
    }

    /// Results as they are.
    ///
    /// # Errors
    /// As [`Screen::line`].
    pub fn raw(&self, text: &str) -> Result<(), CliError> {
        std::io::stdout().write_all(text.as_bytes()).map_err(|_| CliError::OutputGone)
    }

    /// Bytes of another program's standard output.
    ///
    /// # Errors
    /// As [`Screen::line`].
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut out = std::io::stdout();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|_| CliError::OutputGone)
    }

    /// Bytes of another program's standard error.
    pub fn error_bytes(&self, bytes: &[u8]) {
        // As in `note`.
        let _ = std::io::stderr().write_all(bytes);
    }

    /// One line for the person at the terminal, beside the results.
    pub fn note(&self, text: &str) {
        // Nothing sensible can be done when standard error is gone.
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// Whether somebody sits before it: progress may be drawn.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        std::io::stderr().is_terminal()
    }
}
