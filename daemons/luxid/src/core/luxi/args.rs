//! Takes the arguments of a method one by one. Failures read like Ganeti's; those of methods that carry
//! opcodes never repeat a value, which may be a secret.

use super::answer::ParseFailure;
use super::request::{Classic, Opcodes};
use super::show::shown;
use crate::core::query::{Filter, Kind, TagKind};
use gantry_model::ids::{JobId, LeaseUuid, TaskId};
use serde_json::Value;

/// The arguments of one request.
pub(super) struct Args {
    method: &'static str,
    /// The arguments as text for failures; empty where they may hold secrets.
    text: String,
    rest: std::vec::IntoIter<Value>,
    at: usize,
}

type Taken<T> = Result<T, ParseFailure>;

impl Args {
    pub fn new(method: &'static str, args: Value) -> Taken<Self> {
        let text = if method.starts_with("Submit") { String::new() } else { shown(&args) };
        match args {
            Value::Array(items) => Ok(Self { method, text, rest: items.into_iter(), at: 0 }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                Err(ParseFailure(format!("{method}: 'args' is not a list")))
            }
        }
    }

    pub fn failure(&self, why: &str) -> ParseFailure {
        match self.text.as_str() {
            "" => ParseFailure(format!("{}: {why}", self.method)),
            text => ParseFailure(format!("Cannot convert value '{text}', error: {why}")),
        }
    }

    /// Nothing may be left over.
    pub fn end(mut self) -> Taken<()> {
        match self.rest.next() {
            None => Ok(()),
            Some(_) => Err(self.failure(&format!("{} takes {} arguments", self.method, self.at))),
        }
    }

    pub fn any(&mut self) -> Taken<Value> {
        self.at += 1;
        self.rest
            .next()
            .ok_or_else(|| self.failure(&format!("argument {} of {} is missing", self.at, self.method)))
    }

    fn wrong<T>(&self, wanted: &str) -> Taken<T> {
        Err(self.failure(&format!("argument {} of {} is not {wanted}", self.at, self.method)))
    }

    pub fn string(&mut self) -> Taken<String> {
        match self.any()? {
            Value::String(text) => Ok(text),
            _ => self.wrong("a string"),
        }
    }

    pub fn optional_string(&mut self) -> Taken<Option<String>> {
        match self.any()? {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            _ => self.wrong("a string or null"),
        }
    }

    /// Null is the empty string.
    pub fn string_or_null(&mut self) -> Taken<String> {
        self.optional_string().map(Option::unwrap_or_default)
    }

    pub fn boolean(&mut self) -> Taken<bool> {
        match self.any()? {
            Value::Bool(flag) => Ok(flag),
            _ => self.wrong("a boolean"),
        }
    }

    /// False when it is not given.
    pub fn boolean_or_false(&mut self) -> Taken<bool> {
        if self.rest.len() == 0 { Ok(false) } else { self.boolean() }
    }

    pub fn integer(&mut self) -> Taken<i64> {
        match self.integer_or_null()? {
            Some(number) => Ok(number),
            None => self.wrong("an integer"),
        }
    }

    pub fn integer_or_null(&mut self) -> Taken<Option<i64>> {
        match self.any()? {
            Value::Null => Ok(None),
            value => match whole(&value) {
                Some(number) => Ok(Some(number)),
                None => self.wrong("an integer"),
            },
        }
    }

    /// An integer from 0.
    pub fn seconds(&mut self) -> Taken<u64> {
        match u64::try_from(self.integer()?) {
            Ok(number) => Ok(number),
            Err(_) => self.wrong("an integer from 0"),
        }
    }

    /// An epoch or null; also alone in a list, as some clients send it.
    pub fn epoch_or_null(&mut self) -> Taken<Option<f64>> {
        let mut value = self.any()?;
        if let Value::Array(items) = &mut value
            && items.len() == 1
        {
            value = items.swap_remove(0);
        }
        match (&value, value.as_f64()) {
            (Value::Null, _) => Ok(None),
            (_, Some(epoch)) => Ok(Some(epoch)),
            (_, None) => self.wrong("a time or null"),
        }
    }

    pub fn list(&mut self) -> Taken<Vec<Value>> {
        match self.any()? {
            Value::Array(items) => Ok(items),
            _ => self.wrong("a list"),
        }
    }

    fn list_or_null(&mut self) -> Taken<Vec<Value>> {
        match self.any()? {
            Value::Null => Ok(Vec::new()),
            Value::Array(items) => Ok(items),
            _ => self.wrong("a list or null"),
        }
    }

    fn all_strings(&self, items: Vec<Value>) -> Taken<Vec<String>> {
        let string = |item| match item {
            Value::String(text) => Some(text),
            _ => None,
        };
        items
            .into_iter()
            .map(string)
            .collect::<Option<_>>()
            .map_or_else(|| self.wrong("a list of strings"), Ok)
    }

