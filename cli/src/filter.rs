//! The textual filter language of the list commands, as Ganeti's users write it, made into the array form
//! that the server takes (`spec/query.md` §3). Pure.
//!
//! ```text
//! expr   = term { "or" term }            term = factor { "and" factor }
//! factor = "not" factor | "(" expr ")" | VALUE ["not"] "in" FIELD | FIELD [ OP VALUE ]
//! OP     = == = != < <= > >= | =* !* (glob) | =~ !~ (regular expression m/.../flags)
//! ```

use serde_json::{Value, json};

/// Deepest nesting: the server's parser and ours stay off their stack limits.
const DEPTH_MAX: usize = 64;

/// Characters that make an argument a filter instead of a name.
const FILTER_CHARS: &[char] = &['(', ')', '=', '/', '!', '~', '\'', '"', '\\', '<', '>'];

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at character {at}: {shown}")]
pub struct FilterError {
    /// What was expected or is wrong.
    pub what: String,
    /// Where, counted from 1.
    pub at: usize,
    /// The text with a mark at the place.
    pub shown: String,
}

/// What the arguments of a list command select: null = everything. One argument that looks like a filter,
/// or any with `force`, is parsed; others are names (or globs) of `key`, numbers if `numeric`.
///
/// # Errors
/// Text that is no filter; more than one filter; a name that is no number where numbers are wanted.
pub fn from_args(args: &[String], force: bool, key: &str, numeric: bool) -> Result<Value, FilterError> {
    let error = |what: &str| FilterError { what: what.to_owned(), at: 1, shown: args.join(" ") };
    match args {
        [] if force => Err(error("a filter is wanted as the only argument")),
        [] => Ok(Value::Null),
        [text] if force || looks_like_filter(text) => parse(text),
        _ if force => Err(error("exactly one filter is wanted; put it in quotes")),
        names => {
            let one = |name: &String| by_name(name, key, numeric).ok_or_else(|| error("a number is wanted"));
            let mut parts = vec![json!("|")];
            parts.extend(names.iter().map(one).collect::<Result<Vec<_>, _>>()?);
            Ok(Value::Array(parts))
        }
    }
}

fn looks_like_filter(text: &str) -> bool {
    text.chars().any(|c| FILTER_CHARS.contains(&c) || c.is_whitespace())
}

fn by_name(name: &str, key: &str, numeric: bool) -> Option<Value> {
    if numeric {
        return name.parse::<u64>().ok().map(|number| json!(["==", key, number]));
    }
    let glob = name.contains(['*', '?']);
    Some(if glob { json!(["=~", key, glob_regex(name)]) } else { json!(["==", key, name]) })
}

