//! Bad input on `luxi.sock` (`spec/luxi.md` §2 to §4, §10).

use super::{PATIENCE, probe};
use anyhow::{Context, Result, ensure};
use gantry_tests::luxi::{ETX, delay};
use gantry_tests::{Luxi, VirtualCluster, process, wait};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Longest message luxid takes (DESIGN §4).
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// What luxid may hold of all long messages together.
const ALL_MESSAGES_KIB_MAX: u64 = 256 << 10;
/// What luxid may grow by for what is not a long message under way.
const GROWTH_KIB_MAX: u64 = 100 << 10;

/// A failed answer whose result is a text: the request could not be parsed. Then the connection must be closed.
fn parse_failure(luxi: &mut Luxi, sent: &[u8]) -> Result<String> {
    luxi.send(sent)?;
    let shown = String::from_utf8_lossy(&sent[..sent.len().min(80)]).into_owned();
    let answer = luxi.receive()?.with_context(|| format!("closed without a word after {shown:?}"))?;
    ensure!(answer["success"] == json!(false), "{shown:?} → {answer}");
    let text =
        answer["result"].as_str().with_context(|| format!("{shown:?} → {answer}, which is no text"))?;
    ensure!(text.starts_with("Failed to parse request: "), "{shown:?} → {text:?}");
    ensure!(luxi.receive()?.is_none(), "the connection stays open after {shown:?}");
    Ok(text.to_owned())
}

pub fn not_understood(cluster: &VirtualCluster) -> Result<()> {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let bad: [&[u8]; 15] = [
        b"{bad",
        b"",
        b"\n",
        b"null",
        b"[]",
        b"17",
        b"\"text\"",
        b"{}",
        b"{\"method\":\"QueryClusterInfo\"}",
        b"{\"args\":[]}",
        b"{\"method\":7,\"args\":[]}",
        b"{\"method\":\"QueryClusterInfo\",\"args\":[]} trailing",
        b"{\"method\":\"Quer\xff\xfe\",\"args\":[]}",
        b"\xc3\x28",
        deep.as_bytes(),
    ];
    for bytes in bad {
        let mut luxi = cluster.luxi()?;
        parse_failure(&mut luxi, &[bytes, &[ETX]].concat())?;
    }
    probe(cluster)
}

fn request(method: &str, args: &Value) -> Vec<u8> {
    let mut bytes = json!({"method": method, "args": args}).to_string().into_bytes();
    bytes.push(ETX);
    bytes
}

