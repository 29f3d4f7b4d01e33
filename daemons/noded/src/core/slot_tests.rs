//! One test per line of P5 that concerns one slot; histories are in `world`.

use super::*;
use uuid::Uuid;

const ALL: Rules = Rules::ALL;

fn g(number: u64) -> Generation {
    Generation(number)
}

fn lease(number: u128) -> LeaseUuid {
    LeaseUuid(Uuid::from_u128(number))
}

fn record(state: State) -> Record {
    Record { floor: g(3), generation: g(3), state, driver: "fake".into(), ..Record::default() }
}

fn create_verb(number: u64) -> Verb {
    Verb::Create { generation: g(number), driver: "fake".into() }
}

/// Does every step of the verb at once.
fn run(record: &Record, verb: &Verb) -> (Record, Answer) {
    let plan = decide(ALL, record, verb).expect("allowed");
    let mut now = record.clone();
    for step in plan.steps {
        if let Step::Store(next) = step {
            now = next;
        }
    }
    (now, plan.answer)
}

#[test]
fn creating_is_stored_before_the_driver_starts() {
    let plan = decide(ALL, &Record::default(), &create_verb(1)).expect("allowed");
    let begun = Record {
        floor: g(1),
        generation: g(1),
        state: State::Creating,
        driver: "fake".into(),
        ..Record::default()
    };
    let live = Record { state: State::Live, ..begun.clone() };
    assert_eq!(plan.steps, [Step::Store(begun), Step::Drive(Action::Make(g(1))), Step::Store(live)]);
    assert_eq!(plan.answer, Answer::Created { attached: false });
}

#[test]
fn creates_at_the_floor_only_attach() {
    let live = decide(ALL, &record(State::Live), &create_verb(3)).expect("attaches");
    assert_eq!(live, plan([], Answer::Created { attached: true }));
    let creating = decide(ALL, &record(State::Creating), &create_verb(3)).expect("attaches");
    assert_eq!(creating.steps[0], Step::Drive(Action::Make(g(3))));
    for state in [State::Absent, State::Destroying, State::Lost] {
        let refused = decide(ALL, &record(state), &create_verb(3));
        assert_eq!(refused, Err(Refusal::Used { asked: g(3), state }));
    }
}

#[test]
fn a_create_at_a_floor_raised_by_a_destroy_is_refused() {
    let raised = Record { floor: g(5), ..record(State::Absent) };
    assert!(matches!(decide(ALL, &raised, &create_verb(5)), Err(Refusal::Used { .. })));
    assert!(matches!(decide(ALL, &raised, &create_verb(4)), Err(Refusal::BelowFloor { .. })));
    assert!(matches!(decide(ALL, &raised, &create_verb(3)), Err(Refusal::BelowFloor { .. })));
    assert!(decide(ALL, &raised, &create_verb(6)).is_ok());
}

#[test]
fn a_higher_generation_waits_for_the_old_one_to_go() {
    for state in [State::Creating, State::Live, State::Destroying, State::Lost] {
        let refused = decide(ALL, &record(state), &create_verb(4));
        assert_eq!(refused, Err(Refusal::Occupied { current: g(3), state }));
    }
}

#[test]
fn destroying_and_floor_are_stored_before_the_kill() {
    let verb = Verb::Destroy { generation: g(5) };
    let plan = decide(ALL, &record(State::Live), &verb).expect("allowed");
    let doomed = Record { floor: g(5), ..record(State::Destroying) };
    let gone = Record { floor: g(5), ..record(State::Absent) };
    assert_eq!(plan.steps, [Step::Store(doomed), Step::Drive(Action::Kill(g(3))), Step::Store(gone)]);
    assert_eq!(plan.answer, Answer::Destroyed { floor: g(5) });
}

#[test]
fn destroying_nothing_still_raises_the_floor() {
    let (now, answer) = run(&Record::default(), &Verb::Destroy { generation: g(2) });
    assert_eq!((now.floor, answer), (g(2), Answer::Destroyed { floor: g(2) }));
    let again = decide(ALL, &now, &Verb::Destroy { generation: g(1) }).expect("allowed");
    assert_eq!(again, plan([], Answer::Destroyed { floor: g(2) }));
}

