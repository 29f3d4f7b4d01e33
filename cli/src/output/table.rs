//! Tables of query answers in Ganeti's form: titles, padded columns or a separator, one mark per status
//! of a value (`spec/query.md` §2).

use super::text::{plain, safe};
use super::time::from_epoch;
use super::units::{Units, shown};
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::Value;

/// A field as the server describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FieldDef {
    /// Its name.
    pub name: String,
    /// The column's title.
    pub title: String,
    /// How its values are shown: `text`, `bool`, `number`, `unit`, ...; `unknown` if there is no such field.
    pub kind: String,
    /// What it means.
    #[serde(default)]
    pub doc: String,
}

/// An answer to a query.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Answer {
    /// The fields asked for.
    pub fields: Vec<FieldDef>,
    /// Per row, per field: status and value.
    #[serde(default)]
    pub data: Vec<Vec<(u8, Value)>>,
}

impl Answer {
    /// The fields that the server does not know.
    #[must_use]
    pub fn unknown_fields(&self) -> Vec<&str> {
        self.fields.iter().filter(|f| f.kind == "unknown").map(|f| f.name.as_str()).collect()
    }
}

/// How a table is printed.
#[derive(Debug, Clone)]
pub struct Style {
    /// The line of titles.
    pub header: bool,
    /// Between columns; none = padded columns.
    pub separator: Option<String>,
    /// Units of sizes.
    pub units: Units,
    /// Words instead of marks for missing values.
    pub verbose: bool,
    /// The zone of times.
    pub zone: TimeZone,
}

/// Shows a field's values in another way than its kind says.
pub type Override = (&'static str, fn(&Value, &TimeZone) -> String);

/// The lines of a table.
#[must_use]
pub fn lines(answer: &Answer, style: &Style, overrides: &[Override]) -> Vec<String> {
    let columns: Vec<Column<'_>> = answer.fields.iter().map(|f| Column::new(f, style, overrides)).collect();
    let row = |cells: &Vec<(u8, Value)>| -> Vec<String> {
        columns.iter().zip(cells).map(|(column, (status, value))| column.cell(*status, value)).collect()
    };
    let titles = style.header.then(|| answer.fields.iter().map(|f| f.title.clone()).collect());
    let rows: Vec<Vec<String>> = titles.into_iter().chain(answer.data.iter().map(row)).collect();
    let right: Vec<bool> = columns.iter().map(|c| c.right).collect();
    laid_out(&rows, &right, style.separator.as_deref())
}

/// Rows of cells as lines: joined by the separator, or padded to the widest of each column (`right`: to
/// the left). Nothing follows the last cell.
#[must_use]
pub fn laid_out(rows: &[Vec<String>], right: &[bool], separator: Option<&str>) -> Vec<String> {
    if let Some(separator) = separator {
        return rows.iter().map(|row| row.join(separator)).collect();
    }
    let chars = |cell: &String| cell.chars().count();
    let width = |i| rows.iter().filter_map(|row| row.get(i)).map(chars).max().unwrap_or(0);
    let widths: Vec<usize> = (0..right.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().enumerate().map(|(i, cell)| pad(cell, widths[i], right[i])).collect();
        let line = cells.join(" ");
        if right.last() == Some(&false) { line.trim_end_matches(' ').to_owned() } else { line }
    };
    rows.iter().map(line).collect()
}

fn pad(cell: &str, width: usize, right: bool) -> String {
    if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
}

struct Column<'a> {
    kind: &'a str,
    style: &'a Style,
    own: Option<fn(&Value, &TimeZone) -> String>,
    right: bool,
}

impl<'a> Column<'a> {
    fn new(field: &'a FieldDef, style: &'a Style, overrides: &[Override]) -> Self {
        let own = overrides.iter().find(|(name, _)| *name == field.name).map(|(_, show)| *show);
        let right = match field.kind.as_str() {
            "float" => true,
            kind => own.is_none() && matches!(kind, "number" | "unit"),
        };
        Self { kind: &field.kind, style, own, right }
    }

    fn cell(&self, status: u8, value: &Value) -> String {
        if status != 0 {
            return mark(status, self.style.verbose).to_owned();
        }
        safe(&match self.own {
            Some(show) => show(value, &self.style.zone),
            None => self.by_kind(value),
        })
    }

