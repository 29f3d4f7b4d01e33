//! Checks of what is submitted. Pure: what needs the configuration (is a limit above its blueprint's) takes it as an argument.

use super::{
    ATTEMPTS_MAX, BodyRef, COMMAND_BYTES_MAX, ENV_BYTES_MAX, INPUT_BYTES_MAX, LABELS_MAX, Limits,
    OUTPUT_BYTES_MAX, START_BYTES_MAX, STEPS_MAX, Step, TEXT_BYTES_MAX, TaskSpec,
};
use crate::job::{PRIORITY_MAX, PRIORITY_MIN};
use crate::lease::LEASE_MS_MAX;
use crate::pool::{Blueprint, WALL_S_MAX};
use std::collections::BTreeMap;

/// Checks a submission as far as it says by itself.
///
/// # Errors
/// What is wrong, and what is allowed.
pub fn check(spec: &TaskSpec) -> Result<(), String> {
    let texts = [("name", &spec.name), ("user", &spec.user)];
    for (what, text) in texts.into_iter().chain(spec.key.iter().map(|key| ("key", key))) {
        if text.len() > TEXT_BYTES_MAX || text.contains(char::is_control) {
            return Err(format!(
                "{what} must be text of at most {TEXT_BYTES_MAX} bytes without control characters"
            ));
        }
    }
    if spec.key.as_deref() == Some("") {
        return Err("key must not be empty".to_owned());
    }
    if spec.labels.len() > LABELS_MAX || spec.labels.iter().any(|l| l.is_empty() || l.len() > TEXT_BYTES_MAX)
    {
        return Err(format!("there may be {LABELS_MAX} labels of 1 to {TEXT_BYTES_MAX} bytes"));
    }
    if spec.execute.is_empty() || spec.execute.len() > STEPS_MAX {
        return Err(format!("there must be 1 to {STEPS_MAX} execute steps, not {}", spec.execute.len()));
    }
    if let Some(step) = &spec.compile {
        check_step(step).map_err(|why| format!("step 0 (the compile step): {why}"))?;
    }
    for (number, step) in (1..).zip(&spec.execute) {
        check_step(step).map_err(|why| format!("step {number}: {why}"))?;
    }
    if !(1..=ATTEMPTS_MAX).contains(&spec.max_attempts) {
        return Err(format!("max_attempts must be 1 to {ATTEMPTS_MAX}, not {}", spec.max_attempts));
    }
    if !(PRIORITY_MIN..=PRIORITY_MAX).contains(&spec.priority) {
        return Err(format!("priority must be {PRIORITY_MIN} to {PRIORITY_MAX}, not {}", spec.priority));
    }
    if let Some(input) = &spec.input {
        check_body(input)?;
    }
    check_env(&spec.env)?;
    check_starts(spec)?;
    check_limits(&spec.limits)
}

/// Whether each command fits into a packet with the environment, where each variable takes four bytes more.
fn check_starts(spec: &TaskSpec) -> Result<(), String> {
    let env: usize = spec.env.iter().map(|(name, value)| name.len() + value.len() + 5).sum();
    let longest = spec.compile.iter().chain(&spec.execute).map(|step| step.command.len()).max().unwrap_or(0);
    if env + longest > START_BYTES_MAX {
        return Err(format!(
            "the longest command and env take {} bytes together, at most {START_BYTES_MAX} are possible: put what is long \
             into a file of the input",
            env + longest
        ));
    }
    Ok(())
}

fn check_step(step: &Step) -> Result<(), String> {
    if step.command.trim().is_empty() {
        return Err("command must not be empty".to_owned());
    }
    if step.command.len() > COMMAND_BYTES_MAX || step.command.contains('\0') {
        return Err(format!("command must have at most {COMMAND_BYTES_MAX} bytes and no NUL"));
    }
    if step.name.len() > TEXT_BYTES_MAX || step.name.contains(char::is_control) {
        return Err(format!("name must be text of at most {TEXT_BYTES_MAX} bytes"));
    }
    if let Some(path) = &step.stdin {
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if path.len() > 1024 || path.contains('\0') || !path.split('/').all(plain) {
            return Err(format!("stdin '{}' is not a plain relative path", path.escape_debug()));
        }
    }
    for (what, value) in [("wall_s", step.wall_s), ("cpu_s", step.cpu_s)] {
        if let Some(value) = value {
            within(what, value, 1, WALL_S_MAX)?;
        }
    }
    Ok(())
}

