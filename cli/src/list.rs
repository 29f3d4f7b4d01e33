//! The list commands: options, query, table (`spec/query.md`).

use crate::error::{CliError, EXIT_FAILURE, EXIT_UNKNOWN_FIELD};
use crate::filter;
use crate::output::info::Info;
use crate::output::table::{Answer, Override, Style, laid_out, lines};
use crate::output::text::comma_list;
use crate::output::units::Units;
use crate::session::Session;
use serde_json::{Map, Value, json};

/// How any table is printed.
#[derive(Debug, Clone, clap::Args)]
pub struct TableOptions {
    /// Leave the line of titles out
    #[arg(long)]
    pub no_headers: bool,
    /// Put this between columns instead of padding them
    #[arg(long, value_name = "TEXT")]
    pub separator: Option<String>,
}

/// Options of the list commands.
#[derive(Debug, Clone, clap::Args)]
pub struct ListOptions {
    #[command(flatten)]
    table: TableOptions,
    /// Fields to show, separated by commas; with + before the first, in addition to the usual ones
    #[arg(short = 'o', long = "output", value_name = "FIELDS", allow_hyphen_values = true)]
    output: Option<String>,
    /// Units of sizes: h (what fits), m, g or t; without it h, or m with --separator
    #[arg(long, value_enum, value_name = "UNIT", ignore_case = true)]
    units: Option<Units>,
    /// Take the only argument as a filter, even if it looks like a name
    #[arg(short = 'F', long = "filter")]
    filter: bool,
    /// Say in words why a value is missing
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Print the server's answer as JSON
    #[arg(long)]
    pub json: bool,
}

impl ListOptions {
    /// Whether the only argument is a filter, whatever it looks like.
    #[must_use]
    pub fn forces_filter(&self) -> bool {
        self.filter
    }

    /// Whether the table is for people: units that fit, with their letters.
    #[must_use]
    pub fn is_human(&self) -> bool {
        self.units.map_or(self.table.separator.is_none(), |units| units == Units::H)
    }
}

/// What a list command shows.
pub struct Listing {
    /// Kind of item in the query.
    pub what: &'static str,
    /// Fields shown without `-o`.
    pub fields: &'static [&'static str],
    /// The field that arguments name.
    pub key: &'static str,
    /// Whether that field is a number.
    pub numeric: bool,
    /// Fields shown in their own way.
    pub overrides: &'static [Override],
}

/// Lists of names are joined with commas.
pub const JOINED: fn(&Value, &jiff::tz::TimeZone) -> String = |value, _| comma_list(value);

impl Listing {
    fn fields(&self, output: Option<&str>) -> Result<Vec<String>, CliError> {
        let split =
            |text: &str| text.split(',').filter(|f| !f.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let usual = || self.fields.iter().map(|f| (*f).to_owned());
        let fields = match output {
            None => usual().collect(),
            Some(text) => match text.strip_prefix('+') {
                Some(more) => usual().chain(split(more)).collect(),
                None => split(text),
            },
        };
        if fields.is_empty() {
            return Err(CliError::Usage("no field to show; name some after -o, or leave it out".to_owned()));
        }
        Ok(fields)
    }
}

/// What a list was answered.
pub struct Listed {
    answer: Answer,
    raw: Value,
}

impl Listed {
    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.answer.data.is_empty()
    }
}

impl Session {
    /// Queries and prints a table.
    ///
    /// # Errors
    /// A bad filter, the server's error, an unknown field (after the table).
    pub async fn list(
        &mut self,
        listing: &Listing,
        options: &ListOptions,
        names: &[String],
    ) -> Result<(), CliError> {
        let filter = filter::from_args(names, options.filter, listing.key, listing.numeric)?;
        self.list_filtered(listing, options, filter).await
    }

    /// As [`Session::list`], with the filter made already.
    ///
    /// # Errors
    /// As [`Session::list`].
    pub async fn list_filtered(
        &mut self,
        listing: &Listing,
        options: &ListOptions,
        filter: Value,
    ) -> Result<(), CliError> {
        let listed = self.listed(listing, options, filter).await?;
        self.show_listed(listing, options, &listed)
    }

    /// What [`Session::list`] shows, unseen.
    ///
    /// # Errors
    /// The server's.
    pub async fn listed(
        &mut self,
        listing: &Listing,
        options: &ListOptions,
        filter: Value,
    ) -> Result<Listed, CliError> {
        let fields = listing.fields(options.output.as_deref())?;
        let raw = self.call("Query", json!([listing.what, fields, filter])).await?;
        Ok(Listed { answer: answer(&raw)?, raw })
    }