    fn by_kind(&self, value: &Value) -> String {
        match (self.kind, value) {
            ("bool", Value::Bool(true)) => "Y".to_owned(),
            ("bool", Value::Bool(false)) => "N".to_owned(),
            ("unit", Value::Number(number)) => shown(number.as_f64().unwrap_or(0.0), self.style.units),
            ("timestamp", Value::Number(_)) => from_epoch(value, &self.style.zone),
            _ => plain(value),
        }
    }
}

/// What stands in the place of a value that is not there (`spec/query.md` §2).
fn mark(status: u8, verbose: bool) -> &'static str {
    match (status, verbose) {
        (1, false) => "??",
        (1, true) => "(unknown)",
        (2, false) => "?",
        (2, true) => "(nodata)",
        (3, false) => "-",
        (3, true) => "(unavail)",
        (4, false) => "*",
        (4, true) => "(offline)",
        (_, false) => "!",
        (_, true) => "(status unknown)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn style() -> Style {
        Style { header: true, separator: None, units: Units::H, verbose: false, zone: TimeZone::UTC }
    }

    fn answer(fields: &[(&str, &str)], data: Value) -> Answer {
        let field = |(title, kind): &(&str, &str)| FieldDef {
            name: (*title).to_owned(),
            title: (*title).to_owned(),
            kind: (*kind).to_owned(),
            doc: String::new(),
        };
        Answer { fields: fields.iter().map(field).collect(), data: serde_json::from_value(data).unwrap() }
    }

    fn nodes() -> Answer {
        let row = |name: &str, pinst: u32| {
            json!([
                [0, name],
                [0, 258_020],
                [0, 71_100],
                [0, 24_064],
                [0, 2900],
                [0, 21_914],
                [0, pinst],
                [0, 0]
            ])
        };
        let kinds = [
            ("Node", "text"),
            ("DTotal", "unit"),
            ("DFree", "unit"),
            ("MTotal", "unit"),
            ("MNode", "unit"),
            ("MFree", "unit"),
            ("Pinst", "number"),
            ("Sinst", "number"),
        ];
        let rows = [row("node1.gb.test", 1), row("node2.gb.test", 0), row("node3.gb.test", 0)];
        answer(&kinds, json!(rows))
    }

    #[test]
    fn the_node_list_is_ganetis() {
        let want = include_str!("../../../tests/golden/ganeti/files/gnt-node-list.txt");
        assert_eq!(lines(&nodes(), &style(), &[]).join("\n") + "\n", want);
    }

    #[test]
    fn the_instance_list_is_ganetis() {
        let kinds = [
            ("Instance", "text"),
            ("Hypervisor", "text"),
            ("OS", "text"),
            ("Primary_node", "text"),
            ("Status", "text"),
            ("Memory", "unit"),
        ];
        let row = json!([[
            [0, "web1.gb.test"],
            [0, "fake"],
            [0, "noop+default"],
            [0, "node1.gb.test"],
            [0, "ADMIN_down"],
            [3, null]
        ]]);
        let want = include_str!("../../../tests/golden/ganeti/files/gnt-instance-list.txt");
        assert_eq!(lines(&answer(&kinds, row), &style(), &[]).join("\n") + "\n", want);
    }

    #[test]
    fn a_separator_takes_the_padding_away() {
        let style = Style { header: false, separator: Some(":".to_owned()), units: Units::M, ..style() };
        let out = lines(&nodes(), &style, &[]);
        assert_eq!(out[0], "node1.gb.test:258020:71100:24064:2900:21914:1:0");
    }

    #[test]
    fn each_status_has_its_mark() {
        let kinds = [("a", "text"), ("b", "bool"), ("c", "number"), ("d", "text"), ("e", "timestamp")];
        let data = json!([
            [[1, null], [2, null], [3, null], [4, null], [0, 0]],
            [[0, "x"], [0, true], [0, 5], [0, null], [2, null]]
        ]);
        let out = lines(&answer(&kinds, data.clone()), &style(), &[]);
        assert_eq!(out[1], "?? ? - *    1970-01-01 00:00:00");
        assert_eq!(out[2], "x  Y 5 None ?");
        let out = lines(&answer(&kinds, data), &Style { verbose: true, ..style() }, &[]);
        assert_eq!(out[1], "(unknown) (nodata) (unavail) (offline) 1970-01-01 00:00:00");
    }

    #[test]
    fn a_field_may_be_shown_in_its_own_way() {
        let own: Override = ("tags", |value, _| super::super::text::comma_list(value));
        let out = lines(&answer(&[("tags", "other")], json!([[[0, ["a", "b"]]]])), &style(), &[own]);
        assert_eq!(out, ["tags", "a,b"]);
    }
}
