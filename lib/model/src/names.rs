//! Names and tags: what is allowed, how short names resolve, how lists are sorted (`spec/query.md` §2, §3).

use std::cmp::Ordering;

/// Longest host name (RFC 1123).
pub const HOST_NAME_LEN_MAX: usize = 253;
/// Longest tag (`spec/config.md` §5).
pub const TAG_LEN_MAX: usize = 128;
/// Most tags of one object (`spec/config.md` §5).
pub const TAGS_MAX: usize = 4096;

/// Whether `name` is a host name: dot-separated labels of 1 to 63 letters, digits, `-` and `_`,
/// not beginning or ending with `-`.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    let label = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    name.len() <= HOST_NAME_LEN_MAX && !name.is_empty() && name.split('.').all(label)
}

/// Whether `name` may name a node group: 1 to 255 of `[A-Za-z0-9_.-]` and not formed like a uuid.
#[must_use]
pub fn is_group_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && uuid::Uuid::try_parse(name).is_err()
}

/// Whether `tag` is a tag: 1 to 128 of `[A-Za-z0-9.+*/:@_-]` (`spec/config.md` §5).
#[must_use]
pub fn is_tag(tag: &str) -> bool {
    (1..=TAG_LEN_MAX).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b".+*/:@_-".contains(&b))
}

/// Whether `full` is meant by `given`: equal, or `given` is a prefix that ends at a dot
/// (`node1` means `node1.example.test`, not `node10.example.test`).
#[must_use]
pub fn host_matches(full: &str, given: &str) -> bool {
    full == given
        || (full.len() > given.len()
            && full.as_bytes()[given.len()] == b'.'
            && full.starts_with(given)
            && !given.is_empty())
}

/// Natural order: runs of digits compare as numbers (`node2` before `node10`).
#[must_use]
pub fn natural_cmp(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        match (left.first(), right.first()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (one, rest_one) = split_number(left);
                let (two, rest_two) = split_number(right);
                let order = one.len().cmp(&two.len()).then_with(|| one.cmp(two));
                if order != Ordering::Equal {
                    return order;
                }
                (left, right) = (rest_one, rest_two);
            }
            (Some(x), Some(y)) if x == y => (left, right) = (&left[1..], &right[1..]),
            (Some(x), Some(y)) => return x.cmp(y),
        }
    }
}

/// The leading number without its leading zeros, and what follows it.
fn split_number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let zeros = number.iter().position(|b| *b != b'0').unwrap_or(number.len());
    (&number[zeros..], rest)
}

/// What a given name stands for among many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved<T> {
    /// Exactly one.
    One(T),
    /// None at all.
    Unknown,
    /// More than one: their full names.
    Ambiguous(Vec<String>),
}

/// Finds what `given` names among `(full name, value)` pairs: an exact match wins, else the one
/// whose name it is a dot-bounded prefix of.
pub fn resolve<'a, T>(given: &str, all: impl Iterator<Item = (&'a str, T)>) -> Resolved<T> {
    let mut found: Vec<(&str, T)> = Vec::new();
    for (name, value) in all {
        if name == given {
            return Resolved::One(value);
        }
        if host_matches(name, given) {
            found.push((name, value));
        }
    }
    match found.len() {
        0 => Resolved::Unknown,
        1 => Resolved::One(found.remove(0).1),
        _ => Resolved::Ambiguous(found.into_iter().map(|(name, _)| name.to_owned()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = vec!["node10", "node2", "node1.b", "node1", "a", "node02"];
        names.sort_by(|a, b| natural_cmp(a, b));
        assert_eq!(names, ["a", "node1", "node1.b", "node02", "node2", "node10"]);
    }

    #[test]
    fn short_names_end_at_dots() {
        assert!(host_matches("node1.example.test", "node1"));
        assert!(host_matches("node1.example.test", "node1.example"));
        assert!(!host_matches("node10.example.test", "node1"));
        assert!(!host_matches("node1.example.test", ""));
    }

    #[test]
    fn names_follow_the_rules() {
        for good in ["a", "node1.example.test", "x-1", "A_b"] {
            assert!(is_host_name(good), "{good}");
        }
        for bad in ["", ".", "a..b", "-a", "a-", "a b", "ä", "a/b", "a\n"] {
            assert!(!is_host_name(bad), "{bad}");
        }
        assert!(is_tag("gantry:pool:py") && !is_tag("") && !is_tag("a b") && !is_tag(&"x".repeat(129)));
    }

    #[test]
    fn ambiguous_short_names_are_told() {
        let all = [("a.x", 1), ("a.y", 2), ("b", 3)];
        assert_eq!(resolve("b", all.iter().map(|(n, v)| (*n, *v))), Resolved::One(3));
        assert_eq!(resolve("c", all.iter().map(|(n, v)| (*n, *v))), Resolved::Unknown);
        assert!(matches!(resolve("a", all.iter().map(|(n, v)| (*n, *v))), Resolved::Ambiguous(_)));
    }
}
