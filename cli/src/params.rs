//! Values of options as Ganeti's users write them: `memory=1G,vcpus=2`, `0:size=1G`, `fake:key=value`,
//! `yes`, `high`. Pure: text in, JSON as the opcodes want it out.

use crate::output::units::parse_mib;
use serde_json::{Map, Value, json};

/// `key=value,key=value` in order: a key alone is true, `no_key` is false, `-key` goes back to the default
/// (null). A comma in a value is written `\,`.
///
/// # Errors
/// A key given twice or an empty one.
pub fn key_values(text: &str) -> Result<Map<String, Value>, String> {
    let mut out = Map::new();
    for part in split_escaped(text) {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key, Value::from(value)),
            None => match (part.strip_prefix("no_"), part.strip_prefix('-')) {
                (Some(key), _) => (key, Value::Bool(false)),
                (None, Some(key)) => (key, Value::Null),
                (None, None) => (part.as_str(), Value::Bool(true)),
            },
        };
        if key.is_empty() {
            return Err(format!("'{text}' has a parameter without a name; write name=value,name=value"));
        }
        if out.insert(key.to_owned(), value).is_some() {
            return Err(format!("parameter '{key}' is given twice in '{text}'; give it once"));
        }
    }
    Ok(out)
}

fn split_escaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let last = parts.last_mut().expect("begins with one part and never shrinks");
        match c {
            '\\' if chars.peek() == Some(&',') => last.extend(chars.next()),
            ',' => parts.push(String::new()),
            c => last.push(c),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// `name` or `name:key=value,...`.
///
/// # Errors
/// As [`key_values`].
pub fn named(text: &str) -> Result<(String, Map<String, Value>), String> {
    match text.split_once(':') {
        None => Ok((text.to_owned(), Map::new())),
        Some((name, rest)) => Ok((name.to_owned(), key_values(rest)?)),
    }
}

/// Backend parameters: sizes to MiB, numbers and booleans to theirs; `memory` stands for both limits.
///
/// # Errors
/// A value that is none of its kind, or a parameter that does not exist.
pub fn backend(text: &str) -> Result<Map<String, Value>, String> {
    let mut out = Map::new();
    for (key, value) in key_values(text)? {
        let value =
            if value.is_null() || value == "default" { json!("default") } else { be_value(&key, &value)? };
        if key == "memory" {
            out.insert("maxmem".to_owned(), value.clone());
            out.insert("minmem".to_owned(), value);
        } else {
            out.insert(key, value);
        }
    }
    Ok(out)
}

fn be_value(key: &str, value: &Value) -> Result<Value, String> {
    let text = value.as_str().unwrap_or_default();
    match key {
        "memory" | "maxmem" | "minmem" => parse_mib(text).map(Value::from).map_err(|e| format!("{key}: {e}")),
        "vcpus" | "spindle_use" => whole(key, text),
        "auto_balance" | "always_failover" => match value {
            Value::Bool(given) => Ok(json!(given)),
            _ => yes_no(text).map(Value::from).map_err(|e| format!("{key}: {e}")),
        },
        _ => Err(format!(
            "there is no backend parameter '{key}'; there are memory, maxmem, minmem, vcpus, auto_balance, always_failover, spindle_use"
        )),
    }
}

/// A whole number from 0.
fn whole(key: &str, text: &str) -> Result<Value, String> {
    text.parse::<u32>().map(Value::from).map_err(|_| format!("{key}: '{text}' is no whole number"))
}

/// Values whose kind only the server knows: whole numbers and booleans in their own form, the rest text.
#[must_use]
pub fn guessed(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter().map(|(key, value)| (key, guess(value))).collect()
}

fn guess(value: Value) -> Value {
    match value.as_str() {
        Some("default") | None => value,
        Some(text) => match (text.parse::<i64>(), text.to_ascii_lowercase().as_str()) {
            (Ok(number), _) => json!(number),
            (Err(_), "true" | "yes") => json!(true),
            (Err(_), "false" | "no") => json!(false),
            (Err(_), _) => value,
        },
    }
}

/// `yes`, `no` and their kin.
///
/// # Errors
/// Anything else.
pub fn yes_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "y" | "on" => Ok(true),
        "no" | "false" | "n" | "off" => Ok(false),
        _ => Err(format!("'{text}' is neither yes nor no")),
    }
}

/// The priority number that a submitted job gets.
///
/// # Errors
/// Other words than `low`, `normal`, `high`.
pub fn submit_priority(text: &str) -> Result<i64, String> {
    match text {
        "low" => Ok(10),
        "normal" => Ok(0),
        "high" => Ok(-10),
        _ => Err(format!("'{text}' is no priority; give low, normal or high")),
    }
}