#[test]
fn a_late_destroy_does_not_hit_the_next_generation() {
    let refused = decide(ALL, &record(State::Live), &Verb::Destroy { generation: g(2) });
    assert_eq!(refused, Err(Refusal::NotCurrent { asked: g(2), current: g(3), floor: g(3) }));
}

#[test]
fn the_first_lease_keeps_the_vm_until_it_closes() {
    let open = |lease| Verb::Open { generation: g(3), lease };
    let close = |lease| Verb::Close { generation: g(3), lease };
    let (now, _) = run(&record(State::Live), &open(lease(1)));
    assert_eq!((now.holder, now.opened), (Some(lease(1)), true));
    assert!(decide(ALL, &now, &open(lease(1))).is_ok(), "asking again attaches");
    assert!(matches!(decide(ALL, &now, &open(lease(2))), Err(Refusal::Held { .. })));
    assert!(matches!(decide(ALL, &now, &close(lease(2))), Err(Refusal::Held { .. })));
    let (now, _) = run(&now, &close(lease(1)));
    assert_eq!((now.holder, now.opened), (None, true));
    assert!(matches!(decide(ALL, &now, &open(lease(1))), Err(Refusal::Over { .. })));
    assert_eq!(decide(ALL, &now, &close(lease(1))).expect("again").steps, []);
    let (now, _) = run(&now, &open(lease(2)));
    assert!(matches!(decide(ALL, &now, &close(lease(1))), Err(Refusal::Held { .. })), "late close");
    assert!(matches!(decide(ALL, &now, &open(lease(1))), Err(Refusal::Over { .. })), "late open");
}

#[test]
fn opening_is_stored_before_the_touch() {
    let verb = Verb::Open { generation: g(3), lease: lease(1) };
    let plan = decide(ALL, &record(State::Live), &verb).expect("allowed");
    let opened = Record { holder: Some(lease(1)), opened: true, ..record(State::Live) };
    assert_eq!(plan.steps, [Step::Store(opened), Step::Drive(Action::Touch(g(3)))]);
}

#[test]
fn work_is_for_the_current_live_generation_only() {
    for state in [State::Absent, State::Creating, State::Destroying, State::Lost] {
        let verb = Verb::Open { generation: g(3), lease: lease(1) };
        let refused = decide(ALL, &record(state), &verb);
        assert_eq!(refused, Err(Refusal::NotLive { generation: g(3), state }));
    }
    for number in [2, 4] {
        for verb in [
            Verb::Open { generation: g(number), lease: lease(1) },
            Verb::Close { generation: g(number), lease: lease(1) },
        ] {
            let refused = decide(ALL, &record(State::Live), &verb);
            assert_eq!(refused, Err(Refusal::NotCurrent { asked: g(number), current: g(3), floor: g(3) }));
        }
    }
}

#[test]
fn a_worn_out_vm_is_not_opened() {
    let closed = (0..LEASES_MAX as u128).map(lease).collect();
    let worn = Record { closed, opened: true, ..record(State::Live) };
    let verb = Verb::Open { generation: g(3), lease: lease(u128::MAX) };
    assert_eq!(decide(ALL, &worn, &verb), Err(Refusal::WornOut { generation: g(3) }));
}

#[test]
fn generation_zero_is_none() {
    for verb in [
        create_verb(0),
        Verb::Destroy { generation: g(0) },
        Verb::Open { generation: g(0), lease: lease(1) },
        Verb::Close { generation: g(0), lease: lease(1) },
    ] {
        assert_eq!(decide(ALL, &Record::default(), &verb), Err(Refusal::Zero));
    }
}

#[test]
fn only_live_vms_get_lost() {
    assert_eq!(observe(&record(State::Live), false), Some(record(State::Lost)));
    assert_eq!(observe(&record(State::Live), true), None);
    for state in [State::Absent, State::Creating, State::Destroying, State::Lost] {
        assert_eq!(observe(&record(state), false), None);
    }
}
