//! What is wrong with a submission is said at once, in one sentence; what is wrong with an archive, at the latest by the
//! task's result; and nothing is left of either.

use super::*;
use gantry_model::task::START_BYTES_MAX;

#[test]
fn wrong_submissions_are_refused_with_one_reason() {
    let bed = Bed::new();
    step("tasks", || tasks(&bed));
    step("leases", || leases(&bed));
    step("blueprints and pools", || blueprints_and_pools(&bed));
    step("task files", || task_files(&bed));
    step("hostile archives", || archives(&bed));
    step("the longest command and environment there may be, and one byte more", || longest_start(&bed));
    step("and a good task still runs", || first_try(&bed.run(&one("true"))?));
    bed.ends();
}

fn longest_start(bed: &Bed) -> Result<()> {
    // Many short ones: what each takes beside its text weighs most.
    let env: BTreeMap<String, String> = (0..6_000).map(|n| (format!("V{n:04}"), "x".to_owned())).collect();
    let taken: usize = env.iter().map(|(name, value)| name.len() + value.len() + 5).sum();
    let long = |more: usize| {
        let start = "env | grep -c ^V #";
        let mut spec = one(&format!("{start}{}", "x".repeat(START_BYTES_MAX - taken - start.len() + more)));
        spec["env"] = json!(env);
        spec
    };
    let record = bed.run(&long(0))?;
    first_try(&record)?;
    ensure!(record.out(0) == "6000\n", "{}", record.json());
    let refused = bed.luxi()?.ask("SubmitTask", json!([long(1)]))?;
    ensure!(refused.to_string().contains("the longest command and env take"), "{refused}");
    Ok(())
}

/// Files of an input, and bytes of each: one that is missing, or cut short, shows in what the task says.
const FILES: usize = 50;
const EACH: usize = 3_000;

#[test]
fn an_input_is_whole_though_noded_dies_while_it_unpacks() {
    let bed = Bed::new();
    let crash = bed.cluster.nodes[1].root.join("crash");
    step("a node whose noded can be ended at that point", || {
        std::fs::create_dir_all(&crash)?;
        bed.cluster.kill_node(1)?;
        bed.cluster.boot_with(1, &[("GANTRY_CRASH_DIR", &crash.to_string_lossy())])?;
        bed.rests()
    });
    step("it dies with the first file written, and no task is tried twice", || cut_short(&bed, &crash));
    bed.ends();
}

fn cut_short(bed: &Bed, crash: &std::path::Path) -> Result<()> {
    let armed = crash.join("put-unpacking");
    std::fs::write(&armed, "")?;
    let file = |number: usize| entry(&format!("f{number}"), b'0', "", EACH as u64, &[b'x'; EACH]);
    let mut spec = one("ls | grep -c '^f'; cat f* | wc -c; cat f* | tr -d x | wc -c");
    spec["input"] = rpc::upload(bed, &archive(&(0..FILES).map(file).collect::<Vec<_>>()))?;
    let mut luxi = bed.luxi()?;
    // Nodes give their VMs in turn: one of these has its VM there.
    let ids: Vec<u64> = (0..SIZE * 2).map(|_| task::submit(&mut luxi, &spec)).collect::<Result<_>>()?;
    for record in task::wait_all(&mut luxi, &ids, PATIENCE)? {
        first_try(&record)?;
        let whole = format!("{FILES}\n{}\n0\n", FILES * EACH);
        ensure!(record.out(0) == whole, "not its input: {}", record.json());
    }
    ensure!(!armed.exists(), "no noded came by that point");
    Ok(())
}

/// An answer that refuses, in a text that has these words.
fn refuses(answer: &Value, words: &str) -> Result<()> {
    ensure!(answer["success"] == json!(false), "was accepted: {answer}");
    let text = answer["result"].to_string();
    ensure!(text.contains(words), "'{words}' is not in {text}");
    ensure!(!text.contains("panicked") && text.len() < 1000, "no clear sentence: {text}");
    Ok(())
}

