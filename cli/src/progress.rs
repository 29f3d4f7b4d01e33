//! What long work says meanwhile: one line that changes on a terminal, a line per change elsewhere.

use crate::output::Screen;
use indicatif::{ProgressBar, ProgressStyle};

/// A line of progress on standard error. Dropping it takes the line from the terminal.
pub struct Progress {
    bar: Option<ProgressBar>,
    last: String,
}

impl Progress {
    /// None is shown before the first [`Progress::say`].
    #[must_use]
    pub fn new(screen: &Screen) -> Self {
        let bar = screen.is_watched().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::default_spinner());
            bar
        });
        Self { bar, last: String::new() }
    }

    /// One that never draws on the terminal: for between lines of other output.
    #[must_use]
    pub fn plain() -> Self {
        Self { bar: None, last: String::new() }
    }

    /// Says how it stands; the same again is not repeated.
    pub fn say(&mut self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.tick();
        }
        if text == self.last {
            return;
        }
        text.clone_into(&mut self.last);
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => Screen.note(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
