//! Fields: their definition as clients see it, and the function that gets the value from a row.

use super::cell::{Cell, Missing};
use super::live::LiveFacts;
use crate::core::mirror::Snapshot;
use gantry_model::config::Cluster;
use gantry_model::names::natural_cmp;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::HashMap;

/// Kind of a field's values (`spec/query.md` §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueKind {
    /// No such field.
    Unknown,
    /// A string.
    Text,
    /// A boolean.
    Bool,
    /// An integer.
    Number,
    /// A number.
    Float,
    /// MiB.
    Unit,
    /// Epoch.
    Timestamp,
    /// Any JSON.
    Other,
}

/// What clients are told of a field. The order of the members is the order on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldDef {
    /// Name.
    pub name: Cow<'static, str>,
    /// Column header.
    pub title: Cow<'static, str>,
    /// Kind of values.
    pub kind: ValueKind,
    /// Explanation, never empty.
    pub doc: Cow<'static, str>,
}

impl FieldDef {
    /// The definition of a field that does not exist.
    pub(super) fn unknown(name: &str) -> Self {
        Self {
            name: Cow::Owned(name.to_owned()),
            title: Cow::Owned(name.to_owned()),
            kind: ValueKind::Unknown,
            doc: Cow::Owned(format!("There is no field '{name}'")),
        }
    }
}

/// What getters may look at beside their row.
#[derive(Clone, Copy)]
pub(super) struct Ctx<'a> {
    pub config: &'a Snapshot,
    /// None only for the kinds that need no configuration.
    pub cluster: Option<&'a Cluster>,
    pub live: &'a LiveFacts,
}

type Plain<R> = for<'a> fn(&'a R, &Ctx<'a>) -> Cell<'a>;
type At<R> = for<'a> fn(&'a R, &Ctx<'a>, usize) -> Cell<'a>;
type Keyed<R> = for<'a> fn(&'a R, &Ctx<'a>, &'static str) -> Cell<'a>;

enum Get<R> {
    Plain(Plain<R>),
    At(At<R>, usize),
    Keyed(Keyed<R>, &'static str),
}

/// A field of rows of type `R`.
pub(super) struct Field<R> {
    pub def: FieldDef,
    /// Needs facts of a node: counts as "keep" before they are there.
    pub live: bool,
    /// A value that is missing is known to be none, and meets no condition. Of Ganeti's kinds such rows are kept.
    pub definite: bool,
    /// `==` also matches a shorter name that ends at a dot.
    pub host: bool,
    get: Get<R>,
}

macro_rules! kinds {
    ($($make:ident $kind:ident,)+) => {
        $(pub fn $make(name: &'static str, title: &'static str, doc: &'static str, get: Plain<R>) -> Self {
            Self::new(Cow::Borrowed(name), Cow::Borrowed(title), ValueKind::$kind, Cow::Borrowed(doc), Get::Plain(get))
        })+
    };
}

impl<R> Field<R> {
    fn new(
        name: Cow<'static, str>,
        title: Cow<'static, str>,
        kind: ValueKind,
        doc: Cow<'static, str>,
        get: Get<R>,
    ) -> Self {
        Self { def: FieldDef { name, title, kind, doc }, live: false, definite: false, host: false, get }
    }

    kinds! {
        text Text, bool Bool, number Number, float Float, unit Unit, time Timestamp, other Other,
    }

    /// The field of one parameter: `prefix/key`.
    pub fn keyed(
        prefix: &str,
        key: &'static str,
        title: Option<&'static str>,
        kind: ValueKind,
        get: Keyed<R>,
    ) -> Self {
        let name = format!("{prefix}/{key}");
        let title = title.map_or_else(|| Cow::Owned(name.clone()), Cow::Borrowed);
        let doc = match prefix {
            "hv" => format!("Effective hypervisor parameter {key}"),
            "be" => format!("Effective backend parameter {key}"),
            _ => format!("Effective node parameter {key}"),
        };
        Self::new(Cow::Owned(name), title, kind, Cow::Owned(doc), Get::Keyed(get, key))
    }

    /// The field of one member of a family: `family/index`.
    pub fn at(family: &str, title: &str, kind: ValueKind, doc: &str, (get, index): (At<R>, usize)) -> Self {
        Self::new(
            Cow::Owned(format!("{family}/{index}")),
            Cow::Owned(format!("{title}/{index}")),
            kind,
            Cow::Owned(format!("{doc}, number {index} counted from 0")),
            Get::At(get, index),
        )
    }

    /// Another name for a member of a family.
    pub fn alias(
        (name, title): (&'static str, &'static str),
        kind: ValueKind,
        doc: &'static str,
        (get, index): (At<R>, usize),
    ) -> Self {
        Self::new(Cow::Borrowed(name), Cow::Borrowed(title), kind, Cow::Borrowed(doc), Get::At(get, index))
    }

    /// Another name for a parameter.
    pub fn keyed_alias(
        (name, title): (&'static str, &'static str),
        kind: ValueKind,
        doc: &'static str,
        (get, key): (Keyed<R>, &'static str),
    ) -> Self {
        Self::new(Cow::Borrowed(name), Cow::Borrowed(title), kind, Cow::Borrowed(doc), Get::Keyed(get, key))
    }

    pub fn live(self) -> Self {
        Self { live: true, ..self }
    }

    pub fn host(self) -> Self {
        Self { host: true, ..self }
    }

    /// The value of this field in `row`.
    pub fn cell<'a>(&self, row: &'a R, ctx: &Ctx<'a>) -> Cell<'a> {
        match &self.get {
            Get::Plain(get) => get(row, ctx),
            Get::At(get, index) => get(row, ctx, *index),
            Get::Keyed(get, key) => get(row, ctx, key),
        }
    }
}

/// All fields of one kind, in natural order of their names.
pub(super) struct FieldTable<R> {
    fields: Vec<Field<R>>,
    by_name: HashMap<String, usize>,
}

impl<R> FieldTable<R> {
    pub fn new(mut fields: Vec<Field<R>>) -> Self {
        fields.sort_by(|a, b| natural_cmp(&a.def.name, &b.def.name));
        let by_name = fields.iter().enumerate().map(|(at, f)| (f.def.name.to_string(), at)).collect();
        Self { fields, by_name }
    }

    /// Of a kind of Gantry's own.
    pub fn own(fields: Vec<Field<R>>) -> Self {
        Self::new(fields.into_iter().map(|field| Field { definite: !field.live, ..field }).collect())
    }

    pub fn get(&self, name: &str) -> Option<&Field<R>> {
        self.by_name.get(name).map(|at| &self.fields[*at])
    }

    /// Definitions of the named fields, of all when none is named.
    pub fn defs(&self, names: &[String]) -> Vec<FieldDef> {
        let def = |name: &String| self.get(name).map_or_else(|| FieldDef::unknown(name), |f| f.def.clone());
        match names {
            [] => self.fields.iter().map(|field| field.def.clone()).collect(),
            names => names.iter().map(def).collect(),
        }
    }
}

/// A requested column.
pub(super) enum Column<R: 'static> {
    Known(&'static Field<R>),
    Unknown(FieldDef),
}

impl<R> Column<R> {
    pub fn def(&self) -> &FieldDef {
        match self {
            Self::Known(field) => &field.def,
            Self::Unknown(def) => def,
        }
    }

    pub fn cell<'a>(&self, row: &'a R, ctx: &Ctx<'a>) -> Cell<'a> {
        match self {
            Self::Known(field) => field.cell(row, ctx),
            Self::Unknown(_) => Cell::Missing(Missing::Unknown),
        }
    }
}
