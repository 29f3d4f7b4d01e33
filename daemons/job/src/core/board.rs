//! The board: the whole report of this start, kept cumulative, so that the last one says all (P4.4).
//! Changes go through its methods; each makes a new report number. No I/O.

use gantry_model::error::GanetiError;
use gantry_model::ids::JobOwner;
use gantry_model::job::{
    CANCELED_RESULT, JOB_JSON_BYTES_MAX, LogEntry, OpReport, Outcome, PRECEDING_FAILED, PRIORITY_MAX,
    PRIORITY_MIN, Report, Status,
};
use gantry_model::task::TaskState;
use gantry_model::time::Ts;
use gantry_proto::job::GoOp;
use serde_json::{Map, Value, json};

/// Room for unconfirmed log entries: the rest of the report must fit beside them (P4.4: at most 1 MiB kept).
const LOG_BYTES_MAX: usize = JOB_JSON_BYTES_MAX;

/// See the module.
#[derive(Debug)]
pub struct Board {
    report: Report,
    next_serial: u64,
    log_bytes: usize,
    dropped: u64,
    confirmed: u64,
    /// The report without whose confirmation the job does not go on; 0 when there was none.
    awaited: u64,
}

impl Board {
    /// The board of a job that was told to go.
    pub fn new(owner: JobOwner, ops: &[GoOp], next_serial: u64) -> Self {
        let blank = |op: &GoOp| OpReport {
            status: op.status,
            result: op.result.clone(),
            priority: op.priority,
            input: None,
            start: None,
            exec: None,
            end: None,
            log: Vec::new(),
        };
        let report = Report {
            owner,
            number: 1,
            outcome: Outcome::Underway,
            ops: ops.iter().map(blank).collect(),
            seen_w: 0,
            stage: None,
        };
        Self { report, next_serial: next_serial.max(1), log_bytes: 0, dropped: 0, confirmed: 0, awaited: 0 }
    }

    /// The report as of now.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Whether luxid has durably stored a report that says the job ended.
    pub fn is_over_and_known(&self) -> bool {
        self.is_over() && self.confirmed >= self.report.number
    }

    /// Whether all opcodes are final.
    pub fn is_over(&self) -> bool {
        self.report.outcome == Outcome::Ended
    }

    /// What it says now must be stored before the job goes on. The number of the report that says it.
    pub fn await_stored(&mut self) -> u64 {
        self.awaited = self.report.number;
        self.awaited
    }

    /// Whether luxid has durably stored the report of this number, or a later one.
    pub fn is_stored(&self, number: u64) -> bool {
        self.confirmed >= number
    }

    /// Whether the report is wanted at once: nothing follows it, or nothing does before its confirmation.
    pub fn is_urgent(&self) -> bool {
        self.is_over() || self.confirmed < self.awaited
    }

    /// Whether what was awaited is stored: nobody waits for the rest.
    pub fn is_past_the_result(&self) -> bool {
        self.awaited > 0 && !self.is_urgent()
    }

    fn op(&mut self, index: usize) -> &mut OpReport {
        self.report.number += 1;
        &mut self.report.ops[index]
    }

    /// The opcode was picked up and waits for locks.
    pub fn waiting(&mut self, index: usize, now: Ts) {
        let op = self.op(index);
        op.status = Status::Waiting;
        op.start = op.start.or(Some(now));
    }

    /// The opcode holds its locks and works.
    pub fn running(&mut self, index: usize, now: Ts) {
        let op = self.op(index);
        op.status = Status::Running;
        op.exec = Some(now);
    }

    /// Where the attempt's work stands.
    pub fn stage(&mut self, stage: TaskState) {
        self.report.number += 1;
        self.report.stage = Some(stage);
    }

    /// The opcode as expanded by the job (full names, uuids).
    pub fn expanded(&mut self, index: usize, input: Map<String, Value>) {
        self.op(index).input = Some(input);
    }

    /// The opcode ended well. False: a result over the bound turns into an error, for it could not be stored.
    pub fn succeeded(&mut self, index: usize, result: Value, now: Ts) -> bool {
        let size = serde_json::to_string(&result).map_or(0, |text| text.len());
        if size > JOB_JSON_BYTES_MAX {
            let why = format!(
                "the result takes {size} bytes of JSON, more than the {JOB_JSON_BYTES_MAX} that are kept; ask for less at once"
            );
            self.failed(index, &GanetiError::exec(why), now);
            return false;
        }
        let op = self.op(index);
        (op.status, op.result, op.end) = (Status::Success, result, Some(now));
        true
    }

