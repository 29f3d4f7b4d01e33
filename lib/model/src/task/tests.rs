//! Checks of submissions.

use super::*;
use crate::pool::Blueprint;
use serde_json::json;

fn spec(changes: serde_json::Value) -> Result<TaskSpec, String> {
    let mut whole = json!({ "pool": "py", "execute": [{ "command": "true" }] });
    let (Some(map), Some(changes)) = (whole.as_object_mut(), changes.as_object()) else { unreachable!() };
    map.extend(changes.clone());
    let spec: TaskSpec = serde_json::from_value(whole).map_err(|why| why.to_string())?;
    check(&spec).map(|()| spec)
}

#[test]
fn a_small_submission_is_whole() {
    let spec = spec(json!({})).unwrap();
    assert_eq!(
        spec.limits,
        Limits { wall_s: 60, cpu_s: 60, memory_mib: 256, pids: 64, disk_mib: 64, output_kib: 1024 }
    );
    assert_eq!(spec.max_attempts, 3);
    assert_eq!(lease_ms(&spec), 360_000);
}

#[test]
fn wrong_submissions_are_refused_with_one_reason() {
    for (changes, reason) in [
        (json!({"execute": []}), "1 to 256 execute steps"),
        (json!({"execute": [{"command": " "}]}), "step 1: command must not be empty"),
        (json!({"compile": {"command": ""}}), "step 0 (the compile step): command must not be empty"),
        (json!({"execute": [{"command": "a", "stdin": "../x"}]}), "plain relative path"),
        (json!({"execute": [{"command": "a", "stdin": "/etc/passwd"}]}), "plain relative path"),
        (json!({"execute": [{"command": "a", "wall_s": 0}]}), "wall_s must be"),
        (json!({"execute": [{"command": "a", "typo": 1}]}), "unknown field"),
        (json!({"limits": {"wall_s": -1}}), "invalid value"),
        (json!({"limits": {"wall_s": 0}}), "limits.wall_s must be 1 to 86400, not 0"),
        (json!({"limits": {"memory_mib": 1u64 << 40}}), "limits.memory_mib must be"),
        (json!({"limits": {"pids": 1}}), "limits.pids must be"),
        (json!({"limits": {"output_kib": 1u64 << 60}}), "limits.output_kib must be"),
        (json!({"max_attempts": 0}), "max_attempts must be 1 to 10"),
        (json!({"priority": 99}), "priority must be"),
        (json!({"env": {"A B": "x"}}), "is no variable"),
        (json!({"env": {"A": "x\u{0}"}}), "has a NUL"),
        (
            json!({"env": {"A": "x".repeat(40 << 10)}, "execute": [{"command": "x".repeat(60 << 10)}]}),
            "the longest command and env take 102406 bytes together",
        ),
        (json!({"key": ""}), "key must not be empty"),
        (json!({"name": "a\nb"}), "control characters"),
        (json!({"input": {"digest": "../../etc", "bytes": 1}}), "64 lower-case hexadecimal"),
        (json!({"unknown": true}), "unknown field"),
    ] {
        let why = spec(changes.clone()).unwrap_err();
        assert!(why.contains(reason), "{changes}: {why}");
    }
}

#[test]
fn states_travel_as_judicators_numbers() {
    for number in 0..=8u8 {
        let state = TaskState::try_from(number).unwrap();
        assert_eq!(serde_json::to_value(state).unwrap(), json!(number));
        assert_eq!(serde_json::from_value::<TaskState>(json!(number)).unwrap(), state);
    }
    assert!(TaskState::try_from(9).is_err());
}

fn blueprint(wall_s_max: u64, lease_s_max: u64) -> Blueprint {
    serde_json::from_value(json!({
        "uuid": uuid::Uuid::nil(), "name": "b", "driver": "oci", "image": "host", "memory_mib": 128, "vcpus": 1,
        "disk_mib": 64, "pids": 64, "wall_s_max": wall_s_max, "lease_s_max": lease_s_max, "enabled": true,
        "serial_no": 1, "ctime": 1.0, "mtime": 1.0,
    }))
    .unwrap()
}

#[test]
fn a_limit_above_the_blueprints_is_named() {
    let blueprint = blueprint(60, 3600);
    let wide = spec(json!({})).unwrap();
    assert!(
        fits(&wide, &blueprint).unwrap_err().contains("memory_mib is 256, but VMs of blueprint b have 128")
    );
    let fitting = spec(json!({"limits": {"memory_mib": 128}})).unwrap();
    assert_eq!(fits(&fitting, &blueprint), Ok(()));
    let long =
        spec(json!({"limits": {"memory_mib": 128}, "execute": [{"command": "a", "wall_s": 61}]})).unwrap();
    assert!(fits(&long, &blueprint).unwrap_err().contains("wall_s"));
}

#[test]
fn steps_that_outlast_the_blueprints_leases_are_refused() {
    let blueprint = blueprint(3600, 300);
    let steps = |wall_s: u64, count: usize| {
        let step = json!({"command": "a", "wall_s": wall_s});
        spec(json!({"limits": {"memory_mib": 128}, "execute": vec![step; count]})).unwrap()
    };
    assert_eq!(fits(&steps(270, 1), &blueprint), Ok(()));
    assert_eq!(fits(&steps(27, 10), &blueprint), Ok(()));
    for long in [steps(271, 1), steps(28, 10)] {
        let why = fits(&long, &blueprint).unwrap_err();
        assert!(why.contains("leases of blueprint b last 300 s"), "{why}");
    }
    // A whole day is refused, not cut.
    let day = self::blueprint(86_400, 86_400);
    assert!(fits(&steps(86_400, 1), &day).unwrap_err().contains("86400 s"));
    assert_eq!(fits(&steps(86_370, 1), &day), Ok(()));
}
