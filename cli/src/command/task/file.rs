//! `gnt-task submit`: reads a task file, packs its input, uploads it, submits.

use crate::archive::{Source, fits, pack, sources};
use crate::error::CliError;
use crate::session::Session;
use crate::{spool, stream};
use gantry_model::task::{BodyRef, INPUT_BYTES_MAX, Limits, Step, TaskSpec, check};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{BufWriter, Write};
use std::path::{Component, Path, PathBuf};

/// How keys begin that are drawn here.
pub const DRAWN: &str = "gnt-task-";
/// The task file of a directory.
const IN_DIR: &str = "task.toml";
/// Largest task file: 256 steps of 64 KiB.
const FILE_BYTES_MAX: u64 = 17 << 20;

#[derive(Debug, clap::Args)]
pub struct Submit {
    /// A task file, or a directory with a task.toml in it
    path: PathBuf,
    /// Run it in this pool, whatever the file says
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// Submitting again with the same key answers the same task; without one each submission makes a new one
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,
    /// Wait for its end, as 'wait' does
    #[arg(long)]
    wait: bool,
    /// Print JSON: its number, or with --wait the whole task
    #[arg(long)]
    json: bool,
}

/// Input as a task file names it.
#[derive(Debug, PartialEq)]
enum Input {
    /// All below a directory.
    Dir(String),
    /// These files and directories, under these names.
    Names(Vec<String>),
}

/// A task file.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    name: String,
    pool: Option<String>,
    #[serde(default)]
    user: Option<String>,
    input: Option<Input>,
    compile: Option<One>,
    execute: Many,
    #[serde(default)]
    keep_going: bool,
    #[serde(default)]
    limits: Given,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    priority: i32,
    max_attempts: Option<u32>,
    #[serde(default)]
    labels: BTreeSet<String>,
    key: Option<String>,
}

/// The limits that a task file gives.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Given {
    wall_s: Option<u64>,
    cpu_s: Option<u64>,
    memory_mib: Option<u64>,
    pids: Option<u64>,
    disk_mib: Option<u64>,
    output_kib: Option<u64>,
}

/// The most that the VMs of a pool have.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    wall_s: u64,
    memory_mib: u64,
    pids: u64,
    disk_mib: u64,
}

/// No pool is known to have less.
const ANY: Sizes = Sizes { wall_s: u64::MAX, memory_mib: u64::MAX, pids: u64::MAX, disk_mib: u64::MAX };

impl Given {
    /// All limits: what is not given is the default, or what the VMs have when that is less.
    fn over(&self, sizes: Sizes) -> Limits {
        let usual = Limits::default();
        Limits {
            wall_s: self.wall_s.unwrap_or(usual.wall_s.min(sizes.wall_s)),
            cpu_s: self.cpu_s.unwrap_or(usual.cpu_s),
            memory_mib: self.memory_mib.unwrap_or(usual.memory_mib.min(sizes.memory_mib)),
            pids: self.pids.unwrap_or(usual.pids.min(sizes.pids)),
            disk_mib: self.disk_mib.unwrap_or(usual.disk_mib.min(sizes.disk_mib)),
            output_kib: self.output_kib.unwrap_or(usual.output_kib),
        }
    }

    /// Whether the sizes matter.
    fn open(&self) -> bool {
        [self.wall_s, self.memory_mib, self.pids, self.disk_mib].contains(&None)
    }
}

/// What the VMs of a pool have; a pool that is not there is told when the task is submitted.
async fn sizes(session: &mut Session, pool: &str) -> Result<Sizes, CliError> {
    // Filters, not names: no row is an answer.
    let named = |name: &str, number: &str| json!(["&", ["==", "name", name], [">=", number, 0]]);
    let pools = session.rows("pool", &["blueprint"], named(pool, "amount")).await?;
    let Some(blueprint) = pools.first().and_then(|row| row["blueprint"].as_str()) else { return Ok(ANY) };
    let fields = ["wall_max", "memory", "pids", "disk"];
    let rows = session.rows("blueprint", &fields, named(blueprint, "pids")).await?;
    let size = |name: &str| rows.first().and_then(|row| row[name].as_u64()).unwrap_or(u64::MAX);
    Ok(Sizes {
        wall_s: size("wall_max"),
        memory_mib: size("memory"),
        pids: size("pids"),
        disk_mib: size("disk"),
    })
}

/// A step: a command alone, or a table.
#[derive(Debug)]
struct One(Step);

/// One step or several.
#[derive(Debug)]
struct Many(Vec<Step>);

fn only(command: &str) -> Step {
    Step { command: command.to_owned(), ..Step::default() }
}

impl<'de> Deserialize<'de> for One {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = One;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command, or a table with name, command, stdin, wall_s, cpu_s")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<One, E> {
                Ok(One(only(text)))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<One, A::Error> {
                Step::deserialize(MapAccessDeserializer::new(map)).map(One)
            }
        }
        from.deserialize_any(Seen)
    }
}

