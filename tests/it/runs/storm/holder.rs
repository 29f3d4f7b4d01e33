//! Somebody who holds a VM by hand while everything dies: it is his alone, and fresh, until he gives it back or it breaks.

use super::*;
use gantry_proto::noded::Why;
use std::fmt;

/// Not renewed for so long, a lease ends.
const TTL_S: u64 = 20;
/// Most looks at one VM.
const LOOKS: usize = 8;

/// How it went.
#[derive(Debug, Default)]
pub struct Held {
    whole: u32,
    broken: u32,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} leases held to their end, {} broken", self.whole, self.broken)
    }
}

/// Gets, uses and gives back one lease after the other, until the storm is over.
///
/// # Errors
/// When a VM was not fresh, lost what was in it, or nothing answers.
pub fn hold(bed: &Bed, weather: &Weather, mut random: Random) -> Result<Held> {
    let mut held = Held::default();
    while !weather.over.load(Ordering::Relaxed) {
        let hex = format!("{:016x}{:016x}", random.number(), random.number());
        let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
        match one_lease(bed, &uuid, &mut random).with_context(|| format!("lease {uuid}"))? {
            true => held.whole += 1,
            false => held.broken += 1,
        }
    }
    Ok(held)
}

/// Whether it was whole at its end.
fn one_lease(bed: &Bed, uuid: &str, random: &mut Random) -> Result<bool> {
    let ask = json!({"uuid": uuid, "pool": pool::NAME, "count": 1, "for_s": 600, "ttl_s": TTL_S,
        "user": "holder", "priority": -5});
    // The same uuid is the same request.
    asked(bed, "LeaseRequest", &json!([ask]))?;
    let mut state = String::new();
    wait::until("the lease is granted", CALM, || {
        let answer = connect(bed)?.call("WaitForLease", json!([uuid, "waiting", 5])).ok()?;
        state = answer["state"].as_str().unwrap_or_default().to_owned();
        matches!(state.as_str(), "granted" | "over").then_some(())
    })?;
    let look = format!("ls -A . /tmp /dev/shm; echo {uuid} > mine; touch /tmp/mine /dev/shm/mine /tmp/used");
    let mut whole = state == "granted";
    for number in 0..=random.below(LOOKS) {
        if !whole {
            break;
        }
        let command = if number == 0 { look.as_str() } else { "cat mine; sleep 0.3" };
        match exec(bed, uuid, &format!("look{number}"), command)? {
            None => whole = false,
            Some(said) if number == 0 => {
                ensure!(!said.contains("mine") && !said.contains("used"), "a VM that was used: {said:?}");
            }
            Some(said) => ensure!(said == format!("{uuid}\n"), "another VM than before: {said:?}"),
        }
        if whole {
            connect(bed).and_then(|mut luxi| luxi.call("LeaseRenew", json!([uuid])).ok());
        }
    }
    // What is over already says so; that is as good.
    wait::until("an answer to LeaseRelease", PATIENCE, || {
        connect(bed)?.ask("LeaseRelease", json!([uuid])).ok()
    })?;
    Ok(whole)
}

/// What a command said; None when the VM is gone, or the lease. Asked again under its name it does not run again.
fn exec(bed: &Bed, uuid: &str, name: &str, command: &str) -> Result<Option<String>> {
    let mut last = String::new();
    let done =
        wait::until("a command of the lease ends", PATIENCE, || match rpc::exec(bed, uuid, name, command) {
            Ok((said, end)) if end.why == Why::Exit(0) => Some(Some(said)),
            Ok((_, end)) => {
                last = format!("{end:?}");
                Some(None)
            }
            Err(why) => {
                last = format!("{why:#}");
                let answer = connect(bed)?.call("WaitForLease", json!([uuid, null, 0])).ok()?;
                (answer["state"] == "over").then_some(None)
            }
        });
    done.context(last)
}
