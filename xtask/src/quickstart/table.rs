//! The table of results.

use gantry_tests::task::Record;
use serde_json::Value;

/// Headings; those from [`RIGHT`] to [`LEFT_AGAIN`] stand above numbers.
const HEADINGS: [&str; 9] = ["Task", "State", "Why", "Exit", "Wall", "CPU", "Memory", "VM used", "Attempt"];
/// First column of numbers.
const RIGHT: usize = 3;
/// First column of words after them.
const LEFT_AGAIN: usize = 7;

/// All lines.
pub fn of(records: &[Record]) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(records.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let line = |row: &[String; 9]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (text, width))| {
            if (RIGHT..LEFT_AGAIN).contains(&column) {
                format!("{text:>width$}")
            } else {
                format!("{text:<width$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn row(task: &Record) -> [String; 9] {
    let (step, attempt) = (task.deciding(), task.attempts().last().unwrap_or(&Value::Null));
    let result = &task.json()["result"];
    let vm = format!("{} gen {}", attempt["slot_name"].as_str().unwrap_or("-"), attempt["vm"]["generation"]);
    [
        task.name().to_owned(),
        task.state().to_owned(),
        why(step).to_owned(),
        step["exit"].as_i64().map_or_else(|| "-".to_owned(), |code| code.to_string()),
        seconds(&result["wall_ms"], 1e3),
        seconds(&result["cpu_us"], 1e6),
        mib(&result["memory_peak_bytes"]),
        vm,
        attempt["number"].to_string(),
    ]
}

/// The reason in people's words.
fn why(step: &Value) -> &'static str {
    match step["why"].as_str().unwrap_or_default() {
        "exit" => "exit",
        "signal" => "signal",
        "cancelled" => "cancelled",
        "output" => "output limit",
        "wall" => "wall limit",
        "cpu" => "cpu limit",
        "memory" => "memory limit",
        "disk" => "disk limit",
        "pids" => "process limit",
        _ => "-",
    }
}

fn seconds(value: &Value, per_second: f64) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |number| format!("{:.2} s", number / per_second))
}

fn mib(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |bytes| format!("{:.1} MiB", bytes / f64::from(1 << 20)))
}
