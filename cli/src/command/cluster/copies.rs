//! The copies of both logs in `gnt-cluster info`: the answer of QueryMembers.

use crate::error::without_numbers;
use crate::output::info::Info;
use crate::output::text::plain;
use serde_json::Value;

/// Per log its copies, and what was put aside.
#[must_use]
pub fn info(answer: &Value) -> Info {
    let word = if answer["settled"] == true { "settled" } else { "a change is under way" };
    let aside: Vec<Info> =
        answer["aside"].as_array().into_iter().flatten().map(|name| Info::text(plain(name))).collect();
    let aside = if aside.is_empty() { Info::text("(none)") } else { Info::List(aside) };
    let copies = Info::named([
        ("Members list", Info::text(format!("{} ({word})", plain(&answer["n"])))),
        ("Configuration", log(&answer["config"])),
        ("Job queue", log(&answer["queue"])),
        ("Rows put aside", aside),
    ]);
    Info::named([("Copies on master candidates", copies)])
}

fn log(copies: &Value) -> Info {
    let all: Vec<&Value> = copies.as_array().into_iter().flatten().collect();
    if all.is_empty() {
        return Info::text("(none)");
    }
    Info::Named(all.into_iter().map(|copy| (plain(&copy["name"]), Info::text(line(copy)))).collect())
}

/// One copy: up to where it has the rows, and what is wrong with it.
fn line(copy: &Value) -> String {
    let mut parts = vec![format!("has row {}", plain(&copy["matched"]))];
    match copy["lag"].as_u64() {
        Some(0) | None => parts.push("lacks none".to_owned()),
        Some(lag) => parts.push(format!("lacks {lag}")),
    }
    match copy["answered_ms_ago"].as_u64() {
        Some(ms) => parts.push(format!("answered {}.{:03} s ago", ms / 1000, ms % 1000)),
        None => parts.push("has not answered yet".to_owned()),
    }
    if copy["learner"] == true {
        parts.push("is being fed, does not count yet".to_owned());
    }
    if let Some(why) = copy["suspect"].as_str() {
        parts.push(format!("SUSPECT, does not count: {why}"));
    }
    if let Some(why) = copy["why"].as_str().filter(|why| !why.is_empty()) {
        parts.push(without_numbers(why.to_owned()));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn copies_say_how_they_stand() {
        let good = json!({"name": "n1", "matched": 70, "lag": 0, "learner": false, "suspect": null, "answered_ms_ago": 20,
            "why": ""});
        let bad = json!({"name": "n2", "matched": 40, "lag": 30, "learner": true, "suspect": "an old token",
            "answered_ms_ago": null, "why": "refused"});
        let answer =
            json!({"n": 3, "settled": false, "config": [good, bad], "queue": [], "aside": ["W-5-12"]});
        let want = "Copies on master candidates: \n  Members list: 3 (a change is under way)\n  Configuration: \n    \
                    n1: has row 70, lacks none, answered 0.020 s ago\n    \
                    n2: has row 40, lacks 30, has not answered yet, is being fed, does not count yet, SUSPECT, does not \
                    count: an old token, refused\n  Job queue: (none)\n  Rows put aside: \n    - W-5-12\n";
        let shown = info(&answer).render();
        let trimmed = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(trimmed(&shown), trimmed(want));
    }
}
