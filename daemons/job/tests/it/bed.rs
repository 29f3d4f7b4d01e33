//! A luxid, a wconfd and a node around the real program, and jobs run between them.

use crate::luxid::{Luxid, go};
use crate::master::{Master, Side};
use crate::{SOON, start};
use gantry_model::ids::JobOwner;
use gantry_model::job::{Outcome, Report, Status};
use gantry_proto::job::{Cancel, Confirm, ConfirmRequest, Go};
use gantry_rpc::Event;
use serde_json::Value;

pub struct Bed {
    pub luxid: Luxid,
    pub master: Master,
    pub starts: u64,
}

impl Bed {
    pub async fn new() -> Self {
        let luxid = Luxid::new();
        let master = Master::start(&luxid.root).await;
        Self { luxid, master, starts: 0 }
    }

    /// Runs a job; None when it was killed. `kill`: at which step.
    pub async fn run(&mut self, op: &Value, kill: Option<(usize, Side)>) -> (JobOwner, Option<Report>) {
        self.run_until(op, kill, |_| false).await
    }

    /// Runs a job, and cancels it at the first report that satisfies `stop`.
    pub async fn run_until(
        &mut self,
        op: &Value,
        kill: Option<(usize, Side)>,
        stop: impl Fn(&Report) -> bool,
    ) -> (JobOwner, Option<Report>) {
        self.starts += 1;
        let owner = start(self.starts);
        let mut job = self.luxid.spawn(owner).await;
        match kill {
            Some((step, side)) => self.master.state().kill_at(step, side, job.child.id().unwrap()),
            None => self.master.state().let_live(),
        }
        let client = self.luxid.connect(owner).await;
        let mut stream = client.open::<Go>(&go(owner, std::slice::from_ref(op))).await.unwrap();
        let mut stopped = false;
        let outcome = async {
            while let Ok(Event::Item(item)) = stream.next().await {
                let report = item.read().unwrap();
                if report.outcome == Outcome::Ended {
                    let confirm = ConfirmRequest { number: report.number, log_serial: 0 };
                    client.call::<Confirm>(&confirm, SOON).await.unwrap();
                    return Some(report);
                }
                if !stopped && stop(&report) {
                    stopped = true;
                    client.call::<Cancel>(&(), SOON).await.unwrap();
                }
            }
            None
        };
        let report = tokio::time::timeout(SOON, outcome).await.expect("the job ends or dies");
        drop((stream, client));
        job.exit().await;
        (owner, report)
    }

    /// Runs a job that must end well; its report.
    pub async fn report(&mut self, op: &Value) -> Report {
        let (owner, report) = self.run(op, None).await;
        let report = report.expect("nobody kills it");
        assert_eq!(report.ops[0].status, Status::Success, "{op}: {}", report.ops[0].result);
        self.master.state().owner_gone(owner);
        report
    }

    /// Runs a job that must end well; its result.
    pub async fn result(&mut self, op: &Value) -> Value {
        self.report(op).await.ops[0].result.clone()
    }

    /// Runs a job that must end well.
    pub async fn succeeds(&mut self, op: &Value) {
        self.report(op).await;
    }

    /// Runs a job that must end in error: class, text, ecode.
    pub async fn fails(&mut self, op: &Value) -> (String, String, String) {
        let (owner, report) = self.run(op, None).await;
        let report = report.expect("nobody kills it");
        assert_eq!(report.ops[0].status, Status::Error, "{op}: {}", report.ops[0].result);
        self.master.state().owner_gone(owner);
        let result = &report.ops[0].result;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&result[0]), text(&result[1][0]), text(&result[1][1]))
    }
}

/// The texts of a job's log.
pub fn log(report: &Report) -> Vec<String> {
    report.ops[0].log.iter().map(|entry| entry.3.as_str().unwrap_or_default().to_owned()).collect()
}
