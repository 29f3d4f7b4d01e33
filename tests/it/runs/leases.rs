//! Leases of people: got, used, given back; and what is left when who holds them goes away.

use super::*;
use gantry_tests::{bounded, process};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

#[test]
fn leases_end_with_their_owners() {
    let bed = Bed::new();
    step("a lease is had, used and given back", || used_and_given_back(&bed));
    step("more than a VM has room for is refused, and the lease goes on", || too_much_is_put(&bed));
    step("two that use the same VM one after the other never meet", || a_vm_is_used_once(&bed));
    step("Ctrl-C while waiting withdraws the request", || interrupted_while_waiting(&bed));
    step("Ctrl-C while a command holds it gives it back", || interrupted_while_held(&bed));
    step("a holder that is killed loses it at its ttl", || killed_holder(&bed));
    step("a lease over its time ends", || over_its_time(&bed));
    step("a lease whose VM dies is broken", || vm_dies(&bed));
    bed.ends();
}

/// State words of all leases that live or wait.
fn leases(bed: &Bed) -> Result<Vec<(String, String)>> {
    let rows = bed.luxi()?.query("lease", &["uuid", "state"], Value::Null)?;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = rows.iter().map(|row| (word(&row[0]), word(&row[1])));
    Ok(all.filter(|(_, state)| matches!(state.as_str(), "waiting" | "granted" | "active")).collect())
}

fn none_left(bed: &Bed, within: Duration) -> Result<()> {
    wait::until("no lease is left", within, || leases(bed).ok()?.is_empty().then_some(()))
        .with_context(|| format!("{:?}", leases(bed)))?;
    bed.rests()
}

/// The uuid in what `gnt-lease acquire` printed.
pub fn uuid(said: &str) -> Result<String> {
    let words = said.split(|c: char| !c.is_ascii_hexdigit() && c != '-');
    words
        .into_iter()
        .find(|word| word.len() == 36)
        .map(str::to_owned)
        .with_context(|| format!("no uuid in {said:?}"))
}

fn acquire(bed: &Bed, count: usize) -> Result<String> {
    uuid(&bed.cluster.run(&["lease", "acquire", pool::NAME, "--count", &count.to_string()])?)
}