impl<'de> Deserialize<'de> for Many {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = Many;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command, or a list of commands or tables")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Many, E> {
                Ok(Many(vec![only(text)]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Many, A::Error> {
                let mut steps = Vec::new();
                while let Some(One(step)) = list.next_element()? {
                    steps.push(step);
                }
                Ok(Many(steps))
            }
        }
        from.deserialize_any(Seen)
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = Input;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a directory, or a list of files and directories")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Input, E> {
                Ok(Input::Dir(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Input, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(Input::Names(names))
            }
        }
        from.deserialize_any(Seen)
    }
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the file or the input; the server's; with `--wait` as that.
pub async fn run(session: &mut Session, submit: Submit) -> Result<(), CliError> {
    session.command = "submit".to_owned();
    let path = if submit.path.is_dir() { submit.path.join(IN_DIR) } else { submit.path.clone() };
    let mut file = read(&path)?;
    let input = input_sources(&path, file.input.as_ref())?;
    let given = std::mem::take(&mut file.limits);
    let mut spec = spec(file, &given, &submit, &path)?;
    let first = spec.compile.as_ref().or(spec.execute.first());
    check_stdin(first, &input).map_err(|why| CliError::plain(format!("{}: {why}", path.display())))?;
    if !input.is_empty() {
        spec.input = Some(send_input(session, &path, &input).await?);
    }
    if given.open() {
        spec.limits = given.over(sizes(session, &spec.pool).await?);
    }
    // Drawn when not given: a repeated call after a broken connection makes no second task.
    spec.key.get_or_insert_with(|| format!("{DRAWN}{}", uuid::Uuid::new_v4()));
    let answer = session.call("SubmitTask", json!([spec])).await?;
    let Some(id) = answer.as_u64().or_else(|| answer.as_str()?.parse().ok()) else {
        return Err(CliError::Protocol(format!("SubmitTask answered {answer}, no task number")));
    };
    match (submit.json, submit.wait) {
        (false, _) => session.screen.line(&format!("TaskID: {id}"))?,
        (true, false) => session.screen.line(&json!({"id": id}).to_string())?,
        (true, true) => {}
    }
    if submit.wait { super::wait::one(session, id, submit.json).await } else { Ok(()) }
}

fn read(path: &Path) -> Result<File, CliError> {
    let failed = |error: std::io::Error| {
        let hint = if path.file_name().is_some_and(|name| name == IN_DIR) {
            "; a directory is submitted by the task.toml in it, see \"gnt-task submit --help\""
        } else {
            ""
        };
        CliError::plain(format!("cannot read the task file {}: {error}{hint}", path.display()))
    };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(CliError::plain(format!(
            "{} is too large for a task file: {bytes} bytes",
            path.display()
        )));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    toml::from_str(&text)
        .map_err(|error| CliError::plain(format!("{}: {}", path.display(), error.to_string().trim_end())))
}

fn spec(file: File, given: &Given, submit: &Submit, path: &Path) -> Result<TaskSpec, CliError> {
    let Some(pool) = submit.pool.clone().or(file.pool) else {
        return Err(CliError::plain(format!(
            "{} names no pool; add a line pool = \"NAME\", or give --pool NAME",
            path.display()
        )));
    };
    let user = file.user.unwrap_or_else(crate::local::user);
    let spec = TaskSpec {
        name: file.name,
        pool,
        user,
        input: None,
        compile: file.compile.map(|step| step.0),
        execute: file.execute.0,
        keep_going: file.keep_going,
        limits: given.over(ANY),
        env: file.env,
        priority: file.priority,
        max_attempts: file.max_attempts.unwrap_or(gantry_model::task::ATTEMPTS_DEFAULT),
        labels: file.labels,
        key: submit.key.clone().or(file.key),
    };
    check(&spec).map_err(|why| CliError::plain(format!("{}: {why}", path.display())))?;
    Ok(spec)
}

/// That the first step finds its standard input; what later ones read, a step before them may make.
fn check_stdin(first: Option<&Step>, input: &[Source]) -> Result<(), String> {
    let Some(wanted) = first.and_then(|step| step.stdin.as_deref()) else { return Ok(()) };
    let inside =
        !Path::new(wanted).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir));
    if inside && input.iter().all(|source| source.name != plain(wanted)) {
        return Err(format!(
            "stdin = \"{wanted}\" is no file of the input, which has {}; put it beside the task file, or name it in input",
            if input.is_empty() { "no files".to_owned() } else { format!("{} others", input.len()) }
        ));
    }
    Ok(())
}

/// A name as it stands in the archive: `./` in front and `/` at the end say nothing.
fn plain(name: &str) -> &str {
    // An absolute one stays so, to be refused: of "/" nothing would be left, which is the directory itself.
    let name = if name.starts_with('/') { name } else { name.trim_start_matches("./").trim_end_matches('/') };
    if name == "." { "" } else { name }
}