/// The regular expression that a glob over dotted names means: `*` and `?` as usual; names may go on after
/// a dot.
#[must_use]
pub fn glob_regex(glob: &str) -> String {
    let mut out = String::from("^");
    for c in glob.chars() {
        match c {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            c if c.is_ascii_alphanumeric() || c == '_' || c == '-' => out.push(c),
            c if c.is_ascii() => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out + "(\\..*)?$"
}

/// Reads a whole filter.
///
/// # Errors
/// The first place that does not fit.
pub fn parse(text: &str) -> Result<Value, FilterError> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    let filter = parser.expr()?;
    parser.skip_blanks();
    if parser.at < text.len() {
        Err(parser.error("the filter should end here, or go on with 'and' or 'or'"))
    } else {
        Ok(filter)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn error(&self, what: &str) -> FilterError {
        let at = self.text[..self.at].chars().count() + 1;
        let shown = format!("{} >>> {}", &self.text[..self.at], self.rest());
        FilterError { what: what.to_owned(), at, shown }
    }

    fn skip_blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Takes `word` if it stands next, as a whole word when it is one.
    fn take(&mut self, word: &str) -> bool {
        self.skip_blanks();
        let is_word = word.chars().all(char::is_alphabetic);
        let Some(after) = self.rest().strip_prefix(word) else { return false };
        if is_word && after.starts_with(is_field_char) {
            return false;
        }
        self.at += word.len();
        true
    }

    fn expr(&mut self) -> Result<Value, FilterError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error("the filter is nested too deeply"));
        }
        let all = self.chain("or", "|", Self::term);
        self.depth -= 1;
        all
    }

    fn term(&mut self) -> Result<Value, FilterError> {
        self.chain("and", "&", Self::factor)
    }

    /// `part WORD part WORD part` as `[OP, part, part, part]`; a single part stands alone.
    fn chain(
        &mut self,
        word: &str,
        op: &str,
        part: fn(&mut Self) -> Result<Value, FilterError>,
    ) -> Result<Value, FilterError> {
        let mut parts = vec![part(self)?];
        while self.take(word) {
            parts.push(part(self)?);
        }
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        parts.insert(0, json!(op));
        Ok(Value::Array(parts))
    }

    fn factor(&mut self) -> Result<Value, FilterError> {
        if self.take("not") {
            self.depth += 1;
            if self.depth > DEPTH_MAX {
                return Err(self.error("the filter is nested too deeply"));
            }
            let inner = self.factor()?;
            self.depth -= 1;
            return Ok(json!(["!", inner]));
        }
        if self.take("(") {
            let inner = self.expr()?;
            return if self.take(")") { Ok(inner) } else { Err(self.error("a closing ')' is missing")) };
        }
        self.skip_blanks();
        if self.rest().starts_with(|c: char| c == '"' || c == '\'' || c == '-' || c.is_ascii_digit()) {
            return self.membership();
        }
        let field = self.field()?;
        self.comparison(&field)
    }

    /// `VALUE [not] in FIELD`.
    fn membership(&mut self) -> Result<Value, FilterError> {
        let value = self.value()?;
        let negated = self.take("not");
        if !self.take("in") {
            return Err(self.error("'in' or 'not in' and a field should follow a value"));
        }
        let field = self.field()?;
        Ok(negate(negated, json!(["=[]", field, value])))
    }

    fn comparison(&mut self, field: &str) -> Result<Value, FilterError> {
        for (written, negated) in [("=~", false), ("!~", true)] {
            if self.take(written) {
                let regex = self.regex()?;
                return Ok(negate(negated, json!(["=~", field, regex])));
            }
        }
        for (written, negated) in [("=*", false), ("!*", true)] {
            if self.take(written) {
                let value = self.value()?;
                let glob = value.as_str().map(glob_regex);
                let glob = glob.ok_or_else(|| self.error("a glob is a text in quotes"))?;
                return Ok(negate(negated, json!(["=~", field, glob])));
            }
        }
        for (written, op) in
            [("==", "=="), ("!=", "!="), ("<=", "<="), (">=", ">="), ("=", "=="), ("<", "<"), (">", ">")]
        {
            if self.take(written) {
                let value = self.value()?;
                return Ok(json!([op, field, value]));
            }
        }
        Ok(json!(["?", field]))
    }

    fn field(&mut self) -> Result<String, FilterError> {
        self.skip_blanks();
        let end = self.rest().find(|c| !is_field_char(c)).unwrap_or(self.rest().len());
        let name = self.rest()[..end].to_owned();
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(self.error("a field name, 'not' or '(' should stand here"));
        }
        self.at += end;
        Ok(name)
    }

    /// A text in quotes, or a whole number.
    fn value(&mut self) -> Result<Value, FilterError> {
        self.skip_blanks();
        if let Some(quote) = self.rest().chars().next().filter(|c| *c == '"' || *c == '\'') {
            return self.quoted(quote).map(Value::String);
        }
        let digits = self.rest().strip_prefix('-').unwrap_or(self.rest());
        let len = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let len = len + self.rest().len() - digits.len();
        match self.rest()[..len].parse::<i64>() {
            Ok(number) => {
                self.at += len;
                Ok(json!(number))
            }
            Err(_) => Err(self.error("a whole number or a text in quotes should stand here")),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, FilterError> {
        let mut out = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, other)) => out.push(other),
                    None => break,
                },
                c if c == quote => {
                    self.at += i + c.len_utf8();
                    return Ok(out);
                }
                c => out.push(c),
            }
        }
        Err(self.error("the closing quote is missing"))
    }

    /// `m/.../flags` with any of `/ # ^ |` around, or a text in quotes.
    fn regex(&mut self) -> Result<String, FilterError> {
        self.skip_blanks();
        if self.rest().starts_with(['"', '\'']) {
            return Ok(self.value()?.as_str().unwrap_or_default().to_owned());
        }
        let wanted = "a regular expression as m/.../ should stand here";
        let after = self.rest().strip_prefix('m').ok_or_else(|| self.error(wanted))?;
        let around =
            after.chars().next().filter(|c| "/#^|".contains(*c)).ok_or_else(|| self.error(wanted))?;
        let body = &after[1..];
        let end = body.find(around).ok_or_else(|| self.error("the regular expression does not end"))?;
        let flags_len = body[end + 1..].find(|c| c != 's' && c != 'i').unwrap_or(body.len() - end - 1);
        let mut flags: Vec<char> = body[end + 1..end + 1 + flags_len].chars().collect();
        flags.sort_unstable();
        flags.dedup();
        let pattern = &body[..end];
        let out = if flags.is_empty() {
            pattern.to_owned()
        } else {
            format!("(?{}){pattern}", flags.iter().collect::<String>())
        };
        self.at += 2 + end + 1 + flags_len;
        Ok(out)
    }
}

