//! Whether the bodies that a result names are in the body store (P4.4): a record must never name what is not there.

use gantry_model::job::{Outcome, Report, Status};
use gantry_model::root::Root;
use gantry_model::task::{BodyRef, RunReport, TaskResult};
use serde_json::json;

/// Whether a body lies in the store, whole.
#[must_use]
pub fn exists(root: &Root, body: &BodyRef) -> bool {
    let found = std::fs::metadata(root.blob(&body.digest));
    found.is_ok_and(|file| file.is_file() && file.len() == body.bytes)
}

/// Turns a report that brings the result of an attempt's job and names a missing body into one of a failure.
pub async fn check(root: &Root, report: Report) -> Report {
    let brings_result = report.ops.first().is_some_and(|op| op.status == Status::Success);
    if report.outcome != Outcome::Ended && !brings_result {
        return report;
    }
    let root = root.clone();
    let checked = tokio::task::spawn_blocking(move || check_now(&root, report)).await;
    checked.expect("a look at files does not panic")
}

fn check_now(root: &Root, mut report: Report) -> Report {
    for op in report.ops.iter_mut().filter(|op| op.status == Status::Success) {
        let Ok(run) = serde_json::from_value::<RunReport>(op.result.clone()) else { continue };
        if let Some(body) = named(&run.result).into_iter().find(|body| !exists(root, body)) {
            op.status = Status::Error;
            op.result = json!(format!("the result names body {}, which is not in the store", body.digest));
        }
    }
    report
}

fn named(result: &TaskResult) -> Vec<BodyRef> {
    let outputs = result.steps.iter().flat_map(|step| [&step.out, &step.err]);
    let bodies =
        outputs.filter_map(|output| Some(BodyRef { digest: output.digest.clone()?, bytes: output.bytes }));
    bodies.chain(result.archive.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ids::{JobId, JobOwner, StartNo};
    use gantry_model::job::OpReport;

    #[test]
    fn a_result_with_a_missing_body_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let body = BodyRef { digest: "a".repeat(64), bytes: 3 };
        let result = TaskResult { archive: Some(body.clone()), ..TaskResult::default() };
        let run = RunReport { state: gantry_model::task::TaskState::Success, why: None, result };
        let op = OpReport {
            status: Status::Success,
            result: serde_json::to_value(run).unwrap(),
            priority: 0,
            input: None,
            start: None,
            exec: None,
            end: None,
            log: Vec::new(),
        };
        let start = StartNo { epoch: 1, run: 1, counter: 1 };
        let report = Report {
            owner: JobOwner { job: JobId(1), start },
            number: 1,
            outcome: Outcome::Ended,
            ops: vec![op],
            seen_w: 0,
            stage: None,
        };
        let status = |root: &Root| check_now(root, report.clone()).ops[0].status;
        assert_eq!(status(&root), Status::Error, "there is none");
        std::fs::create_dir_all(root.blob(&body.digest).parent().unwrap()).unwrap();
        std::fs::write(root.blob(&body.digest), "ab").unwrap();
        assert_eq!(status(&root), Status::Error, "it is cut off");
        std::fs::write(root.blob(&body.digest), "abc").unwrap();
        assert_eq!(status(&root), Status::Success);
    }
}