fn with(changes: &Value) -> Value {
    let mut spec = one("true");
    for (key, value) in changes.as_object().into_iter().flatten() {
        if let (Some(now), Some(new)) = (spec[key].as_object().cloned(), value.as_object()) {
            spec[key] = now.into_iter().chain(new.clone()).collect::<serde_json::Map<_, _>>().into();
        } else {
            spec[key] = value.clone();
        }
    }
    spec
}

fn tasks(bed: &Bed) -> Result<()> {
    let mut luxi = bed.luxi()?;
    let absent = "0".repeat(64);
    for (changes, words) in [
        (json!({"pool": "nosuch"}), "nosuch"),
        (json!({"pool": ""}), "pool"),
        (json!({"execute": []}), "execute"),
        (json!({"limits": {"memory_mib": 100_000}}), "memory_mib"),
        (json!({"limits": {"memory_mib": 129}}), "blueprint"),
        (json!({"limits": {"pids": 65}}), "blueprint"),
        (json!({"limits": {"disk_mib": 33}}), "blueprint"),
        (json!({"limits": {"wall_s": 0}}), "wall_s"),
        (json!({"limits": {"wall_s": -1}}), "-1"),
        (json!({"limits": {"cpu_s": 1e30}}), "1e+30"),
        (json!({"limits": {"wall_s": 3601}}), "wall_s"),
        (json!({"limits": {"nosuch": 1}}), "nosuch"),
        (json!({"nosuch": 1}), "nosuch"),
        (json!({"max_attempts": 1000}), "max_attempts"),
        (json!({"priority": 100}), "priority"),
        (json!({"execute": [{"command": "cat", "stdin": "../../etc/passwd"}]}), "stdin"),
        (json!({"env": {"A=B": "x"}}), "env"),
        (json!({"input": {"digest": absent, "bytes": 10}}), "0000"),
    ] {
        let answer = luxi.ask("SubmitTask", json!([with(&changes)]))?;
        refuses(&answer, words).with_context(|| changes.to_string())?;
    }
    let rows = luxi.query("task", &["id"], Value::Null)?;
    ensure!(rows.is_empty(), "a refused task is there: {rows:?}");
    Ok(())
}

fn leases(bed: &Bed) -> Result<()> {
    let mut luxi = bed.luxi()?;
    let good = json!({"pool": pool::NAME, "count": 1, "for_s": 60, "user": "me", "priority": 0});
    for (key, value, words) in [
        ("pool", json!("nosuch"), "nosuch"),
        ("count", json!(0), "count"),
        ("count", json!(SIZE + 1), "count"),
        ("count", json!(-1), "-1"),
        ("for_s", json!(0), "for_s"),
        ("for_s", json!(1_000_000_000), "for_s"),
        ("ttl_s", json!(0), "ttl_s"),
        ("user", json!(""), "user"),
        ("priority", json!(1000), "priority"),
    ] {
        let mut request = good.clone();
        request[key] = value;
        let answer = luxi.ask("LeaseRequest", json!([request]))?;
        refuses(&answer, words).with_context(|| request.to_string())?;
    }
    for method in ["LeaseRelease", "LeaseRenew"] {
        let answer = luxi.ask(method, json!(["3b241101-e2bb-4255-8caf-4136c566a962"]))?;
        ensure!(
            answer["success"] == json!(false) || answer["result"][0] == json!(false),
            "{method}: {answer}"
        );
    }
    Ok(())
}

fn blueprints_and_pools(bed: &Bed) -> Result<()> {
    for (args, words) in [
        (&["blueprint", "add", "b", "--image", "nosuch"][..], "nosuch"),
        (&["blueprint", "add", "b", "--image", ""], "image"),
        (&["blueprint", "add", "b", "--image", "host", "-B", "memory=1M"], "memory"),
        (&["blueprint", "add", "B!", "--image", "host"], "B!"),
        (&["blueprint", "add", pool::NAME, "--image", "host"], pool::NAME),
        (&["blueprint", "add", "b", "--image", "host", "-B", "memory=32M", "--disk", "64M"], "disk"),
        (&["blueprint", "remove", pool::NAME], pool::NAME),
        (&["pool", "add", "p", "--blueprint", "nosuch", "--size", "1"], "nosuch"),
        (&["pool", "add", "p", "--blueprint", pool::NAME, "--size", "1000000"], "1000000"),
        (&["pool", "add", pool::NAME, "--blueprint", pool::NAME, "--size", "1"], pool::NAME),
        (&["slot", "recycle", "nosuch-1"], "nosuch-1"),
    ] {
        let (_, said) = bed.cluster.refused(args)?;
        ensure!(said.contains(words), "{args:?}: '{words}' is not in {said}");
        ensure!(said.lines().count() <= 4, "{args:?}: one clear error, not {said}");
    }
    Ok(())
}

