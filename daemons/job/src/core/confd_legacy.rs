//! What cluster verify says of those who ask ConfD in the legacy form still. Pure.

use gantry_proto::noded::LegacySource;

/// Who asked longer ago than this has stopped, s: a day, since some ask once a night.
const STILL_S: u64 = 86_400;
/// Most sources that are named.
const NAMED_MAX: usize = 5;

/// The line for a node whose ConfD was asked so; the latest first.
pub fn warning(node: &str, sources: &[LegacySource]) -> Option<String> {
    let mut still: Vec<&LegacySource> = sources.iter().filter(|source| source.ago_s <= STILL_S).collect();
    if still.is_empty() {
        return None;
    }
    still.sort_by_key(|source| source.ago_s);
    let named: Vec<String> = still
        .iter()
        .take(NAMED_MAX)
        .map(|source| format!("{} ({} s ago)", source.ip, source.ago_s))
        .collect();
    let more = match still.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "  - WARNING: node {node}: ConfD is asked in Ganeti's form (SHA-1) by {}{more}; they would not be answered any more \
         after \"gnt-cluster modify --confd-digest sha256\"",
        named.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_still_is_named_and_who_stopped_is_not() {
        let seen = |last: u8, ago_s| LegacySource { ip: [192, 0, 2, last].into(), ago_s };
        assert_eq!(warning("n1", &[]), None);
        assert_eq!(warning("n1", &[seen(1, STILL_S + 1)]), None);
        let said = warning("n1", &[seen(1, STILL_S + 1), seen(2, 900), seen(3, 12)]).expect("a warning");
        assert!(said.starts_with("  - WARNING: node n1: ConfD is asked in Ganeti's form"), "{said}");
        assert!(said.contains("by 192.0.2.3 (12 s ago), 192.0.2.2 (900 s ago);"), "{said}");
        let many: Vec<LegacySource> = (0..7).map(|last| seen(last, 1)).collect();
        assert!(warning("n1", &many).expect("a warning").contains(" and 2 more;"));
    }
}
