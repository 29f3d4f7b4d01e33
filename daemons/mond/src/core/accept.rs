//! Which form of metrics a reader takes, by its Accept header (RFC 9110 §12.5.1).

/// A form of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus' text, version 0.0.4.
    Text,
}

impl Form {
    /// Its media type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Thousandths, as the header's weights are written.
type Weight = u32;
/// That of a type without one.
const WEIGHT_MAX: Weight = 1000;

/// The form for a reader: OpenMetrics for who names it and does not like plain text more.
#[must_use]
pub fn form(accept: Option<&str>) -> Form {
    let (mut open, mut text) = (0, 0);
    for part in accept.unwrap_or_default().split(',') {
        let mut pieces = part.split(';').map(str::trim);
        let kind = pieces.next().unwrap_or_default();
        let (mut weight, mut version) = (WEIGHT_MAX, None);
        for piece in pieces {
            match piece.split_once('=') {
                Some((key, value)) if key.trim().eq_ignore_ascii_case("q") => {
                    weight = thousandths(value.trim())
                }
                Some((key, value)) if key.trim().eq_ignore_ascii_case("version") => {
                    version = Some(value.trim().trim_matches('"'));
                }
                Some(_) | None => {}
            }
        }
        if kind.eq_ignore_ascii_case("application/openmetrics-text")
            && matches!(version, None | Some("1.0.0"))
        {
            open = open.max(weight);
        } else if kind.eq_ignore_ascii_case("text/plain") {
            text = text.max(weight);
        }
    }
    if open > 0 && open >= text { Form::OpenMetrics } else { Form::Text }
}

/// `0.75` as 750; what is no weight is 0.
fn thousandths(text: &str) -> Weight {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if fraction.len() > 3 || !digits(whole) || !digits(fraction) {
        return 0;
    }
    let whole: Weight = whole.parse().unwrap_or(0);
    let part: Weight = format!("{fraction:0<3}").parse().unwrap_or(0);
    (whole.min(1) * WEIGHT_MAX + part).min(WEIGHT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_openmetrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, want) in [
            (prometheus, Form::OpenMetrics),
            ("Application/OpenMetrics-Text", Form::OpenMetrics),
            ("application/openmetrics-text; version=\"1.0.0\"; q=0.001", Form::OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", Form::Text),
            ("application/openmetrics-text;q=0", Form::Text),
            ("application/openmetrics-text;q=0.5,text/plain", Form::Text),
            ("application/openmetrics-text;q=x", Form::Text),
            ("*/*", Form::Text),
            ("", Form::Text),
        ] {
            assert_eq!(form(Some(accept)), want, "{accept}");
        }
        assert_eq!(form(None), Form::Text);
    }

    #[test]
    fn weights() {
        for (text, want) in [
            ("1", 1000),
            ("0.5", 500),
            ("0.123", 123),
            ("1.000", 1000),
            ("0.1234", 0),
            ("9.9", 1000),
            ("-1", 0),
        ] {
            assert_eq!(thousandths(text), want, "{text}");
        }
    }
}