/// A `gantry lease acquire` at work.
fn acquiring(bed: &Bed, args: &[&str]) -> Result<Child> {
    let all = [&["lease", "acquire", pool::NAME], args].concat();
    // In a process group of its own, as a shell would.
    Ok(bed.cluster.command(&all).process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// As a terminal sends it: to the command and all it started.
fn ctrl_c(child: &Child) -> Result<()> {
    Ok(killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?)
}

fn at(bed: &Bed, state: &str) -> Result<()> {
    wait::until(&format!("a lease is {state}"), PATIENCE, || {
        leases(bed).ok()?.iter().any(|(_, now)| now == state).then_some(())
    })
}

fn used_and_given_back(bed: &Bed) -> Result<()> {
    let lease = acquire(bed, 1)?;
    let (said, end) = rpc::exec(bed, &lease, "first", "echo here; touch mine")?;
    ensure!(said == "here\n", "{said:?} {end:?}");
    let (said, _) = rpc::exec(bed, &lease, "second", "ls")?;
    ensure!(said.contains("mine"), "the same VM: {said:?}");
    bed.cluster.run(&["lease", "release", &lease])?;
    none_left(bed, PATIENCE)?;
    let refused = rpc::exec(bed, &lease, "third", "true");
    ensure!(refused.is_err(), "a lease that is over runs nothing: {refused:?}");
    Ok(())
}

fn too_much_is_put(bed: &Bed) -> Result<()> {
    let lease = acquire(bed, 1)?;
    let dir = tempfile::tempdir()?;
    let (huge, small) = (dir.path().join("huge"), dir.path().join("small"));
    std::fs::write(&huge, vec![7; 40 << 20])?;
    std::fs::write(&small, "here")?;
    let began = std::time::Instant::now();
    let (_, said) = bed.cluster.refused(&["lease", "put", &lease, &huge.display().to_string()])?;
    ensure!(began.elapsed() < Duration::from_secs(30), "refused only after {:?}", began.elapsed());
    let why = "its files have 41943040 bytes, the machine has room for ";
    ensure!(said.contains(why) && said.contains("leave some out"), "{said}");
    bed.cluster.run(&["lease", "put", &lease, &small.display().to_string()])?;
    let (said, end) = rpc::exec(bed, &lease, "look", "ls; cat small")?;
    ensure!(said.contains("here") && !said.contains("huge"), "{said:?} {end:?}");
    bed.cluster.run(&["lease", "release", &lease])?;
    none_left(bed, PATIENCE)
}

fn a_vm_is_used_once(bed: &Bed) -> Result<()> {
    for _ in 0..SIZE * 2 {
        let lease = acquire(bed, 1)?;
        let (said, end) =
            rpc::exec(bed, &lease, "look", "ls -A . /tmp /dev/shm; touch mine /tmp/mine /dev/shm/mine")?;
        ensure!(!said.contains("mine"), "a VM that was used: {said:?} {end:?}");
        bed.cluster.run(&["lease", "release", &lease])?;
    }
    none_left(bed, PATIENCE)
}

fn interrupted_while_waiting(bed: &Bed) -> Result<()> {
    let all = acquire(bed, SIZE)?;
    let mut waiting = acquiring(bed, &[])?;
    at(bed, "waiting")?;
    ctrl_c(&waiting)?;
    let status = bounded::end(&mut waiting)?;
    ensure!(!status.success(), "an interrupted command says so: {status}");
    wait::until("the request is withdrawn", PATIENCE, || {
        (!leases(bed).ok()?.iter().any(|(_, state)| state == "waiting")).then_some(())
    })?;
    bed.cluster.run(&["lease", "release", &all])?;
    none_left(bed, PATIENCE)
}

fn interrupted_while_held(bed: &Bed) -> Result<()> {
    let mut holder = acquiring(bed, &["--", "sleep", "1000"])?;
    wait::until("its command runs", PATIENCE, || child_of(holder.id()))?;
    ctrl_c(&holder)?;
    bounded::end(&mut holder)?;
    none_left(bed, PATIENCE)
}

fn killed_holder(bed: &Bed) -> Result<()> {
    let mut holder = acquiring(bed, &["--ttl", "5s", "--", "sleep", "1000"])?;
    let command = wait::until("its command runs", PATIENCE, || child_of(holder.id()))?;
    process::signal(holder.id(), Signal::SIGKILL)?;
    bounded::end(&mut holder)?;
    process::signal(command, Signal::SIGKILL)?;
    none_left(bed, Duration::from_secs(20))
}

fn child_of(parent: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn over_its_time(bed: &Bed) -> Result<()> {
    bed.cluster.run(&["lease", "acquire", pool::NAME, "--for", "1s"])?;
    none_left(bed, Duration::from_secs(20))
}

fn vm_dies(bed: &Bed) -> Result<()> {
    let lease = acquire(bed, 1)?;
    rpc::exec(bed, &lease, "touch", "true")?;
    // No filter: rows without a lease would pass it, as in Ganeti.
    let rows = bed.luxi()?.query("slot", &["uuid", "generation", "lease"], Value::Null)?;
    let slot = rows.iter().find(|row| row[2] == json!(lease)).context("a slot is leased")?;
    let suffix = format!("-{}-{}", slot[0].as_str().context("a uuid")?, slot[1]);
    let pid = bed.site.inits().into_iter().find(|(vm, _)| vm.ends_with(&suffix)).context("its VM runs")?.1;
    process::signal(pid, Signal::SIGKILL)?;
    wait::until("its PID 1 is dead", PATIENCE, || (!process::lives(pid)).then_some(()))?;
    let said = rpc::exec(bed, &lease, "after", "true");
    ensure!(
        !matches!(&said, Ok((_, end)) if end.why == gantry_proto::noded::Why::Exit(0)),
        "a dead VM runs nothing: {said:?}"
    );
    // By itself, long before its time or its ttl: its holder did nothing.
    let told = bed.luxi()?.call("WaitForLease", json!([lease, "granted", 60]))?;
    let why = told["why"].as_str().unwrap_or_default();
    ensure!(told["state"] == "over" && why.starts_with("VM ") && why.contains("lost"), "{told}");
    let refused = bed.luxi()?.ask("LeaseRenew", json!([lease]))?;
    ensure!(refused["success"] == json!(false), "a broken lease is renewed: {refused}");
    none_left(bed, PATIENCE)
}