/// The files of the input, by their names in the machine's home directory.
fn input_sources(path: &Path, input: Option<&Input>) -> Result<Vec<Source>, CliError> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        Some(_) | None => PathBuf::from("."),
    };
    let mut all = Vec::new();
    let failed = |error: crate::archive::PackError| CliError::plain(format!("input: {error}"));
    match input {
        None => {
            sources(&dir, "", false, &mut all).map_err(failed)?;
            all.retain(|source| {
                source.path.file_name() != path.file_name() || source.path.parent() != Some(&dir)
            });
        }
        Some(Input::Dir(below)) => {
            let (top, name) = (dir.join(below), plain(below));
            if !name.is_empty() {
                fits(&top, name).map_err(failed)?;
            }
            // Of a directory what is in it is sent, of a file the file.
            let name = if top.is_file() { name } else { "" };
            sources(&top, name, false, &mut all).map_err(failed)?;
        }
        Some(Input::Names(names)) => {
            for name in names {
                sources(&dir.join(name), plain(name), false, &mut all).map_err(failed)?;
            }
            all.sort_by(|a, b| a.name.cmp(&b.name));
            all.dedup_by(|a, b| a.name == b.name);
        }
    }
    Ok(all)
}

/// Packs and uploads the input.
async fn send_input(session: &Session, path: &Path, input: &[Source]) -> Result<BodyRef, CliError> {
    let mut file = spool::file()?;
    let failed = |error: &dyn fmt::Display| CliError::plain(format!("input of {}: {error}", path.display()));
    let mut out = BufWriter::new(&mut file);
    pack(input, false, INPUT_BYTES_MAX, &mut out).map_err(|error| failed(&error))?;
    out.flush().map_err(|error| failed(&error))?;
    drop(out);
    let (digest, bytes) = spool::digest(&mut file).map_err(|error| failed(&error))?;
    if bytes > INPUT_BYTES_MAX {
        let text =
            format!("its archive has {bytes} bytes, at most {INPUT_BYTES_MAX} can be sent; leave files out");
        return Err(failed(&text));
    }
    stream::put_blob(session, "input", &mut file, &digest, bytes).await?;
    Ok(BodyRef { digest, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_not_given_are_what_the_machines_have_at_most() {
        let file = parse("execute = 'x'\n[limits]\nmemory_mib = 512\ndisk_mib = 8\n").unwrap();
        let sizes = Sizes { wall_s: 30, memory_mib: 128, pids: 1000, disk_mib: 32 };
        let usual = Limits::default();
        let limits = file.limits.over(sizes);
        assert_eq!(
            (limits.memory_mib, limits.disk_mib),
            (512, 8),
            "given ones stay, also those that do not fit"
        );
        assert_eq!((limits.wall_s, limits.pids, limits.cpu_s), (30, usual.pids, usual.cpu_s));
        assert_eq!(parse("execute = 'x'").unwrap().limits.over(ANY), usual);
    }

    fn parse(text: &str) -> Result<File, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn steps_are_commands_or_tables() {
        let file = parse("pool = 'p'\nexecute = 'true'\ncompile = 'make'").unwrap();
        assert_eq!((file.execute.0, file.compile.unwrap().0), (vec![only("true")], only("make")));
        let file = parse("execute = ['a', {command = 'b', wall_s = 5}]\ninput = ['x']").unwrap();
        assert_eq!((file.execute.0.len(), file.execute.0[1].wall_s), (2, Some(5)));
        assert_eq!(file.input, Some(Input::Names(vec!["x".to_owned()])));
        let file = parse("input = 'src'\n[[execute]]\ncommand = 'a'\n[[execute]]\ncommand = 'b'").unwrap();
        assert_eq!((file.execute.0.len(), file.input), (2, Some(Input::Dir("src".to_owned()))));
    }

    #[test]
    fn standard_input_that_nobody_makes_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(IN_DIR);
        std::fs::write(dir.path().join("in.txt"), "1").unwrap();
        std::fs::write(&path, "").unwrap();
        let input = input_sources(&path, None).unwrap();
        let said = |text: &str| {
            let file = parse(text).unwrap();
            let compile = file.compile.map(|step| step.0);
            check_stdin(compile.as_ref().or(file.execute.0.first()), &input)
        };
        let step = |stdin: &str| format!("[[execute]]\ncommand = 'cat'\nstdin = '{stdin}'\n");
        assert_eq!(said(&step("in.txt")), Ok(()));
        assert_eq!(said(&step("./in.txt")), Ok(()));
        assert_eq!(said(&step("/usr/share/dict/words")), Ok(()), "of the image");
        assert!(said(&step("other.txt")).unwrap_err().contains("other.txt"));
        assert_eq!(said(&format!("compile = 'make other.txt'\n{}", step("other.txt"))), Ok(()));
        assert_eq!(
            said(&format!("{}{}", step("in.txt"), step("other.txt"))),
            Ok(()),
            "the first may make it"
        );
    }

    #[test]
    fn unknown_keys_are_named_with_their_line() {
        for (text, key, line) in [
            ("pool = 'p'\nexecut = 'x'\n", "execut", "line 2"),
            ("execute = 'x'\n[limits]\nwall = 5\n", "wall", "line 3"),
            ("\n[[execute]]\ncommand = 'a'\ncolour = 'red'\n", "colour", "line 4"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(&format!("unknown field `{key}`")) && error.contains(line), "{error}");
        }
    }
}
