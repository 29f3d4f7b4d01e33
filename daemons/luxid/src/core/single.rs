//! Whether a silent or suspect candidate may be taken out without a job (P2.6), and which command helps if not. Nothing
//! acknowledged depends on this: any change of one member is safe. It keeps operators from one that would not help.

use gantry_copies::SILENT_MS;
use gantry_copies::advice::helps_to_drop;
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::NodeUuid;
use gantry_proto::wconfd::CopyStatus;

fn counts(copy: &CopyStatus) -> bool {
    copy.suspect.is_none() && copy.answered_ms_ago.is_some_and(|ms| ms <= SILENT_MS)
}

/// Looks at the copies of both logs, each with the master's first.
///
/// # Errors
/// Why not, and what to do.
pub fn may_drop(name: &str, node: NodeUuid, w: &[CopyStatus], q: &[CopyStatus]) -> Result<(), GanetiError> {
    let refuse = |text: String| Err(GanetiError::prereq(text, Ecode::WrongState));
    let members =
        |log: &'_ [CopyStatus]| log.iter().filter(|copy| !copy.learner).cloned().collect::<Vec<_>>();
    let logs = [("configuration", members(w)), ("job queue", members(q))];
    let own = |log: &[CopyStatus]| log.first().is_some_and(|copy| copy.node == node);
    if own(w) {
        return refuse(format!("{name} is the master; its own copies always count"));
    }
    if !logs.iter().any(|(_, copies)| copies.iter().any(|copy| copy.node == node)) {
        return refuse(format!("{name} is no master candidate: there is nothing to take out"));
    }
    let lacks = |copies: &[CopyStatus]| copies.iter().filter(|copy| counts(copy)).count() * 2 <= copies.len();
    if !logs.iter().any(|(_, copies)| lacks(copies)) {
        return refuse(format!(
            "a majority of the master candidates answers, so this is done by a job: gnt-node modify -C no {name}"
        ));
    }
    let good = |copies: &[CopyStatus]| copies.iter().any(|copy| copy.node == node && counts(copy));
    if logs.iter().all(|(_, copies)| good(copies)) {
        return refuse(format!(
            "{name} answers: taking it out would not help. Take out one that does not; gnt-cluster info names it"
        ));
    }
    for (log, copies) in &logs {
        let answering = copies.iter().filter(|copy| copy.node != node && counts(copy)).count();
        if !helps_to_drop(copies.len(), answering) {
            return refuse(format!(
                "without {name} {answering} of {} copies of the {log} would answer, which is no majority. Start more of \
                 the candidates' nodes; if they are lost for good, go on without them: gnt-cluster master-failover \
                 --no-voting",
                copies.len() - 1
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn copy(n: u128, answered_ms_ago: Option<u64>) -> CopyStatus {
        CopyStatus {
            node: NodeUuid(Uuid::from_u128(n)),
            name: format!("node{n}"),
            copy_id: Uuid::from_u128(100 + n),
            learner: false,
            matched: 1,
            lag: 0,
            suspect: None,
            answered_ms_ago,
            why: String::new(),
        }
    }

    /// `silent` of so many members answer no more; the last ones.
    fn log(members: u128, silent: u128) -> Vec<CopyStatus> {
        (1..=members).map(|n| copy(n, (n <= members - silent).then_some(10))).collect()
    }

    fn said(node: u128, w: &[CopyStatus], q: &[CopyStatus]) -> Option<String> {
        may_drop("nodeX", NodeUuid(Uuid::from_u128(node)), w, q).err().map(|why| why.to_string())
    }

    #[test]
    fn the_silent_one_of_two_and_one_of_two_silent_of_four_may_go() {
        assert_eq!(said(2, &log(2, 1), &log(2, 1)), None);
        assert_eq!(said(4, &log(4, 2), &log(4, 2)), None);
        // One log is enough to stop all work.
        assert_eq!(said(2, &log(2, 0), &log(2, 1)), None);
        let suspect = CopyStatus { suspect: Some("old".to_owned()), ..copy(2, Some(1)) };
        assert_eq!(said(2, &log(2, 0), &[copy(1, Some(0)), suspect]), None);
    }

    #[test]
    fn elsewise_the_command_that_helps_is_named() {
        let says = |node, w: &[CopyStatus], q: &[CopyStatus], part: &str| {
            let text = said(node, w, q).expect("refused");
            assert!(text.contains(part), "{text}");
        };
        says(3, &log(3, 1), &log(3, 1), "gnt-node modify -C no nodeX");
        says(3, &log(3, 2), &log(3, 2), "--no-voting");
        says(1, &log(2, 1), &log(2, 1), "is the master");
        says(2, &log(4, 2), &log(4, 2), "answers: taking it out would not help");
        says(9, &log(2, 1), &log(2, 1), "no master candidate");
        // A learner does not count, however lively.
        let learner = CopyStatus { learner: true, ..copy(5, Some(1)) };
        let with = [log(3, 2), vec![learner]].concat();
        says(3, &with, &with, "--no-voting");
    }
}
