//! What every command has at hand: the root, the screen, the connection to luxid, and who it is called as.

use crate::error::CliError;
use crate::luxi::Luxi;
use crate::output::Screen;
use gantry_model::root::Root;
use jiff::tz::TimeZone;
use serde_json::Value;

/// One run of a command.
pub struct Session {
    /// The node's root.
    pub root: Root,
    /// Where output goes.
    pub screen: Screen,
    /// Time zone of printed times.
    pub zone: TimeZone,
    /// The family, such as `node`.
    pub family: &'static str,
    /// The command in it, such as `add`.
    pub command: String,
    /// Whether it was called through the front command `gantry`.
    pub through_front: bool,
    /// Whether the root was named by an option, so that commands to type must name it too.
    pub root_named: bool,
    luxi: Option<Luxi>,
}

impl Session {
    /// A session of `family` on `root`.
    #[must_use]
    pub fn new(root: Root, family: &'static str, through_front: bool) -> Self {
        let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
        Self {
            root,
            screen: Screen,
            zone,
            family,
            command: String::new(),
            through_front,
            root_named: false,
            luxi: None,
        }
    }

    /// Ganeti's name of the program, such as `gnt-node`: the source of reason trails.
    #[must_use]
    pub fn program(&self) -> String {
        format!("gnt-{}", self.family)
    }

    /// A command to type, in the way the user called this one: `gnt-job watch 5` or `gantry job watch 5`.
    #[must_use]
    pub fn typed(&self, family: &str, rest: &str) -> String {
        let front = if self.through_front { "gantry " } else { "gnt-" };
        let root =
            if self.root_named { format!(" --root {}", self.root.path().display()) } else { String::new() };
        format!("{front}{family} {rest}{root}")
    }

    /// The connection to luxid, made at first use.
    ///
    /// # Errors
    /// As [`Luxi::connect`].
    pub async fn luxi(&mut self) -> Result<&mut Luxi, CliError> {
        match &mut self.luxi {
            Some(luxi) => Ok(luxi),
            slot @ None => Ok(slot.insert(Luxi::connect(&self.root).await?)),
        }
    }

    /// Calls a LUXI method that may be repeated.
    ///
    /// # Errors
    /// As [`Luxi::call`].
    pub async fn call(&mut self, method: &str, args: Value) -> Result<Value, CliError> {
        self.luxi().await?.call(method, args).await
    }

    /// Closes the connection to luxid; the next call makes a new one. After a call that was given up: its answer may
    /// still be on the way.
    pub fn hang_up(&mut self) {
        self.luxi = None;
    }

    /// Asks at the terminal; `no` without one is an error that names the option which answers.
    ///
    /// # Errors
    /// There is no terminal to ask at.
    pub fn confirm(&self, question: &str, option: &str) -> Result<bool, CliError> {
        use std::io::{BufRead, IsTerminal};
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Err(CliError::Plain(format!(
                "{question}\nThere is no terminal to ask at; give {option} if you are sure."
            )));
        }
        loop {
            self.screen.note(&format!("{question} [y]/[n]"));
            let mut answer = String::new();
            match stdin.lock().read_line(&mut answer) {
                Ok(0) | Err(_) => return Ok(false),
                Ok(_) => {}
            }
            match answer.trim() {
                "y" | "yes" => return Ok(true),
                "n" | "no" => return Ok(false),
                _ => {}
            }
        }
    }
}
