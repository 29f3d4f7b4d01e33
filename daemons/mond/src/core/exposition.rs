//! Metrics and how they are written: OpenMetrics, or Prometheus' older text ([`super::accept::Form`]).

use super::accept::Form;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Goes up and down.
    Gauge,
    /// Only goes up; its samples end in `_total`.
    Counter,
    /// Counts by size.
    Histogram,
    /// What its owner did not say.
    Unknown,
}

impl Type {
    fn word(self, form: Form) -> &'static str {
        match (self, form) {
            (Self::Gauge, _) => "gauge",
            (Self::Counter, _) => "counter",
            (Self::Histogram, _) => "histogram",
            (Self::Unknown, Form::OpenMetrics) => "unknown",
            (Self::Unknown, Form::Text) => "untyped",
        }
    }
}

/// A value with its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// What follows the family's name, such as `_total`.
    pub suffix: String,
    /// Names and values, not escaped.
    pub labels: Vec<(String, String)>,
    /// As it is written.
    pub value: String,
}

/// Metrics of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// Without `_total`.
    pub name: String,
    /// One line.
    pub help: String,
    /// What it is.
    pub kind: Type,
    /// Its values.
    pub samples: Vec<Sample>,
}

impl Family {
    /// Without values.
    #[must_use]
    pub fn new(name: &str, kind: Type, help: &str) -> Self {
        Self { name: name.to_owned(), help: help.to_owned(), kind, samples: Vec::new() }
    }

    /// A gauge without values.
    #[must_use]
    pub fn gauge(name: &str, help: &str) -> Self {
        Self::new(name, Type::Gauge, help)
    }

    /// A counter without values.
    #[must_use]
    pub fn counter(name: &str, help: &str) -> Self {
        Self::new(name, Type::Counter, help)
    }

    /// Adds a value.
    pub fn add(&mut self, labels: &[(&str, &str)], value: impl ToString) {
        let suffix = if self.kind == Type::Counter { "_total" } else { "" };
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples.push(Sample { suffix: suffix.to_owned(), labels, value: value.to_string() });
    }

    /// The same with a value.
    #[must_use]
    pub fn with(mut self, labels: &[(&str, &str)], value: impl ToString) -> Self {
        self.add(labels, value);
        self
    }
}

/// Puts families of one name together, whoever they are of; the first decides type and help, and what is of another type is
/// left out. Families without values stay: so a reader learns what there could be.
#[must_use]
pub fn merged(families: impl IntoIterator<Item = Family>) -> Vec<Family> {
    let mut all: Vec<Family> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for family in families {
        match places.get(&family.name) {
            None => {
                places.insert(family.name.clone(), all.len());
                all.push(family);
            }
            Some(at) if all[*at].kind == family.kind => all[*at].samples.extend(family.samples),
            Some(_) => {}
        }
    }
    all
}

/// All families as text.
#[must_use]
pub fn render(families: &[Family], form: Form) -> String {
    let mut text = String::new();
    for family in families {
        // The older text names a counter by its samples.
        let suffix = if form == Form::Text && family.kind == Type::Counter { "_total" } else { "" };
        let name = format!("{}{suffix}", family.name);
        line(&mut text, format_args!("# HELP {name} {}\n", escaped(&family.help, form == Form::OpenMetrics)));
        line(&mut text, format_args!("# TYPE {name} {}\n", family.kind.word(form)));
        let known = |sample: &&Sample| form == Form::OpenMetrics || sample.suffix != "_created";
        for sample in family.samples.iter().filter(known) {
            render_sample(&mut text, &family.name, sample);
        }
    }
    if form == Form::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn render_sample(text: &mut String, name: &str, sample: &Sample) {
    text.push_str(name);
    text.push_str(&sample.suffix);
    for (place, (key, value)) in sample.labels.iter().enumerate() {
        let before = if place == 0 { '{' } else { ',' };
        line(text, format_args!("{before}{key}=\"{}\"", escaped(value, true)));
    }
    if !sample.labels.is_empty() {
        text.push('}');
    }
    line(text, format_args!(" {}\n", sample.value));
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a string takes all");
}

fn escaped(text: &str, quotes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::format::parse;
    use proptest::prelude::*;

    #[test]
    fn both_forms() {
        let families = [
            Family::gauge("gantry_a_bytes", "A \"b\"\nc").with(&[("k", "x\\\"\n")], 0.5),
            Family::counter("gantry_c", "C").with(&[], 7_u64),
        ];
        let open = "# HELP gantry_a_bytes A \\\"b\\\"\\nc\n# TYPE gantry_a_bytes gauge\n\
                    gantry_a_bytes{k=\"x\\\\\\\"\\n\"} 0.5\n# HELP gantry_c C\n# TYPE gantry_c counter\ngantry_c_total 7\n# EOF\n";
        assert_eq!(render(&families, Form::OpenMetrics), open);
        let text = "# HELP gantry_a_bytes A \"b\"\\nc\n# TYPE gantry_a_bytes gauge\n\
                    gantry_a_bytes{k=\"x\\\\\\\"\\n\"} 0.5\n# HELP gantry_c_total C\n# TYPE gantry_c_total counter\ngantry_c_total 7\n";
        assert_eq!(render(&families, Form::Text), text);
    }

    #[test]
    fn one_name_is_one_family() {
        let one = |label: &str| Family::gauge("gantry_a", "A").with(&[("daemon", label)], 1);
        let other = Family::counter("gantry_a", "A").with(&[], 1);
        let all = merged([one("x"), Family::gauge("gantry_b", "none"), other, one("y")]);
        let names: Vec<&str> = all.iter().map(|family| family.name.as_str()).collect();
        assert_eq!(names, ["gantry_a", "gantry_b"]);
        assert_eq!(all[0].samples.len(), 2);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            rows in prop::collection::vec((any::<bool>(), ".*", prop::collection::vec(".*", 0..3), any::<u32>()), 0..6)
        ) {
            let families: Vec<Family> = rows
                .iter()
                .enumerate()
                .map(|(number, (counter, help, labels, value))| {
                    let kind = if *counter { Type::Counter } else { Type::Gauge };
                    let mut family = Family::new(&format!("gantry_f{number}"), kind, help);
                    let names: Vec<String> = (0..labels.len()).map(|place| format!("l{place}")).collect();
                    let labels: Vec<(&str, &str)> =
                        names.iter().map(String::as_str).zip(labels.iter().map(String::as_str)).collect();
                    family.add(&labels, value);
                    family
                })
                .collect();
            prop_assert_eq!(parse(&render(&families, Form::OpenMetrics)).expect("sound"), families);
        }
    }
}