    /// The opcode failed; the ones after it will not run.
    pub fn failed(&mut self, index: usize, error: &GanetiError, now: Ts) {
        let op = self.op(index);
        (op.status, op.result, op.end) = (Status::Error, error.to_value(), Some(now));
        for later in &mut self.report.ops[index + 1..] {
            end(later, Status::Error, json!(["OpExecError", [PRECEDING_FAILED]]), now);
        }
    }

    /// All unfinished opcodes end as canceled.
    pub fn canceled(&mut self, now: Ts) {
        self.report.number += 1;
        for op in &mut self.report.ops {
            end(op, Status::Canceled, json!(CANCELED_RESULT), now);
        }
    }

    /// Shows that a request to cancel is known while the opcode still waits.
    pub fn canceling(&mut self, index: usize) {
        if self.report.ops[index].status == Status::Waiting {
            self.op(index).status = Status::Canceling;
        }
    }

    /// All opcodes are final: nothing follows.
    pub fn over(&mut self) {
        self.report.number += 1;
        self.report.outcome = Outcome::Ended;
    }

    /// Changes the priority of unfinished opcodes that do not run yet. The last report stays the last: a job that is
    /// over waits for the confirmation of that one.
    pub fn set_priority(&mut self, priority: i32) {
        if self.is_over() {
            return;
        }
        self.report.number += 1;
        for op in &mut self.report.ops {
            if !op.status.is_final() && op.status != Status::Running {
                op.priority = priority.clamp(PRIORITY_MIN, PRIORITY_MAX);
            }
        }
    }

    /// Priority of an opcode.
    pub fn priority(&self, index: usize) -> i32 {
        self.report.ops[index].priority
    }

    /// Notes the W index of an effect.
    pub fn saw(&mut self, index: u64) {
        self.report.seen_w = self.report.seen_w.max(index);
    }

    /// Adds a log entry. Beyond the bound the oldest unconfirmed entries go and a marker says so (P4.4).
    pub fn log(&mut self, index: usize, kind: &str, message: Value, now: Ts) {
        let bytes = entry_bytes(&message, kind);
        while self.log_bytes + bytes > LOG_BYTES_MAX && self.drop_oldest() {}
        let entry = LogEntry(self.next_serial, now, kind.to_owned(), message);
        self.next_serial += 1;
        self.log_bytes += bytes;
        self.op(index).log.push(entry);
    }

    /// Forgets the oldest entry; in its place, under the same serial, stands the marker.
    fn drop_oldest(&mut self) -> bool {
        let oldest = self
            .report
            .ops
            .iter_mut()
            .flat_map(|op| op.log.iter_mut())
            .filter(|entry| entry.2 != MARKER)
            .min_by_key(|entry| entry.0);
        let Some(entry) = oldest else { return false };
        self.log_bytes -= entry_bytes(&entry.3, &entry.2);
        let serial = entry.0;
        self.dropped += 1;
        let text =
            format!("({} older messages dropped: more than {LOG_BYTES_MAX} bytes unread)", self.dropped);
        *entry = LogEntry(serial, entry.1, MARKER.to_owned(), json!(text));
        // One marker is enough: the newest replaces those before it.
        for op in &mut self.report.ops {
            op.log.retain(|entry| entry.2 != MARKER || entry.0 == serial);
        }
        true
    }

    /// luxid has stored report `number` and log entries up to `serial`.
    pub fn confirm(&mut self, number: u64, serial: u64) {
        self.confirmed = self.confirmed.max(number.min(self.report.number));
        for op in &mut self.report.ops {
            op.log.retain(|entry| entry.0 > serial);
        }
        self.log_bytes = self
            .report
            .ops
            .iter()
            .flat_map(|op| &op.log)
            .filter(|entry| entry.2 != MARKER)
            .map(|entry| entry_bytes(&entry.3, &entry.2))
            .sum();
        if self.log_bytes == 0 {
            self.dropped = 0;
        }
    }
}

/// Type of the log entry that stands for dropped ones.
const MARKER: &str = "dropped";

fn entry_bytes(message: &Value, kind: &str) -> usize {
    // Serial, time stamp and brackets take less than 64 bytes.
    serde_json::to_string(message).map_or(0, |text| text.len()) + kind.len() + 64
}