/// Requests that are JSON but not LUXI are parse failures; those that are LUXI but wrong are Ganeti's errors, and the
/// connection goes on.
pub fn wrong_values(cluster: &VirtualCluster) -> Result<()> {
    let unparsed = [
        ("NoSuchMethod", json!([])),
        ("Query", json!(["nosuchkind", ["name"], null])),
        ("Query", json!(["node", "name", null])),
        ("Query", json!(["node", ["name"], ["nosuchoperator", "name", "x"]])),
        ("Query", json!(["node", ["name"], ["=~", "name", "(unclosed"]])),
        ("Query", json!(["node"])),
        ("QueryTags", json!(["nosuchkind", "x"])),
        ("QueryTags", json!(7)),
        ("SubmitJob", json!(["x"])),
        ("SubmitJob", json!([[7]])),
        ("SubmitManyJobs", json!([[[["x"]]]])),
        ("WaitForJobChange", json!([1, ["status"], null, null])),
        ("WaitForJobChange", json!(["x", ["status"], null, null, 1])),
        ("CancelJob", json!([-1, false])),
        ("CancelJob", json!([1.5, false])),
        ("CancelJob", json!([1, "yes"])),
        ("ChangeJobPriority", json!([1, 20])),
        ("ChangeJobPriority", json!([1, null])),
        ("SetDrainFlag", json!(["on"])),
        ("AutoArchiveJobs", json!([{}, 1])),
        ("QueryClusterInfo", json!({})),
    ];
    for (method, args) in unparsed {
        let mut luxi = cluster.luxi()?;
        let text = parse_failure(&mut luxi, &request(method, &args))?;
        ensure!(text.len() < 2_000, "{method} {args}: an error of {} bytes", text.len());
    }
    let mut luxi = cluster.luxi()?;
    let refused = [
        ("SubmitJob", json!([[]])),
        ("SubmitJob", json!([[{"OP_ID": "OP_NO_SUCH", "reason": []}]])),
        ("SubmitJob", json!([[{"reason": []}]])),
        ("SubmitJob", json!([[{"OP_ID": "OP_TEST_DELAY", "reason": []}]])),
        ("SubmitJob", json!([[{"OP_ID": "OP_TEST_DELAY", "duration": "long", "reason": []}]])),
        ("SubmitJob", json!([[{"OP_ID": "OP_TEST_DELAY", "duration": 1, "nosuch": 1, "reason": []}]])),
        ("SubmitJob", json!([[{"OP_ID": "OP_TEST_DELAY", "duration": 1, "priority": 5, "reason": []}]])),
        (
            "SubmitJob",
            json!([[{"OP_ID": "OP_TEST_DELAY", "duration": 1, "depends": [[999_999, "x"]], "reason": []}]]),
        ),
        ("Query", json!(["cluster", ["name"], null])),
        ("QueryNodes", json!([[], ["nosuch"], false])),
        ("QueryNodes", json!([[], ["name"], true])),
        ("Query", json!(["node", ["name"], ["==", "nosuch", "x"]])),
        ("Query", json!(["job", ["id"], ["&", ["==", "id", "x"]]])),
        ("WaitForJobChange", json!([999_999, ["status"], null, null, 1])),
        ("PickupJob", json!([1])),
        ("DeleteFilter", json!(["nosuch"])),
    ];
    let jobs = luxi.query("job", &["id"], Value::Null)?;
    for (method, args) in refused {
        luxi.send(&request(method, &args))?;
        let answer = luxi.receive()?.with_context(|| format!("{method} {args}: closed"))?;
        ensure!(answer["success"] == json!(false), "{method} {args}: {answer}");
        if answer["result"].is_string() {
            // Ganeti's way for opcodes it cannot read; the connection is at its end then.
            ensure!(luxi.receive()?.is_none(), "{method} {args}: open after {answer}");
            luxi = cluster.luxi()?;
            continue;
        }
        ensure!(
            answer["result"][0].is_string() && answer["result"][1].is_array(),
            "{method} {args}: {answer}"
        );
    }
    let tags: Vec<String> = (0..30_000).map(|number| format!("{number:0100}")).collect();
    let large =
        json!([[{"OP_ID": "OP_TAGS_SET", "kind": "cluster", "name": null, "tags": tags, "reason": []}]]);
    let answer = luxi.ask("SubmitJob", large)?;
    ensure!(answer["success"] == json!(false), "an opcode of 3 MB: {answer}");
    let mut luxi = cluster.luxi()?;
    ensure!(answer.to_string().len() < 2_000, "an error of {} bytes", answer.to_string().len());
    ensure!(luxi.query("job", &["id"], Value::Null)? == jobs, "a refused submission leaves no job");
    ensure!(luxi.call("SubmitManyJobs", json!([[]]))? == json!([]), "the connection goes on");
    probe(cluster)
}

/// Refused at submission or as the job's error, in Ganeti's words; nothing of it is done.
pub fn wrong_names(cluster: &VirtualCluster) -> Result<()> {
    let instance = |name: &str| {
        json!({"OP_ID": "OP_INSTANCE_CREATE", "instance_name": name, "mode": "create", "disk_template": "diskless",
               "disks": [], "nics": [], "os_type": "noop", "pnode": cluster.master().name, "reason": []})
    };
    let group = |name: &str| json!({"OP_ID": "OP_GROUP_ADD", "group_name": name, "reason": []});
    let tag = |tag: &str| json!({"OP_ID": "OP_TAGS_SET", "kind": "cluster", "name": null, "tags": [tag], "reason": []});
    let long = "x".repeat(300);
    let ops = [
        instance(""),
        instance("-x"),
        instance("a..b"),
        instance("../../etc/passwd"),
        instance("white space"),
        instance("null\u{0}byte"),
        instance("ünïcödé"),
        instance(&long),
        group(""),
        group("a/b"),
        group(&long),
        group("6f1d4b44-0e53-4bb4-9c2a-6d4a3f0f5a11"),
        tag(""),
        tag("white space"),
        tag("new\nline"),
        tag(&"t".repeat(129)),
    ];
    let mut luxi = cluster.luxi()?;
    for op in ops {
        let answer = luxi.ask("SubmitJob", json!([[op]]))?;
        if answer["success"] == json!(false) {
            if answer["result"].is_string() {
                luxi = cluster.luxi()?;
            }
            continue;
        }
        let job = answer["result"].as_u64().context("no job id")?;
        let status = luxi.wait(job, PATIENCE)?;
        let rows = luxi.call("QueryJobs", json!([[job], ["opresult"]]))?;
        ensure!(status == "error", "{op}: job {job} is {status}");
        let error = &rows[0][0][0];
        ensure!(matches!(error[0].as_str(), Some("OpPrereqError" | "TagError")), "{op}: {error}");
    }
    ensure!(luxi.query("instance", &["name"], Value::Null)?.is_empty(), "no instance was made");
    ensure!(luxi.query("group", &["name"], Value::Null)? == [[json!("default")]], "no group was made");
    ensure!(luxi.call("QueryTags", json!(["cluster", ""]))? == json!([]), "no tag was made");
    probe(cluster)
}

