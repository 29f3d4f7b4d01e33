//! The tasks of `examples/` and what `expected.toml` there says of their outcomes.

use crate::task::Record;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What shall become of an example.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// The word of its task's state.
    pub state: String,
    /// Why the deciding step ended, in the record's word.
    pub why: String,
    /// That step's exit code; None = it has none that counts.
    pub exit: Option<i64>,
    /// How many steps ran.
    pub steps: usize,
    /// Files under `out/`.
    #[serde(default)]
    pub artifacts: Vec<String>,
}

impl Expected {
    /// What is not as expected, in words; nothing when all is.
    #[must_use]
    pub fn differs(&self, task: &Record) -> Vec<String> {
        let step = task.deciding();
        let artifacts: Vec<&Value> = task.json()["result"]["artifacts"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| &one["path"])
            .collect();
        let mut wrong = Vec::new();
        let mut compare = |what: &str, is: String, shall: String| {
            if is != shall {
                wrong.push(format!("{what} is {is}, expected {shall}"));
            }
        };
        compare("state", task.state().to_owned(), self.state.clone());
        compare("why", step["why"].as_str().unwrap_or("nothing").to_owned(), self.why.clone());
        if let Some(exit) = self.exit {
            compare("exit", step["exit"].to_string(), exit.to_string());
        }
        compare("steps", task.steps().len().to_string(), self.steps.to_string());
        compare(
            "artifacts",
            format!("{artifacts:?}"),
            format!("{:?}", self.artifacts.iter().map(|path| Value::from(path.as_str())).collect::<Vec<_>>()),
        );
        compare("attempts", task.attempts().len().to_string(), "1".to_owned());
        wrong
    }
}

/// The directory of the examples.
#[must_use]
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// All examples with what is expected of them.
///
/// # Errors
/// When a directory has no line in `expected.toml`, or a line no directory.
pub fn all() -> Result<BTreeMap<String, Expected>> {
    let text = fs::read_to_string(dir().join("expected.toml")).context("examples/expected.toml")?;
    let expected: BTreeMap<String, Expected> = toml::from_str(&text).context("examples/expected.toml")?;
    for entry in fs::read_dir(dir())?.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir()))
    {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ensure!(expected.contains_key(&name), "examples/{name} is not in expected.toml");
    }
    for name in expected.keys() {
        ensure!(dir().join(name).join("task.toml").is_file(), "examples/{name} has no task.toml");
    }
    Ok(expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::task::{TaskSpec, check};

    #[test]
    fn every_example_is_a_task_that_would_be_accepted() {
        for name in all().expect("examples").keys() {
            let text = fs::read_to_string(dir().join(name).join("task.toml")).expect("read");
            let spec: TaskSpec = toml::from_str(&text).expect(name);
            check(&spec).expect(name);
            assert_eq!((&spec.name, spec.pool.as_str()), (name, "quick"));
            assert!(text.starts_with("# Expected: "), "{name} says what is expected");
        }
    }
}
