//! What is said while it works: one line that changes on a terminal, a line per change elsewhere. Also the signal that
//! ends it, since every wait here looks at it.

use anyhow::{Context, Result, bail, ensure};
use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// How long after a failure a Ctrl-C that caused it may take to be noticed.
const SAID: Duration = Duration::from_millis(200);

/// Whether somebody pressed Ctrl-C.
#[derive(Debug, Clone)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Notes SIGINT, SIGTERM and SIGHUP from now on.
    pub fn on_signals() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&asked);
        ctrlc::set_handler(move || set.store(true, Ordering::SeqCst))?;
        Ok(Self(asked))
    }

    /// Whether one came.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// The same, a moment later if need be: what Ctrl-C ends beside us may be noticed before Ctrl-C itself.
    pub fn asked_soon(&self) -> bool {
        let end = Instant::now() + SAID;
        while !self.asked() && Instant::now() < end {
            std::thread::sleep(LOOK);
        }
        self.asked()
    }

    /// Fails once one came.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.asked(), "interrupted");
        Ok(())
    }
}

/// Standard error.
pub struct Screen {
    /// See [`Stop`].
    pub stop: Stop,
    terminal: bool,
    shown: RefCell<String>,
}

impl Screen {
    /// Nothing said yet.
    pub fn new(stop: Stop) -> Self {
        Self { stop, terminal: std::io::stderr().is_terminal(), shown: RefCell::default() }
    }

    /// Says a line that stays.
    pub fn say(&self, line: &str) {
        self.clear();
        eprintln!("{line}");
    }

    /// Takes the changing line away.
    pub fn clear(&self) {
        if !self.shown.take().is_empty() && self.terminal {
            eprint!("\r\x1b[K");
        }
    }

    fn show(&self, line: &str) {
        if *self.shown.borrow() == line {
            return;
        }
        if self.terminal {
            eprint!("\r\x1b[K  {line}");
            std::io::stderr().flush().ok();
        } else {
            eprintln!("  {line}");
        }
        line.clone_into(&mut self.shown.borrow_mut());
    }

    /// Looks until `ready` yields something; shows the line it gives meanwhile.
    ///
    /// # Errors
    /// Its own; when interrupted; when `within` is over.
    pub fn until<T>(
        &self,
        what: &str,
        within: Duration,
        mut ready: impl FnMut() -> Result<(String, Option<T>)>,
    ) -> Result<T> {
        let end = Instant::now() + within;
        loop {
            self.stop.check()?;
            let (line, found) = ready().with_context(|| format!("waiting until {what}"))?;
            self.show(&line);
            if let Some(found) = found {
                return Ok(found);
            }
            if Instant::now() >= end {
                bail!("waited {within:?} in vain until {what}: {line}");
            }
            std::thread::sleep(LOOK);
        }
    }
}
