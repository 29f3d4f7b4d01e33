//! Reads OpenMetrics text: what the other daemons of the node say on their admin sockets. They are of this house, but a
//! daemon that says nonsense costs its own metrics only.

use super::exposition::{Family, Sample, Type};

/// Most bytes of one daemon's metrics: a hundred times what one says.
pub const TEXT_BYTES_MAX: usize = 2 << 20;
/// Most values of one daemon.
pub const SAMPLES_MAX: usize = 4_000;
/// Most labels of a value.
const LABELS_MAX: usize = 16;

/// Why a text is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A line.
    #[error("line {line} is no OpenMetrics text")]
    Line {
        /// From 1.
        line: usize,
    },
    /// Bounds.
    #[error("more than {TEXT_BYTES_MAX} bytes or {SAMPLES_MAX} values")]
    TooMuch,
}

/// The families of a text, in order. What is said of units, times and exemplars is left out.
///
/// # Errors
/// A line that cannot be read; too much of it.
pub fn parse(text: &str) -> Result<Vec<Family>, FormatError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(FormatError::TooMuch);
    }
    let mut families: Vec<Family> = Vec::new();
    let mut count = 0;
    // Not `lines()`: a carriage return is a character of a label like any other.
    for (number, line) in text.split('\n').enumerate() {
        let bad = || FormatError::Line { line: number + 1 };
        if line == "# EOF" {
            break;
        }
        if line.is_empty() {
            continue;
        }
        if let Some(comment) = line.strip_prefix("# ") {
            describe(&mut families, comment).ok_or_else(bad)?;
            continue;
        }
        count += 1;
        if count > SAMPLES_MAX {
            return Err(FormatError::TooMuch);
        }
        let (name, sample) = sample(line).ok_or_else(bad)?;
        place(&mut families, name, sample);
    }
    Ok(families)
}

/// Takes a line on a family.
fn describe(families: &mut Vec<Family>, comment: &str) -> Option<()> {
    let (word, rest) = comment.split_once(' ')?;
    let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
    if !is_name(name) {
        return None;
    }
    if families.last().is_none_or(|last| last.name != name) {
        families.push(Family::new(name, Type::Unknown, ""));
    }
    let family = families.last_mut()?;
    match word {
        "HELP" => family.help = unescaped(value)?,
        "TYPE" => {
            family.kind = match value {
                "gauge" => Type::Gauge,
                "counter" => Type::Counter,
                "histogram" => Type::Histogram,
                _ => Type::Unknown,
            }
        }
        "UNIT" => {}
        _ => return None,
    }
    Some(())
}

/// Puts a value into its family, which is the last described if its name fits.
fn place(families: &mut Vec<Family>, name: &str, mut sample: Sample) {
    if let Some(last) = families.last_mut()
        && let Some(suffix) = name.strip_prefix(last.name.as_str())
        && matches!(suffix, "" | "_total" | "_created" | "_bucket" | "_sum" | "_count" | "_info")
    {
        sample.suffix = suffix.to_owned();
        last.samples.push(sample);
        return;
    }
    let mut family = Family::new(name, Type::Unknown, "");
    family.samples.push(sample);
    families.push(family);
}

/// `name{label="value",…} value [time] [# exemplar]`.
fn sample(line: &str) -> Option<(&str, Sample)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = read_labels(inside, &mut labels)?;
    }
    let value = rest.strip_prefix(' ')?.split(' ').next()?;
    value.parse::<f64>().ok()?;
    is_name(name).then(|| (name, Sample { suffix: String::new(), labels, value: value.to_owned() }))
}

/// Reads labels up to the closing brace; what follows it.
fn read_labels<'a>(mut rest: &'a str, labels: &mut Vec<(String, String)>) -> Option<&'a str> {
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Some(after);
        }
        let (key, after) = rest.split_once("=\"")?;
        let end = closing(after)?;
        if !is_name(key) || labels.len() == LABELS_MAX {
            return None;
        }
        labels.push((key.to_owned(), unescaped(&after[..end])?));
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

/// The place of the quote that ends a value.
fn closing(text: &str) -> Option<usize> {
    let mut escape = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escape => escape = false,
            b'\\' => escape = true,
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => out.push(match chars.next()? {
                'n' => '\n',
                other @ ('\\' | '"') => other,
                _ => return None,
            }),
            other => out.push(other),
        }
    }
    Some(out)
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_' || byte == b':');
    first && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':')
}

/// The families of one daemon as MonD passes them on: with its name as a label, and those of this house only.
#[must_use]
pub fn of_daemon(daemon: &str, families: Vec<Family>) -> Vec<Family> {
    let ours = families.into_iter().filter(|family| family.name.starts_with("gantry_"));
    ours.map(|mut family| {
        for sample in &mut family.samples {
            if sample.labels.iter().all(|(key, _)| key != "daemon") {
                sample.labels.push(("daemon".to_owned(), daemon.to_owned()));
            }
        }
        // Lines of help end with a full stop here, and with none in MonD's own.
        family.help = family.help.trim_end_matches('.').to_owned();
        family
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_daemon_says_is_passed_on_with_its_name() {
        let text = "# HELP gantry_luxid_jobs Jobs.\n# TYPE gantry_luxid_jobs gauge\ngantry_luxid_jobs{status=\"a,}\\\"b\"} 3\n\
                    # TYPE gantry_calls counter\ngantry_calls_total{verb=\"x\"} 5 1700000000 # {t=\"1\"} 2\n\
                    # TYPE other gauge\nother 1\n# EOF\nrest";
        let families = of_daemon("luxid", parse(text).unwrap());
        assert_eq!(families.len(), 2);
        let labels = |at: usize| families[at].samples[0].labels.clone();
        assert_eq!(labels(0), [("status".into(), "a,}\"b".into()), ("daemon".into(), "luxid".into())]);
        assert_eq!((families[0].help.as_str(), families[0].kind), ("Jobs", Type::Gauge));
        assert_eq!(
            (families[1].samples[0].suffix.as_str(), families[1].samples[0].value.as_str()),
            ("_total", "5")
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["x", "a{b} 1", "a{b=\"c} 1", "a b", "# WHAT a b", "1a 2", "a{b=\"\\x\"} 1", "a{1=\"\"} 1"]
        {
            assert!(matches!(parse(text), Err(FormatError::Line { line: 1 })), "{text}");
        }
        assert_eq!(parse(&"a 1\n".repeat(SAMPLES_MAX + 1)), Err(FormatError::TooMuch));
        assert_eq!(parse(&" ".repeat(TEXT_BYTES_MAX + 1)), Err(FormatError::TooMuch));
    }
}
