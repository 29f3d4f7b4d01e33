//! A filter with its fields looked up, and its evaluation over rows.

use super::{Compare, Filter, Operand};
use crate::core::query::cell::{Cell, Scalar};
use crate::core::query::field::{Ctx, Field, FieldTable};
use gantry_model::error::GanetiError;
use gantry_model::names::host_matches;
use regex::Regex;
use std::cmp::Ordering;

/// Which data is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core::query) enum Stage {
    /// Configuration only; live fields are open.
    Config,
    /// Everything.
    Live,
}

/// Result of a condition. `Open` = there is no data to tell; it is neither made true nor false by `!`,
/// and keeps the row in the end. What a kind of Gantry's own does not have is no data either, but known: `No`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    No,
    Open,
    Yes,
}

impl From<bool> for Truth {
    fn from(flag: bool) -> Self {
        if flag { Self::Yes } else { Self::No }
    }
}

/// A filter over rows of type `R`.
pub(in crate::core::query) enum Bound<R: 'static> {
    And(Vec<Bound<R>>),
    Or(Vec<Bound<R>>),
    Not(Box<Bound<R>>),
    True(&'static Field<R>),
    Compare(Compare, &'static Field<R>, Operand),
    Matches(&'static Field<R>, Regex),
    Contains(&'static Field<R>, Operand),
}

impl<R> Bound<R> {
    /// Looks up the fields.
    ///
    /// # Errors
    /// `ParameterError` for a field that does not exist (`spec/query.md` §3).
    pub fn new(filter: &Filter, table: &'static FieldTable<R>) -> Result<Self, GanetiError> {
        let find = |name: &String| {
            let unknown = || GanetiError::new("ParameterError", format!("Can't find field named '{name}'"));
            table.get(name).ok_or_else(unknown)
        };
        let all =
            |parts: &[Filter]| parts.iter().map(|part| Self::new(part, table)).collect::<Result<_, _>>();
        Ok(match filter {
            Filter::And(parts) => Self::And(all(parts)?),
            Filter::Or(parts) => Self::Or(all(parts)?),
            Filter::Not(part) => Self::Not(Box::new(Self::new(part, table)?)),
            Filter::True(name) => Self::True(find(name)?),
            Filter::Compare(how, name, operand) => Self::Compare(*how, find(name)?, operand.clone()),
            Filter::Matches(name, regex) => Self::Matches(find(name)?, regex.clone()),
            Filter::Contains(name, operand) => Self::Contains(find(name)?, operand.clone()),
        })
    }

    /// Whether any field needs facts of nodes.
    pub fn is_live(&self) -> bool {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().any(Self::is_live),
            Self::Not(part) => part.is_live(),
            Self::True(field)
            | Self::Compare(_, field, _)
            | Self::Matches(field, _)
            | Self::Contains(field, _) => field.live,
        }
    }

    /// Whether the row stays in the answer.
    ///
    /// # Errors
    /// `ParameterError` when a value has another type than what it is compared with.
    pub fn keeps<'a>(&self, row: &'a R, ctx: &Ctx<'a>, stage: Stage) -> Result<bool, GanetiError> {
        Ok(self.truth(row, ctx, stage)? != Truth::No)
    }

    fn truth<'a>(&self, row: &'a R, ctx: &Ctx<'a>, stage: Stage) -> Result<Truth, GanetiError> {
        let value = |field: &Field<R>| match stage {
            Stage::Config if field.live => None,
            Stage::Config | Stage::Live => Some(field.cell(row, ctx)).filter(|cell| cell.status() == 0),
        };
        let missing = |field: &Field<R>| {
            Ok(if field.definite && stage == Stage::Live { Truth::No } else { Truth::Open })
        };
        match self {
            Self::And(parts) => {
                let mut all = Truth::Yes;
                for part in parts {
                    match part.truth(row, ctx, stage)? {
                        Truth::No => return Ok(Truth::No),
                        Truth::Open => all = Truth::Open,
                        Truth::Yes => {}
                    }
                }
                Ok(all)
            }
            Self::Or(parts) => {
                let mut any = Truth::No;
                for part in parts {
                    match part.truth(row, ctx, stage)? {
                        Truth::Yes => return Ok(Truth::Yes),
                        Truth::Open => any = Truth::Open,
                        Truth::No => {}
                    }
                }
                Ok(any)
            }
            Self::Not(part) => Ok(match part.truth(row, ctx, stage)? {
                Truth::No => Truth::Yes,
                Truth::Open => Truth::Open,
                Truth::Yes => Truth::No,
            }),
            Self::True(field) => value(field).map_or(missing(field), |cell| is_true(field, &cell)),
            Self::Compare(how, field, operand) => {
                value(field).map_or(missing(field), |cell| compare(*how, field, &cell, operand))
            }
            Self::Matches(field, regex) => {
                value(field).map_or(missing(field), |cell| matches(field, &cell, regex))
            }
            Self::Contains(field, operand) => {
                value(field).map_or(missing(field), |cell| contains(field, &cell, operand))
            }
        }
    }
}

