//! Why a command ends badly: its text, in Ganeti's forms where Ganeti has one, and its exit code
//! (`spec/luxi.md` §4).

use gantry_model::error::GanetiError;
use serde_json::Value;
use thiserror::Error;

/// Exit code of most errors.
pub const EXIT_FAILURE: u8 = 1;
/// Exit code of a broken configuration on the server, and of wrong usage.
pub const EXIT_CONFIGURATION: u8 = 2;
/// Exit code of a list with an unknown field.
pub const EXIT_UNKNOWN_FIELD: u8 = 14;

/// The end of a command that did not do what was asked. Texts say what, why and what to do.
#[derive(Debug, Error)]
pub enum CliError {
    /// An error of the server, or of an opcode.
    #[error("{}", ganeti_text(.0))]
    Ganeti(GanetiError),
    /// The server could not read the request.
    #[error("Unhandled protocol error while talking to the master daemon:\n{0}")]
    Refused(String),
    /// The server's answer, or the connection, broke Ganeti's rules.
    #[error("Unhandled protocol error while talking to the master daemon:\n{0}")]
    Protocol(String),
    /// No answer in time.
    #[error(
        "Timeout while talking to the master daemon. Jobs might have been submitted and will continue to run \
         even if the call timed out. Look at them with \"gnt-job list\", \"gnt-job watch\" and \"gnt-job cancel\". Error:\n{0}"
    )]
    Timeout(String),
    /// The socket may not be opened.
    #[error(
        "It seems you don't have permissions to connect to the master daemon.\nPlease retry as a different user.\n({0})"
    )]
    Permission(String),
    /// The command was used wrongly in a way the parser of options cannot see.
    #[error("{0}")]
    Usage(String),
    /// A failure of this machine or a refusal of this program.
    #[error("{0}")]
    Plain(String),
    /// All was said already; only the exit code is left.
    #[error("")]
    Told(u8),
    /// Ctrl-C.
    #[error("{0}")]
    Interrupted(String),
    /// Nobody reads the standard output any more.
    #[error("")]
    OutputGone,
}

impl CliError {
    /// The code that the program exits with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Ganeti(error) if error.class == "ConfigurationError" => EXIT_CONFIGURATION,
            Self::Usage(_) => EXIT_CONFIGURATION,
            Self::Told(code) => *code,
            Self::Ganeti(_)
            | Self::Refused(_)
            | Self::Protocol(_)
            | Self::Timeout(_)
            | Self::Permission(_)
            | Self::Plain(_)
            | Self::Interrupted(_)
            | Self::OutputGone => EXIT_FAILURE,
        }
    }

    /// Calls by what the user gave them the numbers that the server refuses: per name of the server's, that of the
    /// option. Its texts begin `NAME must be`, after a colon or not.
    #[must_use]
    pub fn naming(self, given: &[(&str, &str)]) -> Self {
        let Self::Ganeti(mut error) = self else { return self };
        if let Some(Value::String(text)) = error.args.first_mut() {
            for verb in [" must be ", " is above "] {
                let Some((before, after)) = text.split_once(verb) else { continue };
                let start = before.rfind(": ").map_or(0, |at| at + 2);
                let (head, subject) = before.split_at(start);
                let (name, rest) = subject.split_once(' ').unwrap_or((subject, ""));
                let Some((_, option)) = given.iter().find(|(own, _)| *own == name) else { continue };
                let gap = if rest.is_empty() { "" } else { " " };
                *text = format!("{head}{option}{gap}{rest}{verb}{after}");
                break;
            }
        }
        Self::Ganeti(error)
    }

    /// A failure whose text is made from a cause: "what: why".
    pub fn plain(text: impl Into<String>) -> Self {
        Self::Plain(without_numbers(text.into()))
    }
}

/// Without the numbers that the standard library adds to the words of a system's error: the words say it.
pub fn without_numbers(mut text: String) -> String {
    const BEGIN: &str = " (os error ";
    while let Some(at) = text.find(BEGIN) {
        let rest = &text[at + BEGIN.len()..];
        match rest.find(')') {
            Some(end) if rest[..end].bytes().all(|b| b.is_ascii_digit()) => {
                text.replace_range(at..=at + BEGIN.len() + end, "");
            }
            _ => break,
        }
    }
    text
}

impl From<crate::filter::FilterError> for CliError {
    fn from(error: crate::filter::FilterError) -> Self {
        Self::Plain(format!("Error while parsing query filter: {error}"))
    }
}

