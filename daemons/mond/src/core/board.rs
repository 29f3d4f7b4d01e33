//! The board: the last report of every collector, and what became of its last look. Requests are answered from here alone, so
//! none ever waits for a collector.

use super::catalogue::{FORMAT_VERSION, Index, Spec, specs};
use super::exposition::{Family, merged};
use super::report::{Code, Gathered, Kind, Report, Status};
use super::settings::Settings;
use serde_json::{Value, json};
use std::sync::Arc;

/// Milliseconds of a clock that never steps back.
pub type Millis = u64;

/// Metrics of a collector that has not looked with success for so many of its intervals are left out.
const STALE_INTERVALS: u64 = 3;

/// One look of a collector.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// When it ended.
    pub at: Millis,
    /// The same, seconds since the epoch.
    pub epoch: f64,
    /// How long it took, seconds.
    pub took_s: f64,
    /// What was found, or why nothing.
    pub found: Result<Gathered, String>,
}

/// What is known of one collector.
#[derive(Debug, Clone)]
struct Entry {
    spec: Spec,
    /// Its report as it is served; None: there is none to serve.
    report: Option<Arc<str>>,
    /// Of kind 1.
    code: Option<Code>,
    /// Why there is no report.
    why: Arc<str>,
    families: Arc<[Family]>,
    took_s: Option<f64>,
    /// The last success: both clocks.
    success: Option<(Millis, f64)>,
}

/// See the module. A clone shares all texts: it costs little, so that answers are made from one while others write.
#[derive(Debug, Clone)]
pub struct Board {
    settings: Settings,
    entries: Vec<Entry>,
}

impl Board {
    /// Nobody has looked yet.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let entries = specs().into_iter().map(Entry::new).collect();
        Self { settings: *settings, entries }
    }

    /// Takes settings; whether they are others.
    pub fn set(&mut self, settings: &Settings) -> bool {
        std::mem::replace(&mut self.settings, *settings) != *settings
    }

    /// Takes a look.
    pub fn put(&mut self, index: Index, look: Look) {
        self.entries[index].put(look);
    }

    fn active(&self) -> impl Iterator<Item = (Index, &Entry)> {
        self.entries.iter().enumerate().filter(|(index, _)| self.settings.get(*index).active)
    }

    /// The active collectors: `[name, category, kind]` each.
    #[must_use]
    pub fn list(&self) -> Value {
        let row = |spec: &Spec| json!([spec.name, spec.category.path(), spec.kind.number()]);
        self.active().map(|(_, entry)| row(&entry.spec)).collect()
    }

    /// The list of all reports there are.
    #[must_use]
    pub fn all(&self) -> String {
        let reports: Vec<&str> = self.active().filter_map(|(_, entry)| entry.report.as_deref()).collect();
        format!("[{}]", reports.join(","))
    }

    /// One report. None: there is no such active collector.
    ///
    /// # Errors
    /// Why it has no report.
    #[must_use]
    pub fn one(&self, category: &str, name: &str) -> Option<Result<Arc<str>, &str>> {
        let fits = |spec: &Spec| spec.name == name && spec.category.path() == category;
        let (_, entry) = self.active().find(|(_, entry)| fits(&entry.spec))?;
        Some(entry.report.clone().ok_or(&*entry.why))
    }

    /// Everything as metrics: what fresh collectors found, and how the collectors do.
    #[must_use]
    pub fn metrics(&self, now: Millis) -> Vec<Family> {
        let fresh = self.active().filter(|(index, entry)| self.is_fresh(*index, entry, now));
        let found = fresh.flat_map(|(_, entry)| entry.families.iter().cloned());
        merged(self.own(now).into_iter().chain(found))
    }

    fn is_fresh(&self, index: Index, entry: &Entry, now: Millis) -> bool {
        let interval = self.settings.get(index).interval_us.div_ceil(1000);
        entry
            .success
            .is_some_and(|(at, _)| now.saturating_sub(at) <= STALE_INTERVALS.saturating_mul(interval))
    }

    fn own(&self, now: Millis) -> [Family; 4] {
        let mut code = Family::gauge(
            "gantry_collector_status_code",
            "Status of a collector: 0 ok, 1 being repaired, 2 unknown, 4 bad",
        );
        let mut took =
            Family::gauge("gantry_collector_duration_seconds", "How long the last look of a collector took");
        let mut success = Family::gauge(
            "gantry_collector_last_success_timestamp_seconds",
            "When a collector last looked with success, since the epoch",
        );
        for (index, entry) in self.active() {
            let labels = [("collector", entry.spec.name)];
            if entry.spec.kind == Kind::Status {
                let known = entry.code.filter(|_| self.is_fresh(index, entry, now)).unwrap_or(Code::Unknown);
                code.add(&labels, known.number());
            }
            if let Some(seconds) = entry.took_s {
                took.add(&labels, seconds);
            }
            // Never: 0, so that an alert on its age fires.
            success.add(&labels, entry.success.map_or(0.0, |(_, epoch)| epoch));
        }
        let build = Family::gauge("gantry_build_info", "The release of this MonD");
        [build.with(&[("version", env!("CARGO_PKG_VERSION"))], 1), code, took, success]
    }
}

impl Entry {
    fn new(spec: Spec) -> Self {
        let (families, why) = (Arc::new([]), "".into());
        let mut entry = Self { spec, report: None, code: None, why, families, took_s: None, success: None };
        entry.failed("it has not looked yet", 0.0);
        entry
    }

    fn put(&mut self, look: Look) {
        self.took_s = Some(look.took_s);
        match look.found {
            Ok(found) => {
                self.success = Some((look.at, look.epoch));
                self.report = Some(self.written(&found.data, look.epoch));
                self.code = found.status.map(|status| status.code);
                self.families = found.families.into();
                self.why = "".into();
            }
            Err(why) => self.failed(&why, look.epoch),
        }
    }

    /// A status that could not be told is a status; figures that could not be had are none.
    fn failed(&mut self, why: &str, epoch: f64) {
        self.families = Arc::new([]);
        self.report = None;
        if self.spec.kind == Kind::Status {
            let status = Status::new(Code::Unknown, why);
            self.report = Some(self.written(&json!({"status": status.value()}), epoch));
            self.code = Some(Code::Unknown);
        }
        self.why = why.into();
    }

    fn written(&self, data: &Value, epoch: f64) -> Arc<str> {
        let report = Report {
            name: self.spec.name,
            version: "B",
            format_version: FORMAT_VERSION,
            timestamp: nanoseconds(epoch),
            category: self.spec.category.in_report(),
            kind: self.spec.kind.number(),
            data,
        };
        serde_json::to_string(&report).expect("plain data has a JSON form").into()
    }
}

/// Of seconds: with the precision of microseconds.
fn nanoseconds(epoch: f64) -> u64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time since 1970")]
    let us = (epoch.max(0.0) * 1e6) as u64;
    us.saturating_mul(1000)
}

#[cfg(test)]
#[path = "board/tests.rs"]
mod tests;
