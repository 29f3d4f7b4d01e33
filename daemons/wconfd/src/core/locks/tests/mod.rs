//! Tests of the lock table: by example, against a slow obvious model, by law, and by cost.

mod cost;
mod examples;
mod laws;
mod model;
mod random;

use super::*;

/// Parses a list like `cluster/BGL=S node/a=X node/b=-`.
fn wants(text: &str) -> Vec<(LockName, Want)> {
    text.split_whitespace()
        .map(|item| {
            let (lock, want) = item.split_once('=').expect("an item is lock=want");
            let want = match want {
                "S" => Want::Shared,
                "X" => Want::Exclusive,
                "-" => Want::Release,
                other => panic!("'{other}' is no want"),
            };
            (lock.parse().expect("a lock name"), want)
        })
        .collect()
}
