//! The report object (`spec/mond.md` §2): exactly seven keys, and the status codes of kind 1.

use super::exposition::Family;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Where a report stands in paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// None: `default` in paths and lists, null in reports.
    None,
    /// Instances, their VMs, slots and leases.
    Instance,
    /// Disks.
    Storage,
    /// Gantry's daemons.
    Daemon,
}

impl Category {
    /// Its word in paths and lists.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::None => "default",
            Self::Instance => "instance",
            Self::Storage => "storage",
            Self::Daemon => "daemon",
        }
    }

    /// Its word in reports.
    #[must_use]
    pub fn in_report(self) -> Option<&'static str> {
        (self != Self::None).then(|| self.path())
    }
}

/// What a collector tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Figures.
    Performance,
    /// Whether all is well.
    Status,
}

impl Kind {
    /// Its number in lists and reports.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Performance => 0,
            Self::Status => 1,
        }
    }
}

/// How bad it is; a set of bits, so that the OR over a cluster is 0 only when all is well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// All is well.
    #[default]
    Ok = 0,
    /// Bad for now; being repaired by itself.
    Temporary = 1,
    /// Could not tell.
    Unknown = 2,
    /// Bad; a person is needed.
    Bad = 4,
}

impl Code {
    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// A code and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// How bad.
    pub code: Code,
    /// Empty when all is well.
    pub message: String,
}

impl Status {
    /// All is well.
    #[must_use]
    pub fn ok() -> Self {
        Self::default()
    }

    /// Something is not.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// That of a whole: the worst code of its parts, and all that they say.
    pub fn worst<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut whole = Self::ok();
        for part in parts {
            whole.code = whole.code.max(part.code);
            if !part.message.is_empty() {
                if !whole.message.is_empty() {
                    whole.message.push('\n');
                }
                whole.message.push_str(&part.message);
            }
        }
        whole
    }

    /// As it stands in data.
    #[must_use]
    pub fn value(&self) -> Value {
        json!({"code": self.code.number(), "message": self.message})
    }
}

/// What a collector found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gathered {
    /// The report's data; that of kind 1 has its status in it.
    pub data: Value,
    /// Of kind 1.
    pub status: Option<Status>,
    /// The same as metrics.
    pub families: Vec<Family>,
}

impl Gathered {
    /// Figures.
    #[must_use]
    pub fn figures(data: Value, families: Vec<Family>) -> Self {
        Self { data, status: None, families }
    }

    /// A status. Data that is no object goes under `data`.
    #[must_use]
    pub fn status(data: Value, status: Status, families: Vec<Family>) -> Self {
        let mut all = match data {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            other => Map::from_iter([("data".to_owned(), other)]),
        };
        all.insert("status".to_owned(), status.value());
        Self { data: Value::Object(all), status: Some(status), families }
    }
}

/// The object itself. A reader of Ganeti's refuses one with any other key.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    /// The collector.
    pub name: &'a str,
    /// Always `B`, as of Ganeti's built-in ones.
    pub version: &'a str,
    /// Version of `data`.
    pub format_version: u32,
    /// Nanoseconds since the epoch.
    pub timestamp: u64,
    /// Its category, or null.
    pub category: Option<&'a str>,
    /// 0 or 1.
    pub kind: u8,
    /// What was found.
    pub data: &'a Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_is_as_bad_as_its_worst_part() {
        let parts = [
            Status::ok(),
            Status::new(Code::Temporary, "a"),
            Status::new(Code::Bad, "b"),
            Status::new(Code::Unknown, ""),
        ];
        assert_eq!(Status::worst(&parts), Status::new(Code::Bad, "a\nb"));
        assert_eq!(Status::worst(&[]), Status::ok());
        let codes = [Code::Ok, Code::Temporary, Code::Unknown, Code::Bad].map(Code::number);
        assert_eq!(codes, [0, 1, 2, 4]);
    }

    #[test]
    fn data_that_is_no_object_is_put_into_one() {
        let status = |data| Gathered::status(data, Status::ok(), Vec::new()).data;
        let fine = json!({"code": 0, "message": ""});
        assert_eq!(status(json!([1])), json!({"data": [1], "status": fine}));
        assert_eq!(status(json!({"a": 1})), json!({"a": 1, "status": fine}));
        assert_eq!(status(Value::Null), json!({"status": fine}));
    }
}