fn task_files(bed: &Bed) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("task.toml");
    let path = dir.path().display().to_string();
    let (code, said) = bed.cluster.refused(&["task", "submit", &path])?;
    ensure!(said.contains("task.toml"), "no task file: {code} {said}");
    for (text, words) in [
        ("pool = ", "task.toml"),
        ("pool = \"quick\"", "execute"),
        ("pool = \"quick\"\nexecute = [{command = \"true\"}]\ntypo = 1", "typo"),
        ("pool = \"nosuch\"\nexecute = [{command = \"true\"}]\n[limits]\nmemory_mib = 64", "nosuch"),
    ] {
        std::fs::write(&file, text)?;
        let (_, said) = bed.cluster.refused(&["task", "submit", &path])?;
        ensure!(said.contains(words), "{text:?}: '{words}' is not in {said}");
    }
    Ok(())
}

/// Entry of a tar archive (ustar): name, kind, link, size as told, content.
pub fn entry(name: &str, kind: u8, link: &str, told: u64, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{told:011o}\0").as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].fill(b' ');
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let padding = content.len().next_multiple_of(512) - content.len();
    [&header[..], content, &vec![0; padding]].concat()
}

/// An archive of these entries.
pub fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

/// Each is refused at its submission, with its reason, and nothing of it comes to lie anywhere.
fn archives(bed: &Bed) -> Result<()> {
    let file = |name: &str| entry(name, b'0', "", 4, b"evil");
    let many: Vec<Vec<u8>> =
        (0..40_000).map(|number| entry(&format!("f{number}"), b'0', "", 0, b"")).collect();
    for (words, bytes) in [
        ("'../evil' is not a plain path", archive(&[file("../evil")])),
        ("'a/../../evil' is not a plain path", archive(&[file("a/../../evil")])),
        ("'/tmp/gantry-evil' is not a plain path", archive(&[file("/tmp/gantry-evil")])),
        ("'link' is neither", archive(&[entry("link", b'2', "/etc", 0, b""), file("link/evil")])),
        ("'link' is neither", archive(&[entry("link", b'1', "/etc/passwd", 0, b"")])),
        ("'null' is neither", archive(&[entry("null", b'3', "", 0, b"")])),
        ("'fifo' is neither", archive(&[entry("fifo", b'6', "", 0, b"")])),
        ("'big'", archive(&[entry("big", b'0', "", 1 << 32, b"small")])),
        ("room for", archive(&[entry("big", b'0', "", 40 << 20, &vec![0; 40 << 20])])),
        ("10000", archive(&many)),
        ("has room for 2032", archive(&many[..3_000])),
        ("'out' is a file", archive(&[file("out")])),
        ("plain tar archive", b"#!/bin/sh\necho evil\n".repeat(100)),
        ("ends within 'good'", archive(&[file("good")])[..514].to_vec()),
    ] {
        refused_archive(bed, words, &bytes).with_context(|| format!("archive: {words}"))?;
    }
    ensure!(!std::path::Path::new("/tmp/gantry-evil").exists(), "a file outside of all VMs");
    let good = archive(&[entry("dir/", b'5', "", 0, b""), file("dir/good")]);
    let mut spec = one("cat dir/good");
    spec["input"] = rpc::upload(bed, &good)?;
    let record = bed.run(&spec)?;
    first_try(&record)?;
    ensure!(record.out(0) == "evil", "{}", record.json());
    Ok(())
}

fn refused_archive(bed: &Bed, words: &str, bytes: &[u8]) -> Result<()> {
    let mut spec = one("find / -name '*evil*' 2>/dev/null; exit 0");
    spec["input"] = rpc::upload(bed, bytes)?;
    refuses(&bed.luxi()?.ask("SubmitTask", json!([spec]))?, words)
}
