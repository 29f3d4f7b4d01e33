//! Exports (`spec/query.md` §5). Gantry makes none, so a node that can be asked has no rows; a node that is
//! offline has the one row that says so.

use super::{name_text, node};
use crate::core::mirror::Snapshot;
use crate::core::query::cell::{Cell, Missing};
use crate::core::query::field::{Field, FieldTable};
use crate::core::query::run::{Pick, Resource};
use gantry_model::config::Node;
use gantry_model::error::GanetiError;
use std::sync::{Arc, LazyLock};

pub(in crate::core::query) struct Exports;

type Row = Arc<Node>;

impl Resource for Exports {
    type Row = Row;
    const KEY: &'static str = "node";

    fn fields() -> &'static FieldTable<Row> {
        static TABLE: LazyLock<FieldTable<Row>> = LazyLock::new(|| FieldTable::new(fields()));
        &TABLE
    }

    fn rows(config: &Snapshot, pick: &Pick) -> Result<Vec<Row>, GanetiError> {
        let mut nodes: Vec<Row> = match pick {
            Pick::All => config.nodes().iter().map(|(_, node)| Arc::clone(node)).collect(),
            Pick::Named(names) => {
                names.iter().map(|name| node::find(config, &name_text(name))).collect::<Result<_, _>>()?
            }
            Pick::Matching(names) => node::matching(config, names),
        };
        nodes.retain(|node| node.offline);
        Ok(nodes)
    }
}

fn fields() -> Vec<Field<Row>> {
    type F = Field<Row>;
    vec![
        F::text("export", "Export", "Name of the export", |_, _| Cell::Missing(Missing::Offline)),
        F::text("node", "Node", "Node that has it", |n, _| Cell::Str(&n.name)).host(),
    ]
}
