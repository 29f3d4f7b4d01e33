//! Tasks as `QueryTask` shows them, read by name: independent of the types that wrote them.

use crate::{Luxi, wait};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// Words of the states, by their numbers.
const STATES: [&str; 9] = [
    "pending",
    "compiling",
    "compile-failed",
    "running",
    "run-failed",
    "success",
    "retrying",
    "cancelled",
    "unknown-error",
];
/// Those in which nothing changes any more.
const FINAL: [&str; 5] = ["compile-failed", "run-failed", "success", "cancelled", "unknown-error"];

/// A task's record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record(Value);

impl Record {
    /// The record of a task.
    ///
    /// # Errors
    /// When it is not known, or luxid does not answer.
    pub fn of(luxi: &mut Luxi, id: u64) -> Result<Self> {
        let record = luxi.call("QueryTask", json!([id]))?;
        ensure!(record["id"] == json!(id), "task {id} is not known: {record}");
        Ok(Self(record))
    }

    /// The record as it is.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.0
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0["id"].as_u64().unwrap_or(0)
    }

    /// The name it was submitted with.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0["spec"]["name"].as_str().unwrap_or_default()
    }

    /// The word of its state.
    #[must_use]
    pub fn state(&self) -> &'static str {
        let number = self.0["state"].as_u64().and_then(|number| usize::try_from(number).ok());
        number.and_then(|number| STATES.get(number)).copied().unwrap_or("no state")
    }

    /// Whether nothing changes any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        FINAL.contains(&self.state())
    }

    /// Why it waits or ended.
    #[must_use]
    pub fn why(&self) -> &str {
        self.0["why"].as_str().unwrap_or_default()
    }

    /// The steps that ran.
    #[must_use]
    pub fn steps(&self) -> &[Value] {
        self.0["result"]["steps"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The step that decided: the first that did not end well, else the last.
    #[must_use]
    pub fn deciding(&self) -> &Value {
        let bad = |step: &&Value| step["why"] != "exit" || step["exit"] != 0;
        self.steps().iter().find(bad).or(self.steps().last()).unwrap_or(&Value::Null)
    }

    /// Its attempts, the last one the newest.
    #[must_use]
    pub fn attempts(&self) -> &[Value] {
        self.0["attempts"].as_array().map_or(&[], Vec::as_slice)
    }

    /// Outcomes of its attempts; empty for one under way.
    #[must_use]
    pub fn outcomes(&self) -> Vec<&str> {
        self.attempts().iter().map(|attempt| attempt["outcome"].as_str().unwrap_or_default()).collect()
    }

    /// The VMs of its attempts that got one: (slot, generation).
    #[must_use]
    pub fn vms(&self) -> Vec<(String, u64)> {
        let vm = |attempt: &Value| {
            let vm = &attempt["vm"];
            Some((vm["slot"].as_str()?.to_owned(), vm["generation"].as_u64()?))
        };
        self.attempts().iter().filter_map(vm).collect()
    }

    /// Text that a step kept of its standard output; empty when it lies elsewhere.
    #[must_use]
    pub fn out(&self, step: usize) -> &str {
        self.steps().get(step).and_then(|step| step["out"]["text"].as_str()).unwrap_or_default()
    }

    /// The same of standard error.
    #[must_use]
    pub fn err(&self, step: usize) -> &str {
        self.steps().get(step).and_then(|step| step["err"]["text"].as_str()).unwrap_or_default()
    }
}

/// Submits a task by LUXI. Its id.
///
/// # Errors
/// When it is refused: with the reason.
pub fn submit(luxi: &mut Luxi, spec: &Value) -> Result<u64> {
    luxi.call("SubmitTask", json!([spec]))?.as_u64().context("no task id")
}

/// Waits until all these tasks are final; their records, in this order.
///
/// # Errors
/// When one is not after `within`: says where they stand.
pub fn wait_all(luxi: &mut Luxi, ids: &[u64], within: Duration) -> Result<Vec<Record>> {
    let mut last = String::new();
    let ended =
        wait::until("all tasks end", within, || match ids.iter().map(|id| Record::of(luxi, *id)).collect() {
            Ok(all) => {
                let all: Vec<Record> = all;
                let open: Vec<String> = all.iter().filter(|one| !one.is_final()).map(standing).collect();
                last = format!("{} of {} are open: {}", open.len(), all.len(), open.join("; "));
                open.is_empty().then_some(all)
            }
            Err(why) => {
                last = format!("{why:#}");
                None
            }
        });
    ended.with_context(|| last.clone())
}

fn standing(task: &Record) -> String {
    format!("task {} is {} ({})", task.id(), task.state(), task.why())
}

/// Says if a VM was used by two attempts.
///
/// # Errors
/// Which.
pub fn no_vm_twice(tasks: &[Record]) -> Result<usize> {
    let mut seen = BTreeSet::new();
    for task in tasks {
        for vm in task.vms() {
            ensure!(seen.insert(vm.clone()), "{vm:?} was used twice, the second time by task {}", task.id());
        }
    }
    Ok(seen.len())
}
