//! JSON in pure ASCII (`spec/confd.md` §0.7): what is not ASCII is written as `\uXXXX`, so that no peer can mistake its
//! coding; and never longer than a limit, so that no answer costs more than what may be sent.

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use std::io::{self, Write};

/// A value whose text is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is longer than {0} bytes")]
pub struct TooLong(pub usize);

struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.bytes().position(|byte| !byte.is_ascii()) {
            let (plain, other) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let end = other.bytes().position(|byte| byte.is_ascii()).unwrap_or(other.len());
            let (other, after) = other.split_at(end);
            other.encode_utf16().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?;
            rest = after;
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Takes so many bytes and no more.
struct Limited {
    text: Vec<u8>,
    most: usize,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text of a value, of at most `most` bytes. Stops at the limit: a larger value costs no more.
///
/// # Errors
/// It would be longer.
pub fn to_string<T: Serialize + ?Sized>(value: &T, most: usize) -> Result<String, TooLong> {
    let mut out = Limited { text: Vec::new(), most };
    value.serialize(&mut Serializer::with_formatter(&mut out, Ascii)).map_err(|_| TooLong(most))?;
    Ok(String::from_utf8(out.text).expect("the formatter writes ASCII only"))
}

/// Appends `text` as it stands inside the quotes of a JSON string.
pub fn escape_into(out: &mut Vec<u8>, text: &str) {
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\' {
            continue;
        }
        if at < from {
            continue; // Inside a character that is written already.
        }
        out.extend_from_slice(&text.as_bytes()[from..at]);
        from = at + escape_char(out, &text[at..]);
    }
    out.extend_from_slice(&text.as_bytes()[from.min(text.len())..]);
}

/// Appends the first character of `text`, escaped; how many bytes it has.
fn escape_char(out: &mut Vec<u8>, text: &str) -> usize {
    let Some(char) = text.chars().next() else { return 0 };
    match char {
        '"' | '\\' => out.extend([b'\\', u8::try_from(char).unwrap_or(b'?')]),
        '\n' => out.extend(b"\\n"),
        _ => {
            for unit in char.encode_utf16(&mut [0; 2]) {
                out.extend(format!("\\u{unit:04x}").bytes());
            }
        }
    }
    char.len_utf8()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn surrogates_and_limits() {
        assert_eq!(
            to_string(&json!({"ä": ["😀", "a\"b"]}), 100).unwrap(),
            r#"{"\u00e4":["\ud83d\ude00","a\"b"]}"#
        );
        assert_eq!(to_string("12345678", 10).unwrap().len(), 10);
        assert_eq!(to_string("12345678", 9), Err(TooLong(9)));
    }

    proptest! {
        #[test]
        fn any_text_is_read_back(text in any::<String>()) {
            let written = to_string(&text, usize::MAX).unwrap();
            prop_assert!(written.is_ascii());
            prop_assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), Value::from(text.clone()));
            let mut out = vec![b'"'];
            escape_into(&mut out, &text);
            out.push(b'"');
            prop_assert!(out.is_ascii());
            prop_assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), Value::from(text));
        }
    }
}