fn end(op: &mut OpReport, status: Status, result: Value, now: Ts) {
    if !op.status.is_final() {
        (op.status, op.result, op.end) = (status, result, Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ids::{JobId, StartNo};

    fn board(ops: usize) -> Board {
        let op = GoOp { input: Map::new(), priority: 0, status: Status::Queued, result: Value::Null };
        let owner = JobOwner { job: JobId(1), start: StartNo { epoch: 1, run: 1, counter: 1 } };
        Board::new(owner, &vec![op; ops], 1)
    }

    fn entries(board: &Board) -> Vec<&LogEntry> {
        board.report().ops.iter().flat_map(|op| &op.log).collect()
    }

    #[test]
    fn a_failure_ends_the_opcodes_after_it() {
        let mut board = board(3);
        board.succeeded(0, json!(1), Ts(1, 0));
        board.failed(1, &GanetiError::exec("no"), Ts(2, 0));
        let words: Vec<_> = board.report().ops.iter().map(|op| op.status).collect();
        assert_eq!(words, [Status::Success, Status::Error, Status::Error]);
        assert_eq!(board.report().ops[2].result, json!(["OpExecError", ["Preceding opcode failed"]]));
    }

    #[test]
    fn cancel_leaves_finished_opcodes_alone() {
        let mut board = board(2);
        board.succeeded(0, json!(1), Ts(1, 0));
        board.canceled(Ts(2, 0));
        assert_eq!(board.report().ops[0].status, Status::Success);
        assert_eq!(board.report().ops[1].result, json!("Job canceled by request"));
    }

    #[test]
    fn unread_logs_are_bounded_and_say_what_went() {
        let mut board = board(2);
        let line = "x".repeat(10_000);
        for round in 0..300 {
            board.log(round % 2, "message", json!(line), Ts(1, 0));
        }
        let bytes = serde_json::to_string(board.report()).unwrap().len();
        assert!(bytes < LOG_BYTES_MAX + 4096, "{bytes}");
        let kept = entries(&board);
        assert_eq!(kept.iter().filter(|entry| entry.2 == MARKER).count(), 1);
        assert_eq!(kept.iter().map(|entry| entry.0).max(), Some(300));
    }

    #[test]
    fn confirmed_entries_are_not_sent_again() {
        let mut board = board(1);
        for _ in 0..3 {
            board.log(0, "message", json!("hello"), Ts(1, 0));
        }
        let number = board.report().number;
        board.confirm(number, 2);
        assert_eq!(entries(&board).iter().map(|entry| entry.0).collect::<Vec<_>>(), [3]);
        assert!(!board.is_over_and_known());
        board.over();
        assert!(!board.is_over_and_known(), "the last report is not stored yet");
        board.confirm(board.report().number, 3);
        assert!(board.is_over_and_known());
    }

    #[test]
    fn nothing_comes_after_the_last_report() {
        let mut board = board(1);
        board.succeeded(0, json!(1), Ts(1, 0));
        board.over();
        let last = board.report().number;
        board.set_priority(3);
        board.confirm(last, 0);
        assert!(board.is_over_and_known(), "the confirmation of report {last} is of the last one");
    }

    #[test]
    fn what_is_awaited_is_urgent_until_it_is_stored() {
        let mut board = board(2);
        assert!(!board.is_urgent() && !board.is_past_the_result());
        board.running(0, Ts(1, 0));
        board.confirm(board.report().number, 0);
        board.succeeded(0, json!(1), Ts(2, 0));
        let number = board.await_stored();
        assert!(board.is_urgent() && !board.is_stored(number));
        board.confirm(number - 1, 0);
        assert!(board.is_urgent(), "an earlier report is stored");
        board.confirm(number, 0);
        assert!(board.is_stored(number) && !board.is_urgent() && board.is_past_the_result());
        board.running(1, Ts(3, 0));
        assert!(!board.is_urgent());
        board.over();
        assert!(board.is_urgent(), "the last one always is");
    }

    #[test]
    fn a_result_too_large_to_store_is_an_error() {
        let mut board = board(1);
        assert!(!board.succeeded(0, json!("x".repeat(JOB_JSON_BYTES_MAX)), Ts(1, 0)));
        assert_eq!(board.report().ops[0].status, Status::Error);
    }
}