/// The priority number of a job already submitted: a word or -20 to 19.
///
/// # Errors
/// Anything else.
pub fn any_priority(text: &str) -> Result<i64, String> {
    match (submit_priority(text), text.parse::<i64>()) {
        (Ok(number), _) => Ok(number),
        (Err(_), Ok(number)) if (-20..=19).contains(&number) => Ok(number),
        (Err(_), _) => {
            Err(format!("'{text}' is no priority; give low, normal, high, or a number from -20 to 19"))
        }
    }
}

/// Indexed devices: `0:size=1G` (or `add`less `size=1G` for the next), in the order of their numbers.
fn indexed(given: &[String]) -> Result<Vec<Map<String, Value>>, String> {
    let mut out: Vec<Option<Map<String, Value>>> = Vec::new();
    for text in given {
        let (index, rest) = match text.split_once(':') {
            Some((index, rest)) if !index.contains('=') => (index, rest),
            _ if !text.contains('=') => (text.as_str(), ""),
            _ => return Err(format!("'{text}': write NUMBER:key=value,... such as 0:size=1G")),
        };
        let at: usize = index.parse().map_err(|_| format!("'{index}' in '{text}' is no number"))?;
        if at >= 16 {
            return Err(format!("'{text}': there are at most 16 devices, numbered from 0"));
        }
        out.resize(out.len().max(at + 1), None);
        if out[at].replace(key_values(rest)?).is_some() {
            return Err(format!("device {at} is given twice; give it once"));
        }
    }
    let gap = out.iter().position(Option::is_none);
    gap.map_or_else(|| Ok(out.into_iter().flatten().collect()), |at| Err(format!("device {at} is missing")))
}

/// The `disks` of a new instance, sizes in MiB.
///
/// # Errors
/// What is wrong with an option, for people.
pub fn disks(given: &[String]) -> Result<Value, String> {
    let mut all = indexed(given)?;
    for disk in &mut all {
        for key in ["size", "spindles"] {
            let Some(text) = disk.get(key).and_then(Value::as_str).map(str::to_owned) else { continue };
            let value = if key == "size" { parse_mib(&text)?.into() } else { whole(key, &text)? };
            disk.insert(key.to_owned(), value);
        }
        if !disk.contains_key("size") && !disk.contains_key("adopt") {
            return Err("a disk needs a size, such as 0:size=1G".to_owned());
        }
    }
    Ok(json!(all))
}

/// The `nics` of a new instance.
///
/// # Errors
/// What is wrong with an option, for people.
pub fn nics(given: &[String]) -> Result<Value, String> {
    Ok(json!(indexed(given)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_ganeti_reads_them() {
        let map = key_values("a=1,b=x\\,y,c,no_d,-e").unwrap();
        assert_eq!(Value::Object(map), json!({"a": "1", "b": "x,y", "c": true, "d": false, "e": null}));
        assert!(key_values("a=1,a=2").is_err() && key_values("=1").is_err());
        assert_eq!(named("fake:x=1").unwrap().0, "fake");
    }

    #[test]
    fn backend_parameters_have_their_kinds() {
        let map = backend("memory=1G,vcpus=2,auto_balance=no,-spindle_use").unwrap();
        let want = json!({"maxmem": 1024, "minmem": 1024, "vcpus": 2, "auto_balance": false, "spindle_use": "default"});
        assert_eq!(Value::Object(map), want);
        for bad in ["memory=x", "vcpus=-1", "vcpus", "auto_balance=maybe", "colour=red"] {
            assert!(backend(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_are_numbered_without_a_gap() {
        let list = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            disks(&list(&["1:size=512", "0:size=1G,mode=ro"])),
            Ok(json!([{"size": 1024, "mode": "ro"}, {"size": 512}]))
        );
        for bad in [
            &["1:size=1"][..],
            &["0:mode=rw"],
            &["x:size=1"],
            &["0:size=1", "0:size=2"],
            &["99999999999:size=1"],
        ] {
            assert!(disks(&list(bad)).is_err(), "{bad:?}");
        }
        assert_eq!(
            nics(&list(&["0:ip=192.0.2.1,link=br0"])),
            Ok(json!([{"ip": "192.0.2.1", "link": "br0"}]))
        );
        assert_eq!(nics(&list(&["0"])), Ok(json!([{}])));
    }

    #[test]
    fn priorities_are_words_or_numbers() {
        assert_eq!([submit_priority("low"), submit_priority("high")], [Ok(10), Ok(-10)]);
        assert!(submit_priority("5").is_err());
        assert_eq!([any_priority("-20"), any_priority("normal")], [Ok(-20), Ok(0)]);
        assert!(any_priority("20").is_err());
    }
}
