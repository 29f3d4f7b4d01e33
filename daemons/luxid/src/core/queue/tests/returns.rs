//! Grants of users' leases whose VMs do not live: nobody hears of them, and other VMs are taken.

use super::tasks::{grant, lease};
use super::*;
use gantry_model::ids::LeaseUuid;
use gantry_model::lease::RequestState;

impl Bench {
    /// The copy shows that a lost VM broke the lease.
    fn broken(&mut self, index: u64, lease: LeaseUuid) {
        let seen = LeaseSeen { lives: false, broken: true, why: Some("VM p-1: lost".to_owned()) };
        let leases = BTreeMap::from([(lease, Some(seen))]);
        self.step(Event::News(Box::new(News { index, leases, ..News::default() })));
        self.step(Event::MirrorAt(index));
    }

    fn returns(&self) -> usize {
        self.actions.iter().filter(|action| matches!(action, Action::ReturnLease(_))).count()
    }

    fn state(&self) -> RequestState {
        self.stored_request(1).unwrap().state
    }

    fn grants(&mut self, index: u64) {
        self.step(Event::Granted { lease: lease(1), index, grant: grant(1) });
        self.commit();
    }
}

#[test]
fn a_grant_taken_back_leads_to_the_next_one_unseen() {
    let mut b = Bench::new();
    b.clean(1, 2);
    b.request(1, 1);
    b.step(Event::LeaseReturned { lease: lease(1), index: 3 });
    b.commit();
    assert_eq!(b.state(), RequestState::Waiting);
    assert_eq!(b.grabs(), [lease(1), lease(1)], "at once: the copy shows another clean VM");
    // The copy shows only now what became of the first grant.
    b.broken(2, lease(1));
    b.grants(4);
    b.broken(3, lease(1));
    assert_eq!((b.state(), b.returns()), (RequestState::Granted, 0), "that was the first");
    b.broken(5, lease(1));
    b.commit();
    assert_eq!((b.state(), b.returns()), (RequestState::Over, 0), "its user was told of this one");
}

#[test]
fn a_grant_that_breaks_before_it_is_heard_is_taken_back() {
    let mut b = Bench::new();
    b.clean(1, 1);
    b.request(1, 1);
    b.broken(2, lease(1));
    b.commit();
    assert_eq!(b.state(), RequestState::Waiting);
    b.grants(1);
    assert_eq!((b.state(), b.returns()), (RequestState::Waiting, 1));
    b.step(Event::LeaseReturned { lease: lease(1), index: 3 });
    b.clean(4, 1);
    b.commit();
    assert_eq!(b.grabs(), [lease(1), lease(1)]);
    b.grants(5);
    assert_eq!((b.state(), b.returns()), (RequestState::Granted, 1));
}

#[test]
fn a_grant_that_broke_while_no_luxid_heard_of_it_is_taken_back() {
    let mut b = Bench::new();
    b.clean(1, 1);
    b.request(1, 1);
    b.restart(1, 2);
    b.broken(5, lease(1));
    b.commit();
    assert_eq!((b.state(), b.returns()), (RequestState::Waiting, 1));
    assert_eq!(b.grabs(), [], "not before it is taken back");
    b.step(Event::LeaseReturned { lease: lease(1), index: 6 });
    b.clean(7, 1);
    b.commit();
    assert_eq!(b.grabs(), [lease(1)]);
    b.grants(8);
    assert_eq!(b.state(), RequestState::Granted);
}

#[test]
fn a_request_withdrawn_meanwhile_stays_so() {
    let mut b = Bench::new();
    b.clean(1, 2);
    b.request(1, 1);
    assert!(b.told(Request::ReleaseLease(lease(1))).0);
    b.step(Event::LeaseReturned { lease: lease(1), index: 3 });
    b.broken(3, lease(1));
    b.commit();
    assert_eq!((b.state(), b.returns(), b.grabs().len()), (RequestState::Over, 0, 1));
    assert_eq!(b.ended(), [lease(1)], "wconfd hears that it never will be");
}
