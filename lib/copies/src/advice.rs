//! What an operator types when no majority of the copies answers: which command helps depends on how many are silent (P2.6).

/// Takes a silent candidate out while no majority answers.
const DROP: &str = "gnt-cluster drop-candidate";
/// Goes on with one node's copies alone.
const ALONE: &str = "gnt-cluster master-failover --no-voting";

/// Whether the copies that answer are a majority of the list without one silent member: with that one out, they commit. So
/// it is for the one left of two, two left of four, and so on.
#[must_use]
pub fn helps_to_drop(members: usize, answering: usize) -> bool {
    members > 1 && answering > (members - 1) / 2
}

/// A sentence that names the command for a list of so many members, of which `silent` (names, separated by commas) do not
/// answer or do not count.
#[must_use]
pub fn advice(members: usize, silent: &str) -> String {
    let mut names = silent.split(", ").filter(|name| !name.is_empty());
    let count = names.clone().count();
    match names.next() {
        Some(first) if helps_to_drop(members, members.saturating_sub(count)) => format!(
            "if {first} does not come back, or is suspect, take it out with '{DROP} {first}' on the master"
        ),
        Some(_) => {
            format!("if they are lost for good, go on without them with '{ALONE}' on the node that has most")
        }
        None => "look at 'gnt-cluster info'".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_helps_is_named() {
        assert!(advice(2, "node2").contains("'gnt-cluster drop-candidate node2' on the master"));
        assert!(advice(4, "node3, node4").contains("drop-candidate node3'"));
        for (members, silent) in [(3, "node2, node3"), (4, "node2, node3, node4"), (5, "b, c, d")] {
            assert!(advice(members, silent).contains("--no-voting"), "{members}: {silent}");
        }
    }

    #[test]
    fn dropping_helps_when_the_rest_is_a_majority_of_itself() {
        for members in 2..20 {
            for answering in 1..members {
                let commits = answering > members / 2;
                let commits_without_one = answering > (members - 1) / 2;
                assert_eq!(helps_to_drop(members, answering), commits_without_one);
                assert!(!commits || commits_without_one);
            }
        }
    }
}
