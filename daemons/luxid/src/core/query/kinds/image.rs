//! Imported images (ADR 0007).

use super::{mib, of_table};
use crate::core::mirror::Snapshot;
use crate::core::query::cell::Cell;
use crate::core::query::field::{Field, FieldTable};
use crate::core::query::run::{Pick, Resource};
use gantry_model::error::GanetiError;
use gantry_model::pool::Image;
use std::sync::{Arc, LazyLock};

pub(in crate::core::query) struct Images;

type Row = Arc<Image>;

impl Resource for Images {
    type Row = Row;
    const KEY: &'static str = "name";

    fn fields() -> &'static FieldTable<Row> {
        static TABLE: LazyLock<FieldTable<Row>> = LazyLock::new(|| FieldTable::own(fields()));
        &TABLE
    }

    fn rows(config: &Snapshot, pick: &Pick) -> Result<Vec<Row>, GanetiError> {
        of_table(config.images(), "Image", pick)
    }
}

fn fields() -> Vec<Field<Row>> {
    type F = Field<Row>;
    vec![
        F::text("name", "Image", "Name of the image", |r, _| Cell::Str(&r.name)),
        F::text("digest", "Digest", "SHA-256 of its archive", |r, _| Cell::Str(&r.digest)),
        F::unit("size", "Size", "Size of its archive", |r, _| mib(r.bytes)),
        F::time("ctime", "CTime", "When the image was made", |r, _| Cell::Float(r.stamp.ctime)),
        F::time("mtime", "MTime", "When the image was last changed", |r, _| Cell::Float(r.stamp.mtime)),
        F::number("serial_no", "SerialNo", "Counts the changes of the image", |r, _| {
            Cell::Uint(r.stamp.serial_no)
        }),
    ]
}