fn check_body(body: &BodyRef) -> Result<(), String> {
    if !is_digest(&body.digest) {
        return Err("input.digest must be 64 lower-case hexadecimal digits".to_owned());
    }
    within("input.bytes", body.bytes, 1, INPUT_BYTES_MAX)
}

/// Whether `text` is a SHA-256 in lower-case hex.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), String> {
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if bytes > ENV_BYTES_MAX {
        return Err(format!("env takes {bytes} bytes, at most {ENV_BYTES_MAX} are possible"));
    }
    let good = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    match env.iter().find(|(name, value)| !good(name) || value.contains('\0')) {
        Some((name, _)) => {
            Err(format!("env: '{}' is no variable, or its value has a NUL", name.escape_debug()))
        }
        None => Ok(()),
    }
}

fn within(what: &str, value: u64, min: u64, max: u64) -> Result<(), String> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(format!("{what} must be {min} to {max}, not {value}"))
    }
}

fn check_limits(limits: &Limits) -> Result<(), String> {
    within("limits.wall_s", limits.wall_s, 1, WALL_S_MAX)?;
    within("limits.cpu_s", limits.cpu_s, 1, WALL_S_MAX)?;
    within("limits.memory_mib", limits.memory_mib, crate::pool::MEMORY_MIB_MIN, crate::pool::MEMORY_MIB_MAX)?;
    within("limits.pids", limits.pids, 4, crate::pool::PIDS_MAX)?;
    within("limits.disk_mib", limits.disk_mib, 1, crate::pool::DISK_MIB_MAX)?;
    within("limits.output_kib", limits.output_kib, 1, OUTPUT_BYTES_MAX >> 10)
}

/// Checks a submission against the blueprint of its pool.
///
/// # Errors
/// Which limit is above the blueprint's, and what that is.
pub fn fits(spec: &TaskSpec, blueprint: &Blueprint) -> Result<(), String> {
    let over = |what: &str, wanted: u64, has: u64| {
        if wanted <= has {
            return Ok(());
        }
        Err(format!(
            "limits.{what} is {wanted}, but VMs of blueprint {} have {has}: ask for less or use another pool",
            blueprint.name
        ))
    };
    over("memory_mib", spec.limits.memory_mib, blueprint.memory_mib)?;
    over("pids", spec.limits.pids, blueprint.pids)?;
    over("disk_mib", spec.limits.disk_mib, blueprint.disk_mib)?;
    let walls = spec.compile.iter().chain(&spec.execute).filter_map(|step| step.wall_s);
    walls.chain([spec.limits.wall_s]).try_for_each(|wall| over("wall_s", wall, blueprint.wall_s_max))?;
    let (steps, most) = (steps_s(spec), blueprint.lease_s_max.min(LEASE_MS_MAX / 1000));
    if steps.saturating_add(TRANSFER_S_MIN) <= most {
        return Ok(());
    }
    Err(format!(
        "the wall limits of all steps together are {steps} s, and {TRANSFER_S_MIN} s are for files, but leases of blueprint {} last \
         {most} s: ask for less, or use another pool",
        blueprint.name
    ))
}

/// Least time of a task's lease beside its steps, s: files in and out.
const TRANSFER_S_MIN: u64 = 30;
/// What its lease has beside its steps where the blueprint allows, s.
const TRANSFER_S: u64 = 300;

/// Seconds of all steps at their limits.
fn steps_s(spec: &TaskSpec) -> u64 {
    let steps = spec.compile.iter().chain(&spec.execute);
    steps.map(|step| step.wall_s.unwrap_or(spec.limits.wall_s)).fold(0, u64::saturating_add)
}

/// How long a task's lease may last, ms: all its steps at their limits, and time for transfers. The grant makes it shorter
/// where its blueprint's leases are.
#[must_use]
pub fn lease_ms(spec: &TaskSpec) -> u64 {
    steps_s(spec).saturating_add(TRANSFER_S).saturating_mul(1000).min(LEASE_MS_MAX)
}
