//! The one-line text of an opcode, as Ganeti's luxid writes it (`spec/opcodes.md` §1).

use super::{OP_ID, spec};
use serde_json::{Map, Value};

/// The text of an opcode whose name cannot be read (`spec/jobs.md` §2).
const INVALID: &str = "INVALID_OP";

/// The summary: the name without `OP_`, and for most opcodes the value of one parameter in
/// parentheses, as in `TEST_DELAY(1.0)`. Works on stored opcodes that no longer pass the check: an
/// unknown name stands alone, a missing one gives `INVALID_OP`.
#[must_use]
pub fn summary(op: &Map<String, Value>) -> String {
    let Some(id) = op.get(OP_ID).and_then(Value::as_str) else {
        return INVALID.to_owned();
    };
    let name = id.strip_prefix("OP_").unwrap_or(id);
    let param = spec(id).and_then(|s| s.summary).and_then(|p| op.get(p));
    match param.and_then(shown) {
        Some(value) => format!("{name}({value})"),
        None => name.to_owned(),
    }
}

fn shown(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => number.as_f64().map(double),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A number as Haskell shows a double: always with a fraction, scientific below 0.1 and from 10⁷.
fn double(number: f64) -> String {
    let size = number.abs();
    if size == 0.0 || (0.1..1.0e7).contains(&size) {
        return format!("{number:?}");
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0e{exponent}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::double;

    #[test]
    fn doubles_look_as_in_haskell() {
        let pairs = [
            (1.0, "1.0"),
            (0.0, "0.0"),
            (0.1, "0.1"),
            (0.25, "0.25"),
            (0.099, "9.9e-2"),
            (0.05, "5.0e-2"),
            (1e-6, "1.0e-6"),
            (12.5e-7, "1.25e-6"),
            (9_999_999.0, "9999999.0"),
            (9_999_999.5, "9999999.5"),
            (1e7, "1.0e7"),
            (12_345_678.0, "1.2345678e7"),
            (1e22, "1.0e22"),
            (-2.0, "-2.0"),
            (-0.01, "-1.0e-2"),
        ];
        for (number, text) in pairs {
            assert_eq!(double(number), text);
        }
    }
}
