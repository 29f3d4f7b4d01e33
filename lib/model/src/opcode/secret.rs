//! Secret parameters: taken out of an opcode before it is stored, put back for the job process
//! (`spec/luxi.md` §8.9). The values live in memory only.
//!
//! Places are found by the names of the parameters, at any depth and without a look at the opcode's type:
//! the opcodes inside OP_INSTANCE_MULTI_ALLOC are free objects, and an opcode that would not pass the
//! check must not leak either.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// What stands in a stored job in the place of a secret value.
pub const REDACTED: &str = "<redacted>";

/// The parameters that carry secrets, and how many objects deep in them the values lie.
const NAMES: &[(&str, usize)] =
    &[("join_secret", 0), ("osparams_private", 1), ("osparams_private_cluster", 2), ("osparams_secret", 1)];

/// One value that [`redact`] took. Serialises with the value, for the way to the job process: never
/// store or log that form. `Debug` hides the value.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Secret {
    /// Where it was in the opcode, as a JSON pointer (RFC 6901).
    pub path: String,
    /// The value.
    pub value: Value,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("path", &self.path).field("value", &REDACTED).finish()
    }
}

/// Replaces every secret value by [`REDACTED`] and returns what stood there. Nulls hold no secret and
/// stay; so does what is redacted already, hence a second call takes nothing.
#[must_use = "the values are nowhere else"]
pub fn redact(op: &mut Map<String, Value>) -> Vec<Secret> {
    let mut taken = Vec::new();
    for path in places(op) {
        if let Some(value) = at(op, &path).filter(|v| *v != REDACTED) {
            let value = std::mem::replace(value, Value::from(REDACTED));
            taken.push(Secret { path, value });
        }
    }
    taken
}

/// Puts values back where [`redact`] left its mark; other places are not touched.
pub fn restore(op: &mut Map<String, Value>, secrets: &[Secret]) {
    for secret in secrets {
        if let Some(place) = at(op, &secret.path).filter(|v| **v == REDACTED) {
            place.clone_from(&secret.value);
        }
    }
}

/// Whether a secret is missing: a job with such an opcode cannot run.
#[must_use]
pub fn is_redacted(op: &Map<String, Value>) -> bool {
    let mut seen = false;
    walk(op, &mut String::new(), &mut |_, value| seen |= value == REDACTED);
    seen
}

fn places(op: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    walk(op, &mut String::new(), &mut |path, _| found.push(path.to_owned()));
    found
}

type Visit<'a> = dyn FnMut(&str, &Value) + 'a;

fn walk(map: &Map<String, Value>, path: &mut String, visit: &mut Visit<'_>) {
    for (key, value) in map {
        let depth = NAMES.iter().find(|(name, _)| name == key).map(|(_, depth)| *depth);
        step(path, key, |path| match depth {
            Some(depth) => values(value, depth, path, visit),
            None => search(value, path, visit),
        });
    }
}

/// Looks for secret parameters further in.
fn search(value: &Value, path: &mut String, visit: &mut Visit<'_>) {
    match value {
        Value::Object(map) => walk(map, path, visit),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                step(path, &index.to_string(), |path| search(item, path, visit));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The values of a secret parameter. One of the wrong form is secret as a whole.
fn values(value: &Value, depth: usize, path: &mut String, visit: &mut Visit<'_>) {
    match value {
        Value::Null => {}
        Value::Object(map) if depth > 0 => {
            for (key, inner) in map {
                step(path, key, |path| values(inner, depth - 1, path, visit));
            }
        }
        secret => visit(path, secret),
    }
}

fn step(path: &mut String, key: &str, inside: impl FnOnce(&mut String)) {
    let before = path.len();
    path.push('/');
    path.push_str(&key.replace('~', "~0").replace('/', "~1"));
    inside(path);
    path.truncate(before);
}

fn at<'a>(op: &'a mut Map<String, Value>, path: &str) -> Option<&'a mut Value> {
    let path = path.strip_prefix('/')?;
    let (first, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
    op.get_mut(&first.replace("~1", "/").replace("~0", "~"))?.pointer_mut(rest)
}

#[cfg(test)]
mod tests {
    use super::NAMES;
    use crate::opcode::{Type, all};
    use std::collections::BTreeSet;

    /// How many objects deep the secret lies in a type; none if it holds none.
    fn depth(ty: &Type) -> Option<usize> {
        match ty {
            Type::Secret(_) => Some(0),
            Type::Opt(inner) => depth(inner),
            Type::Map(_, inner) => depth(inner).map(|d| d + 1),
            Type::List(inner) => {
                assert_eq!(depth(inner), None, "the walk knows no lists of secrets");
                None
            }
            _ => None,
        }
    }

    #[test]
    fn the_names_are_those_of_the_table() {
        let params = all().iter().flat_map(|s| s.params);
        let table: BTreeSet<_> = params.filter_map(|p| depth(&p.ty).map(|d| (p.name, d))).collect();
        assert_eq!(table, NAMES.iter().copied().collect());
    }
}
