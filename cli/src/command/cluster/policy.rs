//! Instance policies: options, and how they are shown (`spec/config.md` §4).

use crate::output::info::{Info, params};
use crate::output::text::plain;
use crate::output::units::parse_mib;
use crate::params::key_values;
use serde_json::{Map, Value, json};

/// Options that set an instance policy.
#[derive(Debug, Clone, clap::Args)]
pub struct PolicyOptions {
    /// Limits of instances: min:KEY=VALUE,.../max:KEY=VALUE,... with memory-size, disk-size, disk-count,
    /// cpu-count, nic-count, spindle-use; several pairs are separated by //
    #[arg(long, value_name = "LIMITS", help_heading = "Instance policy")]
    ipolicy_bounds_specs: Option<String>,
    /// Standard size of instances: KEY=VALUE,...
    #[arg(long, value_name = "KEY=VALUE,...", help_heading = "Instance policy")]
    ipolicy_std_specs: Option<String>,
    /// Allowed disk templates, separated by commas
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', help_heading = "Instance policy")]
    ipolicy_disk_templates: Option<Vec<String>>,
    /// Virtual CPUs per CPU at most
    #[arg(long, value_name = "RATIO", help_heading = "Instance policy")]
    ipolicy_vcpu_ratio: Option<f64>,
    /// Instances' spindles per spindle at most
    #[arg(long, value_name = "RATIO", help_heading = "Instance policy")]
    ipolicy_spindle_ratio: Option<f64>,
}

impl PolicyOptions {
    /// What was set; none if nothing was.
    ///
    /// # Errors
    /// A value that is none of its kind, for people.
    pub fn value(&self) -> Result<Option<Value>, String> {
        let all = json!({
            "minmax": self.ipolicy_bounds_specs.as_deref().map(bounds).transpose()?,
            "std": self.ipolicy_std_specs.as_deref().map(specs).transpose()?,
            "disk-templates": self.ipolicy_disk_templates,
            "vcpu-ratio": self.ipolicy_vcpu_ratio,
            "spindle-ratio": self.ipolicy_spindle_ratio,
        });
        let Value::Object(all) = all else { return Ok(None) };
        let set: Map<String, Value> = all.into_iter().filter(|(_, value)| !value.is_null()).collect();
        Ok((!set.is_empty()).then_some(Value::Object(set)))
    }
}

/// `min:.../max:...//min:.../max:...`.
fn bounds(text: &str) -> Result<Value, String> {
    let pair = |text: &str| {
        let mut pair = Map::new();
        for part in text.split('/').filter(|part| !part.is_empty()) {
            let (end, rest) = part.split_once(':').unwrap_or((part, ""));
            if !matches!(end, "min" | "max") || pair.insert(end.to_owned(), specs(rest)?).is_some() {
                return Err(format!("'{text}': write min:KEY=VALUE,.../max:KEY=VALUE,..."));
            }
        }
        if pair.len() == 2 {
            Ok(Value::Object(pair))
        } else {
            Err(format!("'{text}': give both min and max"))
        }
    };
    text.split("//").map(pair).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

fn specs(text: &str) -> Result<Value, String> {
    let mut out = Map::new();
    for (key, value) in key_values(text)? {
        let given = value.as_str().unwrap_or_default();
        let number = match key.as_str() {
            "memory-size" | "disk-size" => parse_mib(given)?,
            "cpu-count" | "disk-count" | "nic-count" | "spindle-use" => {
                given.parse().map_err(|_| format!("{key}: '{given}' is no whole number"))?
            }
            _ => {
                return Err(format!(
                    "there is no limit '{key}'; there are memory-size, disk-size, disk-count, cpu-count, nic-count, spindle-use"
                ));
            }
        };
        out.insert(key, json!(number));
    }
    Ok(Value::Object(out))
}

/// A policy; `own` is what is set on the object itself, `effective` with what it inherits. The cluster's
/// is its own, and has the standard sizes too.
#[must_use]
pub fn policy_info(own: &Value, effective: &Value, is_cluster: bool) -> Info {
    let pairs = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let own_pairs = pairs(&own["minmax"]);
    let is_own = !own_pairs.is_empty();
    let shown = if is_own { own_pairs } else { pairs(&effective["minmax"]) };
    let pair = |(at, pair): (usize, &Value)| {
        let end = |end: &str| {
            let set = if is_own { &pair[end] } else { &Value::Null };
            (format!("{end}/{at}"), params(set, &pair[end]))
        };
        Info::Named(vec![end("min"), end("max")])
    };
    let mut pieces =
        vec![("bounds specs".to_owned(), Info::List(shown.iter().enumerate().map(pair).collect()))];
    if is_cluster {
        pieces.push(("std".to_owned(), params(&own["std"], &own["std"])));
    }
    let joined =
        |list: &Value| list.as_array().into_iter().flatten().map(plain).collect::<Vec<_>>().join(", ");
    let text = |key: &str, show: &dyn Fn(&Value) -> String| match own.get(key) {
        Some(set) => Info::text(show(set)),
        None => Info::text(format!("default ({})", show(&effective[key]))),
    };
    pieces.push(("allowed disk templates".to_owned(), text("disk-templates", &joined)));
    pieces.push(("spindle-ratio".to_owned(), text("spindle-ratio", &plain)));
    pieces.push(("vcpu-ratio".to_owned(), text("vcpu-ratio", &plain)));
    Info::Named(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let want = json!([{"min": {"memory-size": 4}, "max": {"memory-size": 1024, "cpu-count": 8}}]);
        assert_eq!(bounds("min:memory-size=4M/max:memory-size=1G,cpu-count=8"), Ok(want));
        for bad in ["", "min:cpu-count=1", "min:x=1/max:x=2", "min:/min:", "max:cpu-count=a/min:"] {
            assert!(bounds(bad).is_err(), "{bad}");
        }
    }
}
