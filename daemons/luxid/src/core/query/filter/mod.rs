//! The filter language (`spec/query.md` §3): parsed from JSON, then bound to the fields of a kind.

mod bound;

pub(super) use bound::{Bound, Stage};

use regex::{Regex, RegexBuilder};
use serde_json::Value;

/// Deepest nesting. serde_json reads no deeper either; callers with ready values are held to the same.
pub const DEPTH_MAX: usize = 128;
/// Most regular expressions of one filter: one per name with wildcards on a command line.
pub const REGEX_COUNT_MAX: usize = 500;
/// Longest regular expression, in bytes.
pub const REGEX_BYTES_MAX: usize = 4096;
/// Most memory of one compiled regular expression, in bytes; all of a filter stay below 256 MiB.
pub const REGEX_MEMORY_MAX: usize = 256 << 10;

/// A filter that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not an array that begins with a string.
    #[error("A filter is null or an array that begins with an operator")]
    Shape,
    /// No such operator.
    #[error("Unknown filter operand '{0}'")]
    Operator(String),
    /// Too few or too many operands.
    #[error("Wrong number of operands of filter operator '{0}'")]
    Arity(String),
    /// A field is not named by a string.
    #[error("Filter operator '{0}' needs a field name")]
    Field(String),
    /// Compared with something that is neither string nor integer.
    #[error("Filter operator '{0}' compares with a string or an integer only")]
    Operand(String),
    /// A regular expression that can't be used.
    #[error("Bad regular expression '{text}': {why}")]
    Regex {
        /// Its beginning.
        text: String,
        /// Why.
        why: String,
    },
    /// Over [`DEPTH_MAX`].
    #[error("Filter nested deeper than {DEPTH_MAX}")]
    Depth,
    /// Over [`REGEX_COUNT_MAX`].
    #[error("More than {REGEX_COUNT_MAX} regular expressions in one filter")]
    RegexCount,
}

/// What a field is compared with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operand {
    /// A string.
    Text(String),
    /// An integer.
    Number(i64),
}

/// How a field is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// `==`
    Equal,
    /// `<`
    Less,
    /// `<=`
    LessEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterEqual,
}

/// A parsed filter. Fields are names still: which exist depends on the kind queried.
#[derive(Debug, Clone)]
pub enum Filter {
    /// All hold.
    And(Vec<Filter>),
    /// One holds.
    Or(Vec<Filter>),
    /// Does not hold.
    Not(Box<Filter>),
    /// The boolean field is true.
    True(String),
    /// The field compares so.
    Compare(Compare, String, Operand),
    /// The expression is found in the field.
    Matches(String, Regex),
    /// The list field has this entry.
    Contains(String, Operand),
}

impl Filter {
    /// Reads a filter; null is none.
    ///
    /// # Errors
    /// [`FilterError`]: the request is a parse failure.
    pub fn parse(value: &Value) -> Result<Option<Self>, FilterError> {
        match value {
            Value::Null => Ok(None),
            value => Parser { regexes: 0 }.filter(value, DEPTH_MAX).map(Some),
        }
    }

    /// The operands, when the filter is only `|` and `==` on `key` and names at least one object.
    pub(super) fn names(&self, key: &str) -> Option<Vec<Operand>> {
        fn collect(filter: &Filter, key: &str, names: &mut Vec<Operand>) -> bool {
            match filter {
                Filter::Or(parts) => parts.iter().all(|part| collect(part, key, names)),
                Filter::Compare(Compare::Equal, field, operand) if field == key => {
                    names.push(operand.clone());
                    true
                }
                Filter::Compare(..)
                | Filter::And(_)
                | Filter::Not(_)
                | Filter::True(_)
                | Filter::Matches(..)
                | Filter::Contains(..) => false,
            }
        }
        let mut names = Vec::new();
        (collect(self, key, &mut names) && !names.is_empty()).then_some(names)
    }

    /// Whether the filter looks at this field.
    pub(super) fn mentions(&self, name: &str) -> bool {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().any(|part| part.mentions(name)),
            Self::Not(part) => part.mentions(name),
            Self::True(field)
            | Self::Compare(_, field, _)
            | Self::Matches(field, _)
            | Self::Contains(field, _) => field == name,
        }
    }
}

struct Parser {
    regexes: usize,
}

impl Parser {
    fn filter(&mut self, value: &Value, depth: usize) -> Result<Filter, FilterError> {
        let depth = depth.checked_sub(1).ok_or(FilterError::Depth)?;
        let Some([Value::String(op), args @ ..]) = value.as_array().map(Vec::as_slice) else {
            return Err(FilterError::Shape);
        };
        let arity = || FilterError::Arity(op.clone());
        match op.as_str() {
            "&" => Ok(Filter::And(self.filters(args, depth)?)),
            "|" => Ok(Filter::Or(self.filters(args, depth)?)),
            "!" => match args {
                [part] => Ok(Filter::Not(Box::new(self.filter(part, depth)?))),
                _ => Err(arity()),
            },
            "?" => match args {
                [name] => Ok(Filter::True(field(op, name)?)),
                _ => Err(arity()),
            },
            "==" | "=" | "!=" | "<" | "<=" | ">" | ">=" | "=~" | "=[]" => match args {
                [name, with] => self.binary(op, field(op, name)?, with),
                _ => Err(arity()),
            },
            _ => Err(FilterError::Operator(op.clone())),
        }
    }

    fn filters(&mut self, parts: &[Value], depth: usize) -> Result<Vec<Filter>, FilterError> {
        parts.iter().map(|part| self.filter(part, depth)).collect()
    }

    fn binary(&mut self, op: &str, field: String, with: &Value) -> Result<Filter, FilterError> {
        if op == "=~" {
            return Ok(Filter::Matches(field, self.regex(with)?));
        }
        let operand = match with {
            Value::String(text) => Operand::Text(text.clone()),
            Value::Number(number) => {
                Operand::Number(number.as_i64().ok_or_else(|| FilterError::Operand(op.to_owned()))?)
            }
            _ => return Err(FilterError::Operand(op.to_owned())),
        };
        let compare = match op {
            "=[]" => return Ok(Filter::Contains(field, operand)),
            "!=" => return Ok(Filter::Not(Box::new(Filter::Compare(Compare::Equal, field, operand)))),
            "<" => Compare::Less,
            "<=" => Compare::LessEqual,
            ">" => Compare::Greater,
            ">=" => Compare::GreaterEqual,
            _ => Compare::Equal,
        };
        Ok(Filter::Compare(compare, field, operand))
    }

    fn regex(&mut self, value: &Value) -> Result<Regex, FilterError> {
        let text = value.as_str().ok_or_else(|| FilterError::Operand("=~".to_owned()))?;
        let bad = |why: String| FilterError::Regex { text: text.chars().take(80).collect(), why };
        self.regexes += 1;
        if self.regexes > REGEX_COUNT_MAX {
            return Err(FilterError::RegexCount);
        }
        if text.len() > REGEX_BYTES_MAX {
            return Err(bad(format!("longer than {REGEX_BYTES_MAX} bytes")));
        }
        RegexBuilder::new(text)
            .size_limit(REGEX_MEMORY_MAX)
            .dfa_size_limit(REGEX_MEMORY_MAX)
            .build()
            .map_err(|why| bad(why.to_string().replace('\n', " ")))
    }
}

fn field(op: &str, name: &Value) -> Result<String, FilterError> {
    name.as_str().map(str::to_owned).ok_or_else(|| FilterError::Field(op.to_owned()))
}