pub fn halves(cluster: &VirtualCluster) -> Result<()> {
    let whole = request("SubmitJob", &json!([[delay(0.0)]]));
    let jobs = cluster.luxi()?.query("job", &["id"], Value::Null)?;
    for cut in [1, whole.len() / 2, whole.len() - 1] {
        let mut luxi = cluster.luxi()?;
        luxi.send(&whole[..cut])?;
        drop(luxi);
    }
    ensure!(cluster.luxi()?.query("job", &["id"], Value::Null)? == jobs, "half a request makes no job");
    // Byte by byte is slow, but right.
    let mut luxi = cluster.luxi()?;
    for byte in &whole {
        luxi.send(&[*byte])?;
    }
    let answer = luxi.receive()?.context("closed")?;
    ensure!(answer["success"] == json!(true), "{answer}");
    probe(cluster)
}

pub fn several_at_once(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let names = ["cluster_name", "master_node", "drain_flag", "nosuch"];
    let mut bytes = Vec::new();
    for round in 0..50 {
        bytes.extend(request("QueryConfigValues", &json!([[names[round % names.len()]]])));
    }
    bytes.extend(request("QueryTags", &json!(["node", "nosuch"])));
    bytes.extend(request("QueryConfigValues", &json!([["cluster_name"]])));
    luxi.send(&bytes)?;
    let values = [json!("cluster.gantry.test"), json!("node1.gantry.test"), json!(false), Value::Null];
    for round in 0..50 {
        let answer = luxi.receive()?.context("closed")?;
        ensure!(answer["result"] == json!([values[round % values.len()]]), "answer {round}: {answer}");
    }
    ensure!(luxi.receive()?.context("closed")?["success"] == json!(false), "the wrong one's turn");
    ensure!(luxi.receive()?.context("closed")?["success"] == json!(true), "and the one after it");
    // A long wait on one connection holds up no other.
    let job = cluster.luxi()?.submit(&[delay(30.0)])?;
    let mut waiting = cluster.luxi()?;
    wait::until("the job runs", PATIENCE, || (waiting.status(job).ok()? == "running").then_some(()))?;
    waiting.send(&request("WaitForJobChange", &json!([job, ["status"], ["running"], null, 60])))?;
    probe(cluster)?;
    cluster.luxi()?.call("CancelJob", json!([job, true]))?;
    let answer = waiting.receive()?.context("closed")?;
    ensure!(answer["result"][0] == json!(["error"]), "{answer}");
    Ok(())
}

/// Sends so many bytes without an end; luxid may close in the middle.
fn flood(luxi: &mut Luxi, bytes: usize) -> Result<()> {
    let chunk = vec![b'x'; 1 << 20];
    luxi.send(b"\"")?;
    let mut sent = 1;
    while sent < bytes {
        let part = &chunk[..chunk.len().min(bytes - sent)];
        match luxi.send(part) {
            Ok(()) => sent += part.len(),
            Err(_) if sent >= MESSAGE_BYTES_MAX => return Ok(()),
            Err(why) => return Err(why.context(format!("after {sent} bytes"))),
        }
    }
    Ok(())
}

pub fn too_long(cluster: &VirtualCluster) -> Result<()> {
    let luxid = cluster.master().pid("luxid").context("luxid has a pid")?;
    let before = process::peak_kib(luxid)?;
    for _ in 0..3 {
        let mut luxi = cluster.luxi()?;
        flood(&mut luxi, MESSAGE_BYTES_MAX + (1 << 20))?;
        // The error may be lost when luxid closes while we still write.
        if let Ok(Some(answer)) = luxi.receive() {
            ensure!(answer["success"] == json!(false), "{answer}");
            ensure!(luxi.receive().map_or(true, |more| more.is_none()), "the connection stays open");
        }
        drop(luxi);
        probe(cluster)?;
    }
    let (peak, now) = (process::peak_kib(luxid)?, process::rss_kib(luxid)?);
    let limit = u64::try_from(MESSAGE_BYTES_MAX >> 10)?;
    ensure!(peak <= before + 2 * limit + GROWTH_KIB_MAX, "luxid's peak grew from {before} to {peak} KiB");
    ensure!(now <= before + GROWTH_KIB_MAX, "luxid keeps {now} KiB, had {before}");
    // As long as allowed is allowed.
    let mut luxi = cluster.luxi()?;
    let mut bytes = request("QueryConfigValues", &json!([["cluster_name"]]));
    let text = bytes.len() - 1;
    bytes.truncate(text);
    bytes.resize(MESSAGE_BYTES_MAX, b' ');
    bytes.push(ETX);
    luxi.send(&bytes)?;
    let answer = luxi.receive()?.context("closed")?;
    ensure!(answer["result"] == json!(["cluster.gantry.test"]), "{answer}");
    Ok(())
}