    pub fn strings(&mut self) -> Taken<Vec<String>> {
        let items = self.list()?;
        self.all_strings(items)
    }

    pub fn strings_or_null(&mut self) -> Taken<Vec<String>> {
        let items = self.list_or_null()?;
        self.all_strings(items)
    }

    pub fn classic(&mut self) -> Taken<Classic> {
        Ok(Classic { names: self.strings()?, fields: self.strings()?, locking: self.boolean()? })
    }

    pub fn job_id(&mut self) -> Taken<JobId> {
        let value = self.any()?;
        job_id(&value).map_or_else(|| self.wrong("a job id"), Ok)
    }

    pub fn job_ids_or_null(&mut self) -> Taken<Vec<JobId>> {
        let items = self.list_or_null()?;
        items.iter().map(job_id).collect::<Option<_>>().map_or_else(|| self.wrong("a list of job ids"), Ok)
    }

    pub fn task_id(&mut self) -> Taken<TaskId> {
        let value = self.any()?;
        task_id(&value).map_or_else(|| self.wrong("a task id"), Ok)
    }

    pub fn task_ids(&mut self) -> Taken<Vec<TaskId>> {
        let items = self.list()?;
        items.iter().map(task_id).collect::<Option<_>>().map_or_else(|| self.wrong("a list of task ids"), Ok)
    }

    pub fn lease(&mut self) -> Taken<LeaseUuid> {
        let text = self.string()?;
        text.parse().or_else(|_| self.wrong("a lease uuid"))
    }

    /// Keys and opcodes of many jobs.
    pub fn keyed_jobs(&mut self) -> Taken<Vec<(Vec<String>, Opcodes)>> {
        let items = self.list()?;
        let jobs: Option<_> = items.into_iter().map(keyed_job).collect();
        jobs.map_or_else(|| self.wrong("a list of [keys, opcodes]"), Ok)
    }

    pub fn kind(&mut self) -> Taken<Kind> {
        let name = self.string()?;
        Kind::parse(&name).ok_or_else(|| self.invalid("ItemType", &name))
    }

    pub fn tag_kind(&mut self) -> Taken<TagKind> {
        let name = self.string()?;
        TagKind::parse(&name).ok_or_else(|| self.invalid("TagKind", &name))
    }

    fn invalid(&self, what: &str, text: &str) -> ParseFailure {
        self.failure(&format!("Invalid string value for type {what}: {}", shown(&Value::from(text))))
    }

    /// A filter; none when it is null or not given.
    pub fn filter(&mut self) -> Taken<Option<Filter>> {
        let value = self.any()?;
        Filter::parse(&value).map_err(|why| self.failure(&why.to_string()))
    }

    /// The opcodes of one job.
    pub fn opcodes(&mut self) -> Taken<Opcodes> {
        let value = self.any()?;
        opcodes(value).map_or_else(|| self.wrong("a list of opcodes"), Ok)
    }

    /// The opcodes of many jobs.
    pub fn jobs(&mut self) -> Taken<Vec<Opcodes>> {
        let items = self.list()?;
        let jobs: Option<_> = items.into_iter().map(opcodes).collect();
        jobs.map_or_else(|| self.wrong("a list of lists of opcodes"), Ok)
    }
}

fn opcodes(value: Value) -> Option<Opcodes> {
    let Value::Array(items) = value else { return None };
    let object = |item| match item {
        Value::Object(map) => Some(map),
        _ => None,
    };
    items.into_iter().map(object).collect()
}

fn keyed_job(value: Value) -> Option<(Vec<String>, Opcodes)> {
    let Value::Array(items) = value else { return None };
    let [keys, ops] = <[Value; 2]>::try_from(items).ok()?;
    Some((serde_json::from_value(keys).ok()?, opcodes(ops)?))
}

fn task_id(value: &Value) -> Option<TaskId> {
    match value {
        Value::String(text) => text.parse().ok(),
        value => u64::try_from(whole(value)?).ok().filter(|id| *id > 0).map(TaskId),
    }
}

fn job_id(value: &Value) -> Option<JobId> {
    match value {
        Value::String(text) => text.parse().ok(),
        value => u64::try_from(whole(value)?).ok().map(JobId),
    }
}

/// An integer, also when it is written with a fraction of zero, as some clients do.
fn whole(value: &Value) -> Option<i64> {
    let fraction = || {
        let number = value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < INTEGERS_OF_F64)?;
        #[allow(clippy::cast_possible_truncation, reason = "whole, and within the range of both types")]
        Some(number as i64)
    };
    value.as_i64().or_else(fraction)
}

/// Up to here every integer has its own `f64`.
const INTEGERS_OF_F64: f64 = 9_007_199_254_740_992.0;
