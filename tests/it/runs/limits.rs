//! What a user's code does to itself: it is never tried again, and each limit has its reason.

use super::*;
use gantry_tests::examples;

#[test]
fn user_failures_are_the_users() {
    let bed = Bed::new();
    step("every example ends as it says", || examples_end_as_they_say(&bed));
    step("each limit has its reason", || each_limit_has_its_reason(&bed));
    step("memory of files is memory, also when it takes PID 1", || files_in_memory(&bed));
    step("a signal is told", || a_signal_is_told(&bed));
    step("a step's own limit counts", || own_limits(&bed));
    step("a cancelled task is cancelled", || cancelled(&bed));
    step("a task runs on through the death of its noded", || noded_dies(&bed));
    step("what is under out/ comes back, and nothing else", || artifacts(&bed));
    bed.ends();
}

fn examples_end_as_they_say(bed: &Bed) -> Result<()> {
    let expected = examples::all()?;
    for name in expected.keys() {
        bed.cluster.run(&["task", "submit", &examples::dir().join(name).display().to_string()])?;
    }
    let mut luxi = bed.luxi()?;
    let rows = luxi.query("task", &["id"], Value::Null)?;
    let ids: Vec<u64> = rows.iter().filter_map(|row| row[0].as_u64()).collect();
    ensure!(ids.len() == expected.len(), "{} tasks of {}", ids.len(), expected.len());
    for record in task::wait_all(&mut luxi, &ids, PATIENCE)? {
        let wrong = expected[record.name()].differs(&record);
        ensure!(wrong.is_empty(), "{}: {}: {}", record.name(), wrong.join("; "), record.json());
    }
    Ok(())
}

fn each_limit_has_its_reason(bed: &Bed) -> Result<()> {
    let cases = [
        ("yes", "output"),
        ("yes >&2", "output"),
        ("sleep 100", "wall"),
        ("trap '' TERM INT HUP; while :; do sleep 0.1; done", "wall"),
        ("while :; do :; done", "cpu"),
        ("/usr/bin/python3 -c 'x = bytearray(300 << 20)'", "memory"),
        ("cat /dev/zero > big", "disk"),
        ("cat /dev/zero > /tmp/big", "disk"),
        ("f() { f | f & }; f; sleep 0.3; exit 1", "pids"),
        ("exit 7", "exit"),
        ("exit 137", "exit"),
    ];
    let mut luxi = bed.luxi()?;
    let submit = |luxi: &mut Luxi, (command, why): (&str, &str)| {
        let mut spec = one(command);
        spec["limits"]["wall_s"] = json!(if why == "wall" { 1 } else { 20 });
        spec["limits"]["cpu_s"] = json!(if why == "cpu" { 1 } else { 10 });
        task::submit(luxi, &spec)
    };
    let ids: Vec<u64> = cases.iter().map(|case| submit(&mut luxi, *case)).collect::<Result<_>>()?;
    for ((command, why), record) in cases.iter().zip(task::wait_all(&mut luxi, &ids, PATIENCE)?) {
        charged(&record, why).with_context(|| (*command).to_owned())?;
    }
    Ok(())
}

/// The user's own failure for this reason, in one attempt.
fn charged(record: &Record, why: &str) -> Result<()> {
    let all = record.json();
    ensure!(record.state() == "run-failed", "state {}: {all}", record.state());
    ensure!(record.outcomes() == ["user-fail"], "outcomes: {all}");
    ensure!(record.deciding()["why"] == json!(why), "why: {all}");
    ensure!(!record.why().is_empty(), "the task says why: {all}");
    Ok(())
}

/// The kernel finds no process to kill for what lies in a file system in memory, and takes all.
fn files_in_memory(bed: &Bed) -> Result<()> {
    let mut spec = one("cat /dev/zero > /tmp/big");
    spec["limits"]["memory_mib"] = json!(20);
    spec["limits"]["disk_mib"] = json!(32);
    charged(&bed.run(&spec)?, "memory")
}

fn a_signal_is_told(bed: &Bed) -> Result<()> {
    let record = bed.run(&one("kill -SEGV $$"))?;
    charged(&record, "signal")?;
    ensure!(record.deciding()["signal"] == json!(11), "{}", record.json());
    Ok(())
}

fn own_limits(bed: &Bed) -> Result<()> {
    let mut spec = one("sleep 100");
    spec["execute"][0]["wall_s"] = json!(1);
    charged(&bed.run(&spec)?, "wall")
}

fn cancelled(bed: &Bed) -> Result<()> {
    let mut luxi = bed.luxi()?;
    let id = task::submit(&mut luxi, &one("echo begun; sleep 100"))?;
    says(bed, id, "begun")?;
    bed.cluster.run(&["task", "cancel", &id.to_string()])?;
    let record = task::wait_all(&mut luxi, &[id], PATIENCE)?.pop().context("one task")?;
    ensure!(record.state() == "cancelled", "{}", record.json());
    ensure!(record.outcomes() == ["cancelled"], "{}", record.json());
    Ok(())
}

fn noded_dies(bed: &Bed) -> Result<()> {
    let mut luxi = bed.luxi()?;
    let id = task::submit(
        &mut luxi,
        &one(
            "echo begun; while ! test -e go; do sleep 0.1; i=$((i+1)); test $i -lt 30 || touch go; done; echo ended",
        ),
    )?;
    says(bed, id, "begun")?;
    // It is not said here which node it is: all of them.
    for number in 0..bed.cluster.nodes.len() {
        bed.cluster.restart(number, "noded")?;
    }
    let record = task::wait_all(&mut luxi, &[id], PATIENCE)?.pop().context("one task")?;
    first_try(&record)?;
    ensure!(record.out(0) == "begun\nended\n", "{}", record.json());
    Ok(())
}

fn artifacts(bed: &Bed) -> Result<()> {
    let record = bed.run(&one(
        "mkdir out/sub && echo one > out/one && echo two > out/sub/two && ln -s /etc/passwd out/link && mkfifo out/fifo",
    ))?;
    first_try(&record)?;
    let result = &record.json()["result"];
    let names: Vec<&Value> =
        result["artifacts"].as_array().into_iter().flatten().map(|one| &one["path"]).collect();
    ensure!(names == [&json!("one"), &json!("sub/two")], "{result}");
    ensure!(result["refused"] == json!(2), "the link and the fifo are left out, and counted: {result}");
    Ok(())
}