/// What Ganeti's commands print for an error of this class.
fn ganeti_text(error: &GanetiError) -> String {
    let text = crate::output::text::safe_lines(&error.to_string());
    let first = || error.args.first().and_then(Value::as_str).unwrap_or_default();
    match error.class.as_str() {
        "ConfigurationError" => format!("Corrupt configuration file: {text}\nAborting."),
        "HooksAbort" => format!("Failure: hooks execution failed:\n{}", hooks(error)),
        "HooksFailure" => format!("Failure: hooks general failure: {text}"),
        "ResolverError" => format!("Failure: can't resolve hostname '{}'", first()),
        "OpPrereqError" => match error.ecode() {
            Some(ecode) => format!(
                "Failure: prerequisites not met for this operation:\nerror type: {ecode}, error details:\n{text}"
            ),
            None => format!("Failure: prerequisites not met for this operation:\n{text}"),
        },
        "OpExecError" => format!("Failure: command execution error:\n{text}"),
        "TagError" => format!("Failure: invalid tag(s) given:\n{text}"),
        "JobQueueDrainError" => {
            "Failure: the job queue is marked for drain and doesn't accept new requests".to_owned()
        }
        "JobQueueFull" => {
            "Failure: the job queue is full and doesn't accept new job submissions until jobs of \
                           it finish\nSee \"gnt-job list --queued\"; wait, or cancel some."
                .to_owned()
        }
        "TypeEnforcementError" => format!("Parameter Error: {text}"),
        "ParameterError" => format!("Failure: unknown/wrong parameter name '{text}'"),
        "JobLost" => format!("Error checking job status: {text}"),
        "JobCanceled" => format!("Failure: {text}"),
        "QueryFilterParseError" => format!("Error while parsing query filter: {text}"),
        _ => format!("Unhandled Ganeti error: {text}"),
    }
}

/// `[[node, script, output]...]` as lines.
fn hooks(error: &GanetiError) -> String {
    let rows = error.args.first().and_then(Value::as_array).into_iter().flatten();
    let line = |row: &Value| {
        let part = |i: usize| row.get(i).and_then(Value::as_str).unwrap_or_default();
        let output =
            if part(2).is_empty() { " (no output)".to_owned() } else { format!(", output: {}", part(2)) };
        format!("  node: {}, script: {}{output}", part(0), part(1))
    };
    rows.map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::error::Ecode;
    use serde_json::json;

    #[test]
    fn causes_are_words_without_numbers() {
        let gone = std::io::Error::from_raw_os_error(2);
        assert_eq!(
            CliError::plain(format!("cannot read a: {gone}; cannot read b: {gone}; try c")).to_string(),
            "cannot read a: No such file or directory; cannot read b: No such file or directory; try c"
        );
        assert_eq!(CliError::plain("odd (os error x) text").to_string(), "odd (os error x) text");
    }

    #[test]
    fn errors_read_as_ganetis() {
        let error = CliError::Ganeti(GanetiError::prereq("Node name x not found", Ecode::UnknownEntity));
        assert_eq!(
            error.to_string(),
            "Failure: prerequisites not met for this operation:\nerror type: unknown_entity, error details:\nNode name x not found"
        );
        assert_eq!(error.exit_code(), 1);
        let error = |text: &str| CliError::Ganeti(GanetiError::prereq(text, Ecode::WrongInput));
        let said = |text: &str| error(text).naming(&[("max", "--max"), ("wall_s", "--wall")]).to_string();
        assert!(said("Pool x: max must be 0 to 4, not 5").ends_with("\nPool x: --max must be 0 to 4, not 5"));
        assert!(said("wall_s must be 1 to 4").ends_with("\n--wall must be 1 to 4"));
        assert!(said("max 3 is above 2").ends_with("\n--max 3 is above 2"));
        assert!(said("maximum must be x").ends_with("\nmaximum must be x"));
        let error = CliError::Ganeti(GanetiError::new("ConfigurationError", "x"));
        assert_eq!(error.exit_code(), 2);
        let error = CliError::Ganeti(GanetiError { class: "JobQueueFull".to_owned(), args: vec![] });
        assert!(error.to_string().starts_with("Failure: the job queue is full"));
        let hooks = GanetiError { class: "HooksAbort".to_owned(), args: vec![json!([["n", "s", ""]])] };
        assert!(CliError::Ganeti(hooks).to_string().ends_with("node: n, script: s (no output)"));
    }
}
