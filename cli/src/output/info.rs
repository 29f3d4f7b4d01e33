//! Nested information as Ganeti's `info` commands print it: `key: value` lines, indented by two, lists
//! with dashes.

use super::text::plain;
use serde_json::{Map, Value};

/// A piece of information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Info {
    /// A text on the line.
    Text(String),
    /// Items, each after a dash.
    List(Vec<Info>),
    /// Named pieces, in this order.
    Named(Vec<(String, Info)>),
}

impl Info {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Named pieces.
    pub fn named<'a>(pieces: impl IntoIterator<Item = (&'a str, Info)>) -> Self {
        Self::Named(pieces.into_iter().map(|(name, info)| (name.to_owned(), info)).collect())
    }

    /// The lines.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0, false);
        out
    }

    fn write(&self, out: &mut String, level: usize, after_key: bool) {
        match self {
            Self::Text(text) => {
                out.push_str(text);
                out.push('\n');
            }
            Self::Named(pieces) => Self::block(out, level, after_key, pieces.iter(), |out, (name, info)| {
                out.push_str(name);
                out.push_str(": ");
                info.write(out, level + 1, true);
            }),
            Self::List(items) => Self::block(out, level, after_key, items.iter(), |out, item| {
                out.push_str("- ");
                item.write(out, level + 1, false);
            }),
        }
    }

    /// Lines of one level. The first stands on the line of its dash, or below its key.
    fn block<T>(
        out: &mut String,
        level: usize,
        after_key: bool,
        parts: impl ExactSizeIterator<Item = T>,
        write: impl Fn(&mut String, T),
    ) {
        if after_key || parts.len() == 0 {
            out.push('\n');
        }
        let mut indent = after_key;
        for part in parts {
            if indent {
                out.push_str(&"  ".repeat(level));
            }
            indent = true;
            write(out, part);
        }
    }
}

impl From<&Value> for Info {
    fn from(value: &Value) -> Self {
        match value {
            Value::Object(map) => Self::from(map),
            Value::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            other => Self::Text(plain(other)),
        }
    }
}

impl From<&Map<String, Value>> for Info {
    fn from(map: &Map<String, Value>) -> Self {
        Self::Named(map.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect())
    }
}

/// Effective parameters with a mark at those that are not set on the object itself: `default (VALUE)`.
#[must_use]
pub fn params(own: &Value, effective: &Value) -> Info {
    let Value::Object(all) = effective else { return Info::Named(Vec::new()) };
    let one = |(key, value): (&String, &Value)| {
        let set = own.get(key);
        let info = match (value, set) {
            (Value::Object(_), _) => params(set.unwrap_or(&Value::Null), value),
            (_, Some(set)) => Info::text(plain(set)),
            (_, None) => Info::text(format!("default ({})", plain(value))),
        };
        (key.clone(), info)
    };
    Info::Named(all.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nesting_is_printed_with_dashes_and_two_blanks() {
        let info = Info::List(vec![Info::named([
            ("Name", Info::text("a")),
            (
                "Nodes",
                Info::List(vec![Info::named([("primary", Info::text("n1")), ("group", Info::text("g"))])]),
            ),
            ("Disks", Info::List(Vec::new())),
            ("Params", Info::from(&json!({"x": 1, "y": {}}))),
        ])]);
        let want = "- Name: a\n  Nodes: \n    - primary: n1\n      group: g\n  Disks: \n  Params: \n    x: 1\n    y: \n";
        assert_eq!(info.render(), want);
    }

    #[test]
    fn parameters_say_whether_they_are_set_here() {
        let info = params(&json!({"a": 2}), &json!({"a": 2, "b": true, "c": {"d": 1}}));
        assert_eq!(info.render(), "a: 2\nb: default (True)\nc: \n  d: default (1)\n");
    }
}
