//! Tags of clusters, groups, nodes and instances: the same three commands in each family.

use crate::error::CliError;
use crate::opcode::SubmitOptions;
use crate::session::Session;
use serde_json::{Value, json};
use std::io::Read;
use std::path::PathBuf;

/// Most bytes read with `--from`: 4096 tags of 128 characters each.
const TAGS_BYTES_MAX: u64 = 4096 * 129;

/// Tags to add or remove.
#[derive(Debug, clap::Args)]
pub struct Tags {
    /// The tags
    tags: Vec<String>,
    /// Read tags from this file too, one a line; - is the standard input
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    job: SubmitOptions,
}

impl Tags {
    fn all(&self) -> Result<Vec<String>, CliError> {
        let mut all = self.tags.clone();
        if let Some(path) = &self.from {
            let text = read(path)?;
            all.extend(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned));
        }
        if all.is_empty() {
            return Err(CliError::Usage("no tag given; name some, or a file with --from".to_owned()));
        }
        Ok(all)
    }
}

fn read(path: &PathBuf) -> Result<String, CliError> {
    let failed =
        |error: std::io::Error| CliError::plain(format!("cannot read tags from {}: {error}", path.display()));
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(TAGS_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(TAGS_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    }
    Ok(text)
}

/// Whether tags are added or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Added.
    Add,
    /// Removed.
    Remove,
}

/// Adds or removes tags of an object; `name` is none for the cluster.
///
/// # Errors
/// The job's.
pub async fn change(
    session: &mut Session,
    change: Change,
    kind: &str,
    name: Option<&str>,
    tags: &Tags,
) -> Result<(), CliError> {
    let id = match change {
        Change::Add => "OP_TAGS_SET",
        Change::Remove => "OP_TAGS_DEL",
    };
    let given = json!({"kind": kind, "name": name, "tags": tags.all()?});
    session.run_op(id, given, &tags.job).await.map(drop)
}

/// Prints an object's tags, one a line.
///
/// # Errors
/// The server's.
pub async fn list(session: &mut Session, kind: &str, name: &str) -> Result<(), CliError> {
    let answer = session.call("QueryTags", json!([kind, name])).await?;
    let mut tags: Vec<&str> = answer.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    tags.sort_unstable();
    tags.iter().try_for_each(|tag| session.screen.line(tag))
}
