//! From answers of LUXI's `Query` (`spec/query.md`) to rows.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Result status of a value that is there.
const NORMAL: u64 = 0;
/// Result status of a field that does not exist.
const UNKNOWN: u64 = 1;

/// An answer that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// Not the shape of an answer.
    #[error("luxid's answer about {kind} is no table")]
    Shape {
        /// What was asked about.
        kind: &'static str,
    },
    /// A field that this luxid does not have.
    #[error("luxid knows no field '{field}' of {kind}; it is of another release")]
    Field {
        /// What was asked about.
        kind: &'static str,
        /// Which.
        field: String,
    },
    /// A row lacks something.
    #[error("luxid's answer about {kind} has a bad row")]
    Row {
        /// What was asked about.
        kind: &'static str,
        /// What.
        #[source]
        source: serde_json::Error,
    },
}

/// The rows of an answer to a query of `kind` for `fields`; a value that is not there is left out.
///
/// # Errors
/// See [`RowsError`].
pub fn rows<T: DeserializeOwned>(
    kind: &'static str,
    fields: &[&str],
    mut answer: Value,
) -> Result<Vec<T>, RowsError> {
    let Some(Value::Array(data)) = answer.get_mut("data").map(Value::take) else {
        return Err(RowsError::Shape { kind });
    };
    data.into_iter().map(|row| one(kind, fields, row)).collect()
}

fn one<T: DeserializeOwned>(kind: &'static str, fields: &[&str], row: Value) -> Result<T, RowsError> {
    let Value::Array(cells) = row else { return Err(RowsError::Shape { kind }) };
    if cells.len() != fields.len() {
        return Err(RowsError::Shape { kind });
    }
    let mut object = Map::new();
    for (field, mut cell) in fields.iter().zip(cells) {
        match cell.get(0).and_then(Value::as_u64) {
            Some(NORMAL) => {
                object.insert((*field).to_owned(), cell.get_mut(1).map(Value::take).unwrap_or_default());
            }
            Some(UNKNOWN) => return Err(RowsError::Field { kind, field: (*field).to_owned() }),
            Some(_) => {}
            None => return Err(RowsError::Shape { kind }),
        }
    }
    serde_json::from_value(Value::Object(object)).map_err(|source| RowsError::Row { kind, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::seen::{NODE_FIELDS, Node};
    use serde_json::json;

    const UUID: &str = "00000000-0000-4000-8000-000000000001";

    fn read(row: Value) -> Result<Vec<Node>, RowsError> {
        rows("node", NODE_FIELDS, json!({"fields": [], "data": [row]}))
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let row = |mtotal: Value| json!([[0, UUID], [0, "n1"], [0, false], [0, false], [0, true], mtotal]);
        assert_eq!(read(row(json!([0, 512]))).unwrap()[0].mtotal, Some(512));
        assert_eq!(read(row(json!([2, null]))).unwrap()[0].mtotal, None);
        assert!(
            matches!(read(row(json!([1, null]))), Err(RowsError::Field { field, .. }) if field == "mtotal")
        );
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for bad in [json!(null), json!([]), json!([[0, UUID]]), json!([3, 3, 3, 3, 3, 3])] {
            assert!(matches!(read(bad.clone()), Err(RowsError::Shape { .. })), "{bad}");
        }
        assert!(matches!(rows::<Node>("node", NODE_FIELDS, json!(7)), Err(RowsError::Shape { .. })));
        let holes = json!([[0, UUID], [3, null], [0, false], [0, false], [0, true], [2, null]]);
        assert!(matches!(read(holes), Err(RowsError::Row { .. })));
    }
}
