//! JSON in error texts, spaced as Ganeti's server prints it and bounded.

use serde_json::Value;

/// Longest value repeated in an error, in bytes. Clients print the text on one terminal.
const SHOWN_BYTES_MAX: usize = 1024;

/// `value` as text, cut after [`SHOWN_BYTES_MAX`].
pub(super) fn shown(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    if text.len() > SHOWN_BYTES_MAX {
        let end = (0..=SHOWN_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

fn write(value: &Value, out: &mut String) {
    if out.len() > SHOWN_BYTES_MAX {
        return;
    }
    match value {
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate().take(SHOWN_BYTES_MAX) {
                out.push_str(if at > 0 { ", " } else { "" });
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (at, (key, item)) in map.iter().enumerate().take(SHOWN_BYTES_MAX) {
                out.push_str(if at > 0 { ", " } else { "" });
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push_str(": ");
                write(item, out);
            }
            out.push('}');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&value.to_string());
        }
    }
}
