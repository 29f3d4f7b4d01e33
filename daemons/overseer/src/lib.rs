//! Overseer: stateless reconcilers on the master (DESIGN §8). Each pass compares what is with what should be and submits
//! keyed jobs; it changes nothing itself, owns nothing on disk, and speaks to luxid only.
//!
//! ```text
//!  stream.sock ─ events ─▶ watch ─┐
//!  luxi.sock ─── nodes ──▶ nodes ─┼─▶ shell: Agenda ─ due ─▶ Query ─▶ plan(pass, seen) ─▶ SubmitKeyedJob ─▶ luxi.sock
//!                          timers ┘
//! ```
//!
//! | room | what |
//! |---|---|
//! | [`core::plan`] | the passes: pure functions from sights to jobs |
//! | [`core::agenda`] | when to look at what |
//! | [`io`] | LUXI, events, the loop |
//!
//! Killing it delays convergence and loses nothing: the next one looks at everything.

pub mod config;
pub mod core;
pub mod error;
pub mod io;

use crate::config::Periods;
use crate::core::away::Away;
use crate::core::pass::Pass;
use crate::core::plan::plan;
use crate::core::seen::Seen;
use crate::io::luxi::Luxi;
use crate::io::metrics::{self, Numbers};
use crate::io::shell::{NEWS_MAX, Shell};
use crate::io::submit::{self, Outcome};
use crate::io::{nodes, watch};
use anyhow::Context;
use gantry_model::root::Root;
use gantry_rt::{Daemon, clock};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// The daemon, until it is told to stop.
///
/// # Errors
/// node.toml cannot be used.
pub async fn run(daemon: Daemon) -> anyhow::Result<()> {
    let periods = Periods::load(&daemon.root)?;
    let numbers = Numbers::default();
    metrics::register(&mut daemon.metrics.lock().unwrap_or_else(PoisonError::into_inner), numbers.clone());
    let (news, inbox) = mpsc::channel(NEWS_MAX);
    let look = Arc::new(Notify::new());
    let (root, stop) = (daemon.root.clone(), daemon.stop.clone());
    daemon.tasks.spawn("watch", watch::run(root.clone(), news.clone(), stop.clone()));
    let period = Duration::from_millis(periods.period_ms(Pass::NodeRepair));
    daemon.tasks.spawn("nodes", nodes::run(root, (period, periods.lost_s()), Arc::clone(&look), news, stop));
    Shell::new(daemon, periods, look, numbers).run(inbox).await;
    Ok(())
}

/// Runs passes once and says what they submitted. False when luxid refused a job.
///
/// # Errors
/// luxid cannot be asked, or node.toml cannot be used.
pub fn once(root: &Root, only: Option<Pass>) -> anyhow::Result<bool> {
    let periods = Periods::load(root)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut luxi = Luxi::new(root);
        let mut nodes = submit::nodes(&mut luxi).await.context("cannot look at the nodes")?;
        // The only look: how long a node has been away is not known, so only nodes marked offline are lost.
        Away::default().look(clock::millis(), &mut nodes, periods.lost_s());
        let mut good = true;
        for pass in Pass::ALL.into_iter().filter(|pass| only.is_none_or(|only| only == *pass)) {
            let seen = submit::whole(&mut luxi).await.context("cannot look at the pools")?;
            let seen = Seen { nodes: nodes.clone(), lost_s: periods.lost_s(), ..seen };
            let jobs = plan(pass, &seen, clock::now().epoch());
            let outcome =
                submit::submit(&mut luxi, pass, jobs).await.with_context(|| format!("{pass} failed"))?;
            good &= outcome.refused.is_empty();
            print!("{}", told(pass, &outcome));
        }
        Ok(good)
    })
}

/// A line for each job of a pass.
fn told(pass: Pass, outcome: &Outcome) -> String {
    let mut text = String::new();
    let mut line =
        |what: String, keys: Vec<String>| text.push_str(&format!("{pass}: {what}: {}\n", keys.join(" ")));
    outcome.new.iter().for_each(|(id, job)| line(format!("job {id}"), job.keys()));
    outcome.known.iter().for_each(|(id, job)| line(format!("job {id} is at work already"), job.keys()));
    outcome.refused.iter().for_each(|(why, job)| line(format!("refused ({why})"), job.keys()));
    if text.is_empty() {
        text = format!("{pass}: nothing to do\n");
    }
    text
}
