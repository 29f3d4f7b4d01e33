//! Job filter rules (`spec/query.md` §5, `spec/jobs.md` §6).

use super::{name_text, not_found};
use crate::core::mirror::Snapshot;
use crate::core::query::cell::Cell;
use crate::core::query::field::{Field, FieldTable};
use crate::core::query::run::{Pick, Resource};
use gantry_model::error::GanetiError;
use serde_json::Value;
use std::sync::{Arc, LazyLock};

pub(in crate::core::query) struct Rules;

type Row = Arc<Value>;

impl Resource for Rules {
    type Row = Row;
    const KEY: &'static str = "uuid";

    fn fields() -> &'static FieldTable<Row> {
        static TABLE: LazyLock<FieldTable<Row>> = LazyLock::new(|| FieldTable::new(fields()));
        &TABLE
    }

    fn rows(config: &Snapshot, pick: &Pick) -> Result<Vec<Row>, GanetiError> {
        let all = config.filters();
        match pick {
            Pick::All => Ok(all.iter().map(|(_, rule)| Arc::clone(rule)).collect()),
            Pick::Named(names) => {
                let find =
                    |name: String| all.get(name.as_str()).cloned().ok_or_else(|| not_found("Filter", &name));
                names.iter().map(|name| find(name_text(name))).collect()
            }
            Pick::Matching(names) => Ok(all
                .iter()
                .filter(|(uuid, _)| names.contains(uuid))
                .map(|(_, rule)| Arc::clone(rule))
                .collect()),
        }
    }
}

fn of<'a>(rule: &'a Row, key: &str) -> Cell<'a> {
    Cell::json_or_unavail(rule.get(key))
}

fn fields() -> Vec<Field<Row>> {
    type F = Field<Row>;
    vec![
        F::other("action", "Action", "What happens to jobs that the rule applies to", |r, _| of(r, "action")),
        F::other("predicates", "Predicates", "What a job must satisfy for the rule to apply", |r, _| {
            of(r, "predicates")
        }),
        F::other("priority", "Priority", "Place among the rules, 0 first", |r, _| of(r, "priority")),
        F::other("reason_trail", "ReasonTrail", "Why the rule was made, and by whom", |r, _| {
            of(r, "reason_trail")
        }),
        F::other("uuid", "UUID", "UUID of the rule", |r, _| of(r, "uuid")),
        F::other("watermark", "Watermark", "Highest job number when the rule was made", |r, _| {
            of(r, "watermark")
        }),
    ]
}
