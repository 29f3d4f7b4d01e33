//! Where the output of a task is, from a place on: in the VM of its current attempt, in its stored result, or not yet
//! anywhere. Pure: the shell asks again whenever it has sent what was named, or the task changed.

use gantry_model::ids::LeaseUuid;
use gantry_model::lease::LeasedVm;
use gantry_model::task::{StepResult, Task, exec_name};
use gantry_proto::stream::LogPlace;

/// What comes next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next<'a> {
    /// The place's step is stored.
    Stored(&'a StepResult),
    /// The place's step runs, or is about to.
    Live(Live),
    /// Nothing yet: why, or None when the task waits for a VM.
    Waits(Option<&'static str>),
    /// Nothing will follow.
    Over,
}

/// A step in a VM.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    /// Which attempt.
    pub attempt: u32,
    /// Which VM.
    pub vm: LeasedVm,
    /// The lease by which the attempt has it.
    pub lease: LeaseUuid,
    /// The step's name.
    pub name: String,
    /// The command's name.
    pub exec: String,
}

/// What comes next in the output of `task` from `place` on. The place is brought forward to where that is: to the newest
/// attempt, since older ones leave nothing, and to a step that exists.
pub fn next<'a>(task: &'a Task, place: &mut LogPlace) -> Next<'a> {
    let Some(newest) = task.attempts.last() else {
        return if task.state.is_final() { Next::Over } else { Next::Waits(None) };
    };
    let first = u32::from(task.spec.compile.is_none());
    if place.attempt == 0 {
        place.attempt = newest.number;
    } else if place.attempt != newest.number {
        *place = LogPlace { attempt: newest.number, step: first, out: 0, err: 0 };
    }
    if place.step < first {
        at_step(place, first);
    }
    if task.state.is_final() {
        return stored(task, place);
    }
    if newest.outcome.is_some() {
        return Next::Waits(None);
    }
    let (Some(vm), Some(_)) = (newest.vm, newest.job) else { return Next::Waits(None) };
    match step_name(task, place.step) {
        Some(name) => Next::Live(Live {
            attempt: newest.number,
            vm,
            lease: newest.lease,
            name,
            exec: exec_name(newest.lease, newest.number, place.step as usize),
        }),
        None => Next::Waits(Some("its steps are done, its result is being stored")),
    }
}

/// Goes to the beginning of a step.
pub fn at_step(place: &mut LogPlace, step: u32) {
    *place = LogPlace { attempt: place.attempt, step, out: 0, err: 0 };
}

fn stored<'a>(task: &'a Task, place: &mut LogPlace) -> Next<'a> {
    let Some(result) = &task.result else { return Next::Over };
    let first = u32::from(!result.steps.first().is_some_and(|step| step.compile));
    let mut numbered = (first..).zip(&result.steps);
    match numbered.find(|(number, _)| *number >= place.step) {
        Some((number, step)) => {
            if number > place.step {
                at_step(place, number);
            }
            Next::Stored(step)
        }
        None => Next::Over,
    }
}

