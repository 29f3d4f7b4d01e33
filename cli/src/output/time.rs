//! Times as Ganeti's commands print them, in the local time zone, and the spans they read (`2d`, `90m`).

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

/// `YYYY-MM-DD HH:MM:SS` of an epoch number; `N/A` for what is no time.
#[must_use]
pub fn from_epoch(value: &Value, zone: &TimeZone) -> String {
    let whole = value.as_i64().or_else(|| value.as_f64().and_then(seconds));
    whole.and_then(|s| Timestamp::from_second(s).ok()).map_or_else(
        || "N/A".to_owned(),
        |at| at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// `YYYY-MM-DD HH:MM:SS.ffffff` of `[seconds, microseconds]`; `N/A` for what is no time.
#[must_use]
pub fn from_ts(value: &Value, zone: &TimeZone) -> String {
    let Some((seconds, micros)) = parts(value) else { return "N/A".to_owned() };
    match Timestamp::from_second(seconds) {
        Ok(at) => format!("{}.{micros:06}", at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S")),
        Err(_) => "N/A".to_owned(),
    }
}

/// `Fri Nov 20 11:34:39 2026` of `[seconds, microseconds]`: the start of a job's log line.
#[must_use]
pub fn log_time(value: &Value, zone: &TimeZone) -> String {
    parts(value)
        .and_then(|(seconds, _)| Timestamp::from_second(seconds).ok())
        .map_or_else(String::new, |at| at.to_zoned(zone.clone()).strftime("%a %b %e %H:%M:%S %Y").to_string())
}

/// `[seconds, microseconds]`.
#[must_use]
pub fn parts(value: &Value) -> Option<(i64, i64)> {
    let [seconds, micros] = value.as_array()?.as_slice() else { return None };
    Some((seconds.as_i64()?, micros.as_i64()?))
}

/// Seconds from the first to the second `[seconds, microseconds]`.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "differences of times of one job")]
pub fn between(from: &Value, to: &Value) -> Option<f64> {
    let ((a, au), (b, bu)) = (parts(from)?, parts(to)?);
    Some((b - a) as f64 + (bu - au) as f64 / 1e6)
}

#[allow(clippy::cast_possible_truncation, reason = "checked to be in range")]
fn seconds(epoch: f64) -> Option<i64> {
    (0.0..1e12).contains(&epoch).then_some(epoch as i64)
}

/// The seconds of a span: a whole number with an optional unit `s`, `m`, `h`, `d`, `w`.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse_span(text: &str) -> Result<u64, String> {
    let bad =
        || format!("'{text}' is no time span; give seconds, or a number with s, m, h, d or w such as 6h");
    let (number, unit) = text.split_at(text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len());
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "w" => 7 * 24 * 3600,
        _ => return Err(bad()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_printed_in_the_three_forms() {
        let zone = TimeZone::UTC;
        assert_eq!(from_epoch(&json!(1_795_174_479.9), &zone), "2026-11-20 11:34:39");
        assert_eq!(from_ts(&json!([1_795_174_479, 42]), &zone), "2026-11-20 11:34:39.000042");
        assert_eq!(log_time(&json!([1_795_174_479, 42]), &zone), "Fri Nov 20 11:34:39 2026");
        assert_eq!(log_time(&json!([1_793_621_679, 42]), &zone), "Mon Nov  2 12:14:39 2026");
        for none in [json!(null), json!("x"), json!([1]), json!([-1e99, 0])] {
            assert_eq!(from_ts(&none, &zone), "N/A", "{none}");
        }
    }

    #[test]
    fn spans_are_read_with_their_unit() {
        for (text, want) in [("90", 90), ("2m", 120), ("6h", 21_600), ("1d", 86_400), ("1w", 604_800)] {
            assert_eq!(parse_span(text), Ok(want), "{text}");
        }
        for bad in ["", "h", "1y", "-1", "1.5h", "99999999999999999999w"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }
}