fn mismatch<R>(field: &Field<R>, wanted: &str) -> GanetiError {
    GanetiError::new("ParameterError", format!("Field '{}' does not hold {wanted}", field.def.name))
}

fn is_true<R>(field: &Field<R>, cell: &Cell<'_>) -> Result<Truth, GanetiError> {
    match cell.scalar() {
        Scalar::Bool(flag) => Ok(flag.into()),
        Scalar::Null | Scalar::Int(_) | Scalar::Float(_) | Scalar::Text(_) | Scalar::Composite => {
            Err(mismatch(field, "a boolean"))
        }
    }
}

fn compare<R>(
    how: Compare,
    field: &Field<R>,
    cell: &Cell<'_>,
    operand: &Operand,
) -> Result<Truth, GanetiError> {
    let wanted = match operand {
        Operand::Text(_) => "a string to compare with",
        Operand::Number(_) => "a number to compare with",
    };
    match (cell.scalar(), operand) {
        (Scalar::Null, _) => Ok(Truth::No),
        (Scalar::Text(text), Operand::Text(other)) if field.host && how == Compare::Equal => {
            Ok(host_matches(&text, other).into())
        }
        (Scalar::Text(text), Operand::Text(other)) => Ok(holds(how, (*text).cmp(other.as_str())).into()),
        (Scalar::Int(number), Operand::Number(other)) => {
            Ok(holds(how, number.cmp(&i128::from(*other))).into())
        }
        (Scalar::Float(number), Operand::Number(other)) => {
            #[allow(clippy::cast_precision_loss, reason = "a filter's number is small or an estimate")]
            let order = number.partial_cmp(&(*other as f64));
            Ok(order.is_some_and(|order| holds(how, order)).into())
        }
        (Scalar::Bool(_) | Scalar::Composite, _)
        | (Scalar::Text(_), Operand::Number(_))
        | (Scalar::Int(_) | Scalar::Float(_), Operand::Text(_)) => Err(mismatch(field, wanted)),
    }
}

fn holds(how: Compare, order: Ordering) -> bool {
    match how {
        Compare::Equal => order.is_eq(),
        Compare::Less => order.is_lt(),
        Compare::LessEqual => order.is_le(),
        Compare::Greater => order.is_gt(),
        Compare::GreaterEqual => order.is_ge(),
    }
}

fn matches<R>(field: &Field<R>, cell: &Cell<'_>, regex: &Regex) -> Result<Truth, GanetiError> {
    match cell.scalar() {
        Scalar::Null => Ok(Truth::No),
        Scalar::Text(text) => Ok(regex.is_match(&text).into()),
        Scalar::Bool(_) | Scalar::Int(_) | Scalar::Float(_) | Scalar::Composite => {
            Err(mismatch(field, "a string for a regular expression"))
        }
    }
}

fn contains<R>(field: &Field<R>, cell: &Cell<'_>, operand: &Operand) -> Result<Truth, GanetiError> {
    let items = cell.items().ok_or_else(|| mismatch(field, "a list"))?;
    let equal = |item: &Scalar<'_>| match (item, operand) {
        (Scalar::Text(text), Operand::Text(other)) => text == other,
        (Scalar::Int(number), Operand::Number(other)) => *number == i128::from(*other),
        (Scalar::Null | Scalar::Bool(_) | Scalar::Float(_) | Scalar::Composite, _)
        | (Scalar::Text(_), Operand::Number(_))
        | (Scalar::Int(_), Operand::Text(_)) => false,
    };
    Ok(items.iter().any(equal).into())
}
