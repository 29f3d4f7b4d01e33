//! JSON values as Ganeti's commands show them: the way Python writes its values.

use serde_json::Value;

/// A value on its own: strings bare, `True`, `None`, lists and objects in brackets.
#[must_use]
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => nested(other),
    }
}

/// A value inside another: strings quoted.
fn nested(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(nested))),
        Value::Object(map) => {
            format!("{{{}}}", joined(map.iter().map(|(k, v)| format!("{}: {}", quoted(k), nested(v)))))
        }
    }
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Parts with `, ` between.
fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// The elements of a list with `,` between; what is no list stands as it is.
#[must_use]
pub fn comma_list(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => plain(other),
    }
}

/// A number of things: `1 file`, `2 files`.
#[must_use]
pub fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// Text for a terminal: control characters that could move the cursor become visible.
#[must_use]
pub fn safe(text: &str) -> String {
    let show =
        |c: char| if c.is_control() && c != '\t' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(show).collect()
}

/// As [`safe`], for text of several lines.
#[must_use]
pub fn safe_lines(text: &str) -> String {
    text.split('\n').map(safe).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_look_as_python_writes_them() {
        assert_eq!(plain(&json!("a'b")), "a'b");
        assert_eq!(
            plain(&json!(["a", null, true, {"k": 1.5}, "it's"])),
            "['a', None, True, {'k': 1.5}, \"it's\"]"
        );
        assert_eq!(comma_list(&json!(["a", 1, null])), "a,1,None");
        assert_eq!(safe("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
    }
}
