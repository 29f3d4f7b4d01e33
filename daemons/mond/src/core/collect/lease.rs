//! Who has a lease, and until when, as ConfD's own question 102 tells it. noded knows a lease only by its uuid.

use gantry_model::lease::{Lease, LeaseState};
use serde::Deserialize;
use serde_json::{Value, json};

/// Of a lease that lives.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// The name of who has it, or the attempt of a task.
    pub owner: String,
    /// When it ends, epoch, unless it is renewed: at the earliest then, for the lease clock stands still while the cluster has no
    /// master.
    pub expires: f64,
}

impl Held {
    /// What an answer says of a lease. None: it is over, or this is none.
    #[must_use]
    pub fn read(answer: &Value) -> Option<Self> {
        let lease = Lease::deserialize(answer).ok()?;
        let lasts = std::time::Duration::from_millis(lease.ends().saturating_sub(lease.granted));
        let held =
            || Self { owner: lease.owner.to_string(), expires: lease.granted_at + lasts.as_secs_f64() };
        (lease.state == LeaseState::Active).then(held)
    }

    /// The entry of an instance that is leased under this uuid; nulls while nobody says more of it.
    #[must_use]
    pub fn entry(uuid: &str, held: Option<&Self>) -> Value {
        json!({"id": uuid, "owner": held.map(|held| &held.owner), "expires": held.map(|held| held.expires)})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(state: &str, ttl_ms: Option<u64>) -> Value {
        json!({
            "uuid": "00000000-0000-4000-8000-000000000001", "owner": {"user": {"name": "ada"}}, "pool": "p", "vms": [],
            "granted": 5_000, "until": 65_000, "ttl_ms": ttl_ms, "renewed": 10_000, "state": state, "granted_at": 1_000.5,
        })
    }

    #[test]
    fn it_ends_at_its_time_or_when_it_is_not_renewed() {
        let held = |expires| Some(Held { owner: "ada".to_owned(), expires });
        assert_eq!(Held::read(&answer("active", None)), held(1_060.5));
        assert_eq!(Held::read(&answer("active", Some(20_000))), held(1_025.5));
    }

    #[test]
    fn what_is_over_or_no_lease_is_none() {
        assert_eq!(Held::read(&answer("released", None)), None);
        assert_eq!(Held::read(&json!({"uuid": "x"})), None);
        assert_eq!(Held::entry("l", None), json!({"id": "l", "owner": null, "expires": null}));
    }
}
