//! Builds opcodes as Ganeti's clients send them: every parameter present, the reason trail begun
//! (`spec/opcodes.md` §1, `spec/jobs.md` §5). Pure but for the time passed in.

use crate::error::CliError;
use gantry_model::opcode::{OP_ID, check};
use serde_json::{Map, Value, json};

/// Options of every command that submits a job.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SubmitOptions {
    /// Submit the job and print its number instead of waiting for it
    #[arg(long, help_heading = "Job")]
    pub submit: bool,
    /// Print the job's number, then wait for it
    #[arg(long, help_heading = "Job")]
    pub print_jobid: bool,
    /// Only check whether it could be done
    #[arg(long, help_heading = "Job")]
    pub dry_run: bool,
    /// Priority of the job: low, normal or high
    #[arg(long, value_name = "WORD", value_parser = crate::params::submit_priority, help_heading = "Job")]
    pub priority: Option<i64>,
    /// Why, for the job's reason trail
    #[arg(long, value_name = "TEXT", help_heading = "Job")]
    pub reason: Option<String>,
}

/// An opcode with all its parameters: `given`, the common ones of `options`, defaults for the rest.
/// `program` and `command` name the source of the reason trail, `now_ns` its time.
///
/// # Errors
/// A parameter that the opcode does not take or of a wrong kind: what, and what is accepted.
pub fn build(
    id: &str,
    given: Value,
    options: &SubmitOptions,
    trail: &Trail<'_>,
) -> Result<Map<String, Value>, CliError> {
    let Value::Object(mut op) = given else {
        return Err(CliError::plain(format!("{id}: parameters are no object")));
    };
    op.insert(OP_ID.to_owned(), json!(id));
    op.insert("reason".to_owned(), trail.entries(options.reason.as_deref()));
    if options.dry_run {
        op.insert("dry_run".to_owned(), json!(true));
    }
    if let Some(priority) = options.priority {
        op.insert("priority".to_owned(), json!(priority));
    }
    check(&Value::Object(op)).map_err(|error| CliError::Usage(format!("Parameter Error: {error}")))
}

/// Where a reason trail begins.
#[derive(Debug, Clone)]
pub struct Trail<'a> {
    /// The program, such as `gnt-node`.
    pub program: &'a str,
    /// Its command, such as `add`.
    pub command: &'a str,
    /// Nanoseconds since 1970.
    pub now_ns: u64,
}

impl Trail<'_> {
    fn entries(&self, reason: Option<&str>) -> Value {
        let user = reason.map(|text| json!(["gnt:user", text, self.now_ns]));
        let client = json!([format!("gnt:client:{}", self.program), self.command, self.now_ns]);
        Value::Array(user.into_iter().chain([client]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const TRAIL: Trail<'static> = Trail { program: "gnt-instance", command: "add", now_ns: 7 };

    /// The keys of the first opcode of a stored job.
    fn golden_keys(text: &str) -> BTreeSet<String> {
        let job: Value = serde_json::from_str(text).unwrap();
        job["ops"][0]["input"].as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn opcodes_have_exactly_the_keys_of_ganetis() {
        let instance = json!({"instance_name": "a", "mode": "create", "disks": [], "nics": [{}]});
        let tags = json!({"kind": "cluster", "tags": ["a"], "name": null});
        for (id, given, golden) in [
            (
                "OP_INSTANCE_CREATE",
                instance,
                include_str!("../../tests/golden/ganeti/files/job-instance-create.json"),
            ),
            ("OP_TAGS_DEL", tags, include_str!("../../tests/golden/ganeti/files/job-tags-del.json")),
        ] {
            let op = build(id, given, &SubmitOptions::default(), &TRAIL).unwrap();
            assert_eq!(op.keys().cloned().collect::<BTreeSet<_>>(), golden_keys(golden), "{id}");
        }
    }

    #[test]
    fn the_trail_begins_with_the_users_reason_then_the_command() {
        let options = SubmitOptions {
            reason: Some("because".to_owned()),
            dry_run: true,
            priority: Some(-10),
            ..SubmitOptions::default()
        };
        let op = build("OP_CLUSTER_DESTROY", json!({}), &options, &TRAIL).unwrap();
        assert_eq!(op["reason"], json!([["gnt:user", "because", 7], ["gnt:client:gnt-instance", "add", 7]]));
        assert_eq!((&op["dry_run"], &op["priority"]), (&json!(true), &json!(-10)));
    }

    #[test]
    fn what_the_opcode_does_not_take_is_refused_here() {
        let error = build("OP_NODE_REMOVE", json!({"node_name": 5}), &SubmitOptions::default(), &TRAIL);
        assert_eq!(error.unwrap_err().exit_code(), 2);
    }
}
