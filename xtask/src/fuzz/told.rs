//! What a target says of its run, read from libFuzzer's words.

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Whether it ended when its time was over and not before.
    pub ended_well: bool,
    /// Inputs tried.
    pub executions: u64,
    /// Of them a second.
    pub per_s: u64,
    /// Places in the code that the corpus reached before.
    pub covered: u64,
    /// Places that it reaches now.
    pub covers: u64,
    /// Most memory, MiB.
    pub rss_mib: u64,
    /// What was wrong.
    pub why: Option<String>,
    /// The input that it was wrong with.
    pub input: Option<String>,
}

impl Told {
    /// Reads the words of a run that ended well or not.
    pub fn read(text: &str, ended_well: bool) -> Self {
        let stat = |name: &str| {
            let line = text.lines().rev().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
            line.and_then(|rest| rest.trim_start_matches(':').trim().parse().ok()).unwrap_or_default()
        };
        let after = |mark: &str| {
            let rest = text.lines().find_map(|line| Some(line.split_once(mark)?.1));
            rest.map(|rest| rest.trim().to_owned())
        };
        let why = after("SUMMARY: libFuzzer: ").or_else(|| after("panicked at "));
        Self {
            ended_well,
            executions: stat("number_of_executed_units"),
            per_s: stat("average_exec_per_sec"),
            covered: cover(text.lines().find(|line| line.contains("\tINITED "))),
            covers: cover(text.lines().rev().find(|line| line.contains(" cov: "))),
            rss_mib: stat("peak_rss_mb"),
            why: if ended_well { None } else { why },
            input: after("Test unit written to "),
        }
    }
}

/// The count of a line of progress.
fn cover(line: Option<&str>) -> u64 {
    let rest = line.and_then(|line| Some(line.split_once(" cov: ")?.1));
    rest.and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or_default()
}

/// All runs.
pub fn table(rows: &[(String, Told)]) -> String {
    let wide = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default().max("target".len());
    let mut text = format!(
        "{:wide$} {:>12} {:>9} {:>17} {:>9}  outcome",
        "target", "executions", "per s", "new coverage", "peak MiB"
    );
    for (name, told) in rows {
        let new = told.covers.saturating_sub(told.covered);
        let coverage = format!("{new} (of {})", told.covers);
        let outcome = match (&told.why, told.ended_well) {
            (_, true) => "ok",
            (Some(why), false) => why,
            (None, false) => "died",
        };
        text.push_str(&format!(
            "\n{name:wide$} {:>12} {:>9} {coverage:>17} {:>9}  {outcome}",
            told.executions, told.per_s, told.rss_mib
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "INFO: Running with entropic power schedule\n\
        #64\tINITED cov: 1200 ft: 3000 corp: 60/12Kb exec/s: 0 rss: 40Mb\n\
        #70\tNEW    cov: 1210 ft: 3010 corp: 61/12Kb lim: 4096 exec/s: 0 rss: 41Mb L: 4/9 MS: 1 x\n\
        #900\tDONE   cov: 1234 ft: 3100 corp: 70/12Kb lim: 4096 exec/s: 450 rss: 50Mb\n\
        Done 900 runs in 2 second(s)\n\
        stat::number_of_executed_units: 900\nstat::average_exec_per_sec:     450\n\
        stat::new_units_added:          10\nstat::slowest_unit_time_sec:    0\nstat::peak_rss_mb:              52\n";

    #[test]
    fn a_run_that_ended_well() {
        let told = Told::read(GOOD, true);
        let wanted = Told {
            ended_well: true,
            executions: 900,
            per_s: 450,
            covered: 1200,
            covers: 1234,
            rss_mib: 52,
            why: None,
            input: None,
        };
        assert_eq!(told, wanted);
        let table = table(&[("luxi".to_owned(), told)]);
        let words: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        assert_eq!(words, ["luxi", "900", "450", "34", "(of", "1234)", "52", "ok"]);
    }

    #[test]
    fn a_crash() {
        let text = "#2\tINITED cov: 7 ft: 8\nthread '<unnamed>' panicked at src/lib.rs:3:5:\nbad\n\
            ==9== ERROR: libFuzzer: deadly signal\nSUMMARY: libFuzzer: deadly signal\n\
            artifact_prefix='c/'; Test unit written to c/crash-0a\nBase64: eA==\n\
            stat::number_of_executed_units: 5\n";
        let told = Told::read(text, false);
        assert_eq!((told.why.as_deref(), told.input.as_deref()), (Some("deadly signal"), Some("c/crash-0a")));
        assert_eq!((told.executions, told.covered, told.covers), (5, 7, 7));
        assert!(table(&[("luxi".to_owned(), told)]).ends_with("deadly signal"));
        let told = Told::read("", false);
        assert!(table(&[("luxi".to_owned(), told)]).ends_with("died"));
    }
}