/// The queue takes so many live jobs and then says that it is full; those it took are all right.
pub fn full_queue(cluster: &VirtualCluster) -> Result<()> {
    const LIVE_JOBS_MAX: usize = 5_000;
    let mut luxi = cluster.luxi()?;
    luxi.call("AutoArchiveJobs", json!([-1, 60]))?;
    let holder = luxi.submit(&[delay(600.0)])?;
    let waiting = json!([{"OP_ID": "OP_TEST_DELAY", "duration": 0.0, "depends": [[holder, ["success"]]], "reason": []}]);
    let taken = luxi.call("SubmitManyJobs", json!([vec![&waiting; LIVE_JOBS_MAX - 1]]))?;
    let taken = taken.as_array().context("no list")?;
    ensure!(taken.iter().all(|pair| pair[0] == json!(true)), "refused: {:?}", taken.last());
    let answer = luxi.ask("SubmitJob", json!([waiting]))?;
    ensure!(answer["success"] == json!(false) && answer["result"] == json!(["JobQueueFull", []]), "{answer}");
    let more = luxi.call("SubmitManyJobs", json!([[waiting]]))?;
    ensure!(more[0][0] == json!(false) && more[0][1].is_string(), "{more}");
    ensure!(
        luxi.call("QueryJobs", json!([null, ["id"]]))?.as_array().map(Vec::len) == Some(LIVE_JOBS_MAX),
        "jobs"
    );
    // What all wait for does not come: they end, each with its reason.
    luxi.call("CancelJob", json!([holder, true]))?;
    for pair in taken {
        let id = pair[1].as_u64().context("an id")?;
        ensure!(luxi.wait(id, PATIENCE)? == "error", "job {id}");
    }
    luxi.call("AutoArchiveJobs", json!([-1, 60]))?;
    probe(cluster)
}

/// More long messages under way than there is room for: the later ones wait, short ones pass, and memory is bounded.
pub fn many_long(cluster: &VirtualCluster) -> Result<()> {
    let luxid = cluster.master().pid("luxid").context("luxid has a pid")?;
    let before = process::rss_kib(luxid)?;
    let chunk = vec![b' '; 1 << 20];
    let mut open = Vec::new();
    for _ in 0..7 {
        let mut stream = UnixStream::connect(cluster.master().socket("luxi.sock"))?;
        stream.set_write_timeout(Some(Duration::from_millis(300)))?;
        // Sixty of the 64 allowed, unless luxid takes no more for now.
        let taken = (0..60).take_while(|_| stream.write_all(&chunk).is_ok()).count();
        open.push((stream, taken));
    }
    probe(cluster)?;
    let now = process::rss_kib(luxid)?;
    let taken: Vec<usize> = open.iter().map(|(_, taken)| *taken).collect();
    ensure!(
        now <= before + ALL_MESSAGES_KIB_MAX + GROWTH_KIB_MAX,
        "luxid grew from {before} to {now} KiB for {taken:?} MiB"
    );
    ensure!(taken.iter().any(|taken| *taken < 60), "luxid took all of {taken:?} MiB");
    drop(open);
    wait::until("luxid gives the memory back", PATIENCE, || {
        (process::rss_kib(luxid).ok()? <= before + GROWTH_KIB_MAX).then_some(())
    })?;
    probe(cluster)
}

pub fn idle_connections(cluster: &VirtualCluster) -> Result<()> {
    const MANY: usize = 1_000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let luxid = cluster.master().pid("luxid").context("luxid has a pid")?;
    let before = process::rss_kib(luxid)?;
    let mut idle = Vec::new();
    for number in 0..MANY {
        idle.push(cluster.luxi().with_context(|| format!("connection {number}"))?);
    }
    // Each of them is served, and half of them in the middle of a message.
    for (number, luxi) in idle.iter_mut().enumerate() {
        if number % 2 == 0 {
            luxi.send(b"{\"method\":")?;
        } else {
            luxi.call("QueryConfigValues", json!([["cluster_name"]]))?;
        }
    }
    for _ in 0..10 {
        probe(cluster)?;
    }
    let now = process::rss_kib(luxid)?;
    ensure!(now <= before + GROWTH_KIB_MAX, "luxid grew from {before} to {now} KiB with {MANY} connections");
    for luxi in idle.iter_mut().step_by(2) {
        luxi.send(b"\"QueryConfigValues\",\"args\":[[\"cluster_name\"]]}\x03")?;
        let answer = luxi.receive()?.context("closed")?;
        ensure!(answer["success"] == json!(true), "{answer}");
    }
    drop(idle);
    probe(cluster)
}
