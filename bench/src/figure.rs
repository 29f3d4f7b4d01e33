//! A measured figure and how it is printed.

use std::fmt;
use std::time::Duration;

/// One line of the report.
pub struct Figure {
    /// What was measured.
    pub name: &'static str,
    /// The value with its unit.
    pub value: String,
    /// The aim of the design, and what Ganeti does, for the reader.
    pub aim: String,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<58} {:>24}   {}", self.name, self.value, self.aim)
    }
}

/// Milliseconds with two places.
pub fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

/// The value below which `part` of `times` lie (0.5 = median). Sorts.
pub fn percentile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a few thousand"
    )]
    let at = ((times.len() as f64 - 1.0) * part).round() as usize;
    times.get(at).copied().unwrap_or_default()
}

/// Median, 90th percentile and count, as one text.
pub fn spread(times: &mut [Duration]) -> String {
    format!("p50 {} p90 {} (n={})", ms(percentile(times, 0.5)), ms(percentile(times, 0.9)), times.len())
}

/// Says where the figures come from.
pub fn print_machine() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let count = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let load = read("/proc/loadavg");
    println!(
        "machine: {count} × {}; kernel {}; load {}",
        model.unwrap_or("unknown CPU"),
        read("/proc/sys/kernel/osrelease").trim(),
        load.split_whitespace().next().unwrap_or("?"),
    );
}