    /// Shows it.
    ///
    /// # Errors
    /// Unknown fields; the screen's.
    pub fn show_listed(
        &mut self,
        listing: &Listing,
        options: &ListOptions,
        listed: &Listed,
    ) -> Result<(), CliError> {
        let Listed { answer, raw } = listed;
        let unknown = answer.unknown_fields().join(", ");
        if !unknown.is_empty() {
            self.screen.note(&format!("Warning: Queried for unknown fields {unknown}"));
        }
        if options.json {
            self.screen.line(&raw.to_string())?;
        } else {
            let plain = options.table.separator.is_some();
            let style = Style {
                header: !options.table.no_headers,
                separator: options.table.separator.clone(),
                units: options.units.unwrap_or(if plain { Units::M } else { Units::H }),
                verbose: options.verbose,
                zone: self.zone.clone(),
            };
            for line in lines(answer, &style, listing.overrides) {
                self.screen.line(&line)?;
            }
        }
        if unknown.is_empty() { Ok(()) } else { Err(CliError::Told(EXIT_UNKNOWN_FIELD)) }
    }

    /// Queries rows as objects by field name; what is missing is null.
    ///
    /// # Errors
    /// The server's.
    pub async fn rows(
        &mut self,
        what: &str,
        fields: &[&str],
        filter: Value,
    ) -> Result<Vec<Map<String, Value>>, CliError> {
        let answer = answer(&self.call("Query", json!([what, fields, filter])).await?)?;
        let one = |row: &Vec<(u8, Value)>| {
            let value =
                |i: usize| row.get(i).filter(|cell| cell.0 == 0).map_or(Value::Null, |cell| cell.1.clone());
            fields.iter().enumerate().map(|(i, field)| ((*field).to_owned(), value(i))).collect()
        };
        Ok(answer.data.iter().map(one).collect())
    }

    /// Shows items in full: all, or those named. Those that do not exist are told and make the command fail.
    ///
    /// # Errors
    /// The server's; an item that does not exist.
    pub async fn info(
        &mut self,
        what: &str,
        fields: &[&str],
        names: &[String],
        json: bool,
        show: fn(&Map<String, Value>, &jiff::tz::TimeZone) -> Info,
    ) -> Result<(), CliError> {
        let key = fields[0];
        let rows = self.rows(what, fields, filter::from_args(names, false, key, false)?).await?;
        if json {
            self.screen.line(&json!(rows).to_string())?;
        } else if !rows.is_empty() {
            let all = rows.iter().map(|row| show(row, &self.zone)).collect();
            self.screen.raw(&Info::List(all).render())?;
        }
        let plain_names = names.iter().filter(|n| !n.contains(['*', '?', '=', ' ']));
        let missing: Vec<&str> = plain_names
            .filter(|name| rows.iter().all(|row| row[key] != **name))
            .map(String::as_str)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.screen.note(&format!("No such {what}: {}", missing.join(", ")));
        Err(CliError::Told(EXIT_FAILURE))
    }

    /// Prints the fields of a kind of item: all, or those named.
    ///
    /// # Errors
    /// The server's error, an unknown field (after the table).
    pub async fn list_fields(
        &mut self,
        what: &str,
        names: &[String],
        table: &TableOptions,
    ) -> Result<(), CliError> {
        let wanted = if names.is_empty() { Value::Null } else { json!(names) };
        let answer = answer(&self.call("QueryFields", json!([what, wanted])).await?)?;
        let titles = ["Name", "Type", "Title", "Description"].map(str::to_owned).to_vec();
        let rows = answer
            .fields
            .iter()
            .map(|f| vec![f.name.clone(), kind_name(&f.kind).to_owned(), f.title.clone(), f.doc.clone()]);
        let rows: Vec<_> = (!table.no_headers).then_some(titles).into_iter().chain(rows).collect();
        for line in laid_out(&rows, &[false; 4], table.separator.as_deref()) {
            self.screen.line(&line)?;
        }
        if answer.unknown_fields().is_empty() { Ok(()) } else { Err(CliError::Told(EXIT_UNKNOWN_FIELD)) }
    }
}

fn answer(raw: &Value) -> Result<Answer, CliError> {
    serde_json::from_value(raw.clone())
        .map_err(|error| CliError::Protocol(format!("the answer is no query result: {error}")))
}

/// What `list-fields` calls a kind.
fn kind_name(kind: &str) -> &str {
    match kind {
        "unknown" => "Unknown",
        "text" => "Text",
        "bool" => "Boolean",
        "number" => "Number",
        "float" => "Floating-point number",
        "unit" => "Storage size",
        "timestamp" => "Timestamp",
        "other" => "Custom",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_replace_the_usual_ones_or_follow_them() {
        let listing =
            Listing { what: "node", fields: &["name", "role"], key: "name", numeric: false, overrides: &[] };
        assert_eq!(listing.fields(None).unwrap(), ["name", "role"]);
        assert_eq!(listing.fields(Some("pip,uuid")).unwrap(), ["pip", "uuid"]);
        assert_eq!(listing.fields(Some("+pip")).unwrap(), ["name", "role", "pip"]);
        assert!(listing.fields(Some(",")).is_err());
    }
}