fn negate(negated: bool, filter: Value) -> Value {
    if negated { json!(["!", filter]) } else { filter }
}

fn is_field_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn filters_become_arrays() {
        for (text, want) in [
            ("archived", json!(["?", "archived"])),
            ("status == \"success\"", json!(["==", "status", "success"])),
            ("id = 5", json!(["==", "id", 5])),
            ("a/b.c!=-3", json!(["!=", "a/b.c", -3])),
            ("mfree<=10 and mfree >= 2", json!(["&", ["<=", "mfree", 10], [">=", "mfree", 2]])),
            ("a and b or c", json!(["|", ["&", ["?", "a"], ["?", "b"]], ["?", "c"]])),
            ("a and (b or c)", json!(["&", ["?", "a"], ["|", ["?", "b"], ["?", "c"]]])),
            ("not not a", json!(["!", ["!", ["?", "a"]]])),
            ("a or b or c", json!(["|", ["?", "a"], ["?", "b"], ["?", "c"]])),
            ("'x' in tags", json!(["=[]", "tags", "x"])),
            ("\"x\" not in tags", json!(["!", ["=[]", "tags", "x"]])),
            ("name =~ m/^we\"b/", json!(["=~", "name", "^we\"b"])),
            ("name =~ m#a/b#i and x", json!(["&", ["=~", "name", "(?i)a/b"], ["?", "x"]])),
            ("name !~ m|x|si", json!(["!", ["=~", "name", "(?is)x"]])),
            ("name =* 'web*.x'", json!(["=~", "name", "^web.*\\.x(\\..*)?$"])),
            ("name == 'it\\'s'", json!(["==", "name", "it's"])),
            ("notes == 1", json!(["==", "notes", 1])),
            ("nothing and order", json!(["&", ["?", "nothing"], ["?", "order"]])),
        ] {
            assert_eq!(parse(text).as_ref(), Ok(&want), "{text}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_with_its_place() {
        for (text, at) in [
            ("", 1),
            ("a ==", 5),
            ("a == b", 6),
            ("(a", 3),
            ("a b", 3),
            ("name =~ /x/", 9),
            ("name == 'x", 9),
            ("5", 2),
            ("a =* 5", 7),
            ("ä == 1", 1),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.at, at, "{text}: {error}");
        }
        assert!(parse(&"(".repeat(100_000)).is_err());
        assert!(parse(&"not ".repeat(100_000)).is_err());
    }

    #[test]
    fn arguments_are_names_unless_they_look_like_a_filter() {
        let args = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let by = |list: &[&str]| from_args(&args(list), false, "name", false);
        assert_eq!(by(&[]), Ok(Value::Null));
        assert_eq!(by(&["a", "b"]), Ok(json!(["|", ["==", "name", "a"], ["==", "name", "b"]])));
        assert_eq!(by(&["web*"]), Ok(json!(["|", ["=~", "name", "^web.*(\\..*)?$"]])));
        assert_eq!(by(&["role == 'M'"]), Ok(json!(["==", "role", "M"])));
        assert_eq!(from_args(&args(&["master"]), true, "name", false), Ok(json!(["?", "master"])));
        assert_eq!(from_args(&args(&["5"]), false, "id", true), Ok(json!(["|", ["==", "id", 5]])));
        assert!(from_args(&args(&["x"]), false, "id", true).is_err());
        assert!(from_args(&args(&["a", "b"]), true, "name", false).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}") {
            let _ = parse(&text);
        }
    }
}