/// The name of a step of a task: its own, else its number; None when there is no such step.
fn step_name(task: &Task, step: u32) -> Option<String> {
    let of = match step.checked_sub(1) {
        None => task.spec.compile.as_ref()?,
        Some(index) => task.spec.execute.get(index as usize)?,
    };
    Some(if of.name.is_empty() { step.to_string() } else { of.name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::task::TaskState;
    use serde_json::{Value, json};

    fn uuid(number: u128) -> uuid::Uuid {
        uuid::Uuid::from_u128(number)
    }

    fn task(state: TaskState, compile: bool, attempts: Value, result: Value) -> Task {
        let compile = compile.then(|| json!({ "command": "make" }));
        serde_json::from_value(json!({
            "id": 7, "state": u8::from(state), "received": [1, 0], "attempts": attempts, "result": result,
            "spec": { "pool": "p", "compile": compile,
                "execute": [{ "command": "a", "name": "first" }, { "command": "b" }] },
        }))
        .unwrap()
    }

    fn attempt(number: u32, job: Option<u64>, outcome: Value) -> Value {
        let vm = job.map(|_| json!({ "slot": uuid(3), "generation": 4, "node": uuid(5) }));
        json!({ "number": number, "lease": uuid(9), "job": job, "vm": vm, "outcome": outcome })
    }

    fn step(name: &str, compile: bool) -> Value {
        json!({ "name": name, "compile": compile, "why": "exit", "exit": 0, "wall_ms": 1, "cpu_us": 1,
            "memory_peak_bytes": 1, "out": { "bytes": 0 }, "err": { "bytes": 0 } })
    }

    fn place(attempt: u32, step: u32, out: u64) -> LogPlace {
        LogPlace { attempt, step, out, err: 0 }
    }

    #[test]
    fn a_running_task_is_followed_step_by_step() {
        let running = task(TaskState::Running, false, json!([attempt(1, Some(2), Value::Null)]), Value::Null);
        let mut at = LogPlace::default();
        let Next::Live(live) = next(&running, &mut at) else { panic!("it runs") };
        assert_eq!((at, live.name.as_str()), (place(1, 1, 0), "first"));
        assert_eq!(live.exec, exec_name(LeaseUuid(uuid(9)), 1, 1));
        at.out = 55;
        assert!(matches!(next(&running, &mut at), Next::Live(_)));
        assert_eq!(at.out, 55, "where it stands is kept");
        at_step(&mut at, 2);
        let Next::Live(live) = next(&running, &mut at) else { panic!("the second step") };
        assert_eq!((live.name.as_str(), at.out), ("2", 0));
        at_step(&mut at, 3);
        assert!(matches!(next(&running, &mut at), Next::Waits(Some(_))), "there is no third");
        let compiles =
            task(TaskState::Compiling, true, json!([attempt(1, Some(2), Value::Null)]), Value::Null);
        let mut at = LogPlace::default();
        let Next::Live(live) = next(&compiles, &mut at) else { panic!("it compiles") };
        assert_eq!((at.step, live.exec), (0, exec_name(LeaseUuid(uuid(9)), 1, 0)));
    }

    #[test]
    fn a_new_attempt_begins_anew() {
        let failed = attempt(1, Some(2), json!("infra-fail"));
        let retrying = task(TaskState::Retrying, false, json!([failed]), Value::Null);
        let mut at = place(1, 2, 77);
        assert_eq!(next(&retrying, &mut at), Next::Waits(None));
        let waits =
            task(TaskState::Retrying, false, json!([failed, attempt(2, None, Value::Null)]), Value::Null);
        assert_eq!(next(&waits, &mut at), Next::Waits(None));
        let again =
            task(TaskState::Running, false, json!([failed, attempt(2, Some(3), Value::Null)]), Value::Null);
        let Next::Live(live) = next(&again, &mut at) else { panic!("it runs again") };
        assert_eq!((live.attempt, at), (2, place(2, 1, 0)));
    }

    #[test]
    fn a_final_task_has_what_is_stored() {
        let result = json!({ "steps": [step("compile", true), step("first", false)] });
        let done = task(TaskState::RunFailed, true, json!([attempt(1, Some(2), json!("user-fail"))]), result);
        let mut at = LogPlace::default();
        let mut names = Vec::new();
        while let Next::Stored(step) = next(&done, &mut at) {
            names.push((at.step, step.name.clone()));
            let after = at.step + 1;
            at_step(&mut at, after);
        }
        assert_eq!(names, [(0, "compile".to_owned()), (1, "first".to_owned())]);
        assert_eq!(next(&done, &mut at), Next::Over);
        let mut late = place(1, 1, 9);
        assert!(matches!(next(&done, &mut late), Next::Stored(_)));
        assert_eq!(late, place(1, 1, 9), "a follower goes on where its live output ended");
        let cancelled = task(TaskState::Cancelled, false, json!([]), Value::Null);
        assert_eq!(next(&cancelled, &mut LogPlace::default()), Next::Over);
        let pending = task(TaskState::Pending, false, json!([]), Value::Null);
        assert_eq!(next(&pending, &mut LogPlace::default()), Next::Waits(None));
    }
}
