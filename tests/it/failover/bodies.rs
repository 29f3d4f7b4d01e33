//! Damaged bodies on whole clusters: nobody is given one, copies mend each other, `verify` tells what nobody has whole. And
//! how copies stand, as numbers.

use super::{PATIENCE, copies};
use crate::{cluster, step};
use anyhow::{Context, Result, bail, ensure};
use gantry_proto::stream::{self, BlobGet, BlobGetRequest};
use gantry_rpc::{Client, Event, Hello};
use gantry_tests::{VirtualCluster, mond, wait};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// The node that is lost for a while: not the master.
const LOST: usize = 2;

fn body(cluster: &VirtualCluster, node: usize, digest: &str) -> PathBuf {
    cluster.nodes[node].root.join("var/lib/gantry/blob/sha256").join(&digest[..2]).join(digest)
}

/// Flips a byte in the middle.
fn flip(cluster: &VirtualCluster, node: usize, digest: &str) -> Result<()> {
    let path = body(cluster, node, digest);
    let mut bytes = fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(fs::write(path, bytes)?)
}

/// The body as luxid gives it to a person.
fn given(cluster: &VirtualCluster, digest: &str) -> Result<Vec<u8>> {
    let socket = cluster.master().socket("stream.sock");
    let request = BlobGetRequest { digest: digest.to_owned(), offset: 0 };
    let taken = async {
        let client = Client::unix(&socket, &Hello::new(stream::PROTOCOL, "gantry")).await?;
        let mut stream = client.open::<BlobGet>(&request).await?;
        let mut bytes = Vec::new();
        while let Event::Item(piece) = stream.next().await? {
            bytes.extend(piece.bytes);
        }
        Ok(bytes)
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(taken)
}

/// Which nodes have exactly these bytes.
fn whole(cluster: &VirtualCluster, digest: &str, bytes: &[u8]) -> Vec<bool> {
    let whole = |node| fs::read(body(cluster, node, digest)).is_ok_and(|found| found == bytes);
    (0..3).map(whole).collect()
}

#[test]
fn a_damaged_body_is_given_to_nobody_and_mended_from_another_candidate() {
    let cluster = cluster(3);
    let dir = tempfile::tempdir().expect("a directory");
    let (mut digest, mut bytes) = (String::new(), Vec::new());
    let path = dir.path().to_string_lossy().into_owned();
    step("an image lies on all candidates", || {
        copies(&cluster, 3)?;
        fs::write(dir.path().join("file"), "x".repeat(700_000))?;
        cluster.run(&["os", "import", "one", &path])?;
        cluster.run(&["os", "list", "-o", "digest", "--no-headers"])?.trim().clone_into(&mut digest);
        bytes = fs::read(body(&cluster, 0, &digest))?;
        let all = || (whole(&cluster, &digest, &bytes) == [true; 3]).then_some(());
        wait::until("all have it", PATIENCE, all)
    });
    step("the master's is damaged: nobody is given it, and it is mended by itself", || {
        flip(&cluster, 0, &digest)?;
        let Err(why) = given(&cluster, &digest) else { bail!("a damaged body was given") };
        ensure!(why.to_string().contains("damaged on the master"), "{why:#}");
        wait::until("it is given again", PATIENCE, || {
            given(&cluster, &digest).ok().filter(|now| *now == bytes)
        })?;
        cluster.run(&["cluster", "verify"]).map(drop)
    });
    step("all are damaged: verify tells it on each, and with what to do", || {
        (0..3).try_for_each(|node| flip(&cluster, node, &digest))?;
        ensure!(given(&cluster, &digest).is_err(), "a damaged body was given");
        wait::until("verify tells it", PATIENCE, || {
            let (_, said) = cluster.refused(&["cluster", "verify"]).ok()?;
            let told = format!("its copy of body {digest} (an input, an output or an image) is damaged");
            let lines: Vec<&str> = said.lines().filter(|line| line.contains(&told)).collect();
            (lines.len() == 3 && lines.iter().all(|line| line.contains("send it again"))).then_some(())
        })
    });
    step("sent again, it is mended everywhere", || {
        cluster.run(&["os", "import", "one", &path])?;
        let all = || (whole(&cluster, &digest, &bytes) == [true; 3]).then_some(());
        wait::until("all have it", PATIENCE, all)?;
        cluster.run(&["cluster", "verify"]).map(drop)
    });
}

/// The numbers of a family on the master, by node.
fn family(cluster: &VirtualCluster, name: &str) -> Result<BTreeMap<String, f64>> {
    let (status, text) = mond::get(cluster.master(), "/metrics", "")?;
    ensure!(status == 200, "{status}");
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with(name)) {
        let (labels, number) = line.rsplit_once(' ').context("a number")?;
        let node = labels.split("node=\"").nth(1).and_then(|rest| rest.split('"').next());
        found.insert(node.with_context(|| line.to_owned())?.to_owned(), number.parse()?);
    }
    Ok(found)
}

/// What `info` says of a log's copies is what monitoring reads, from both daemons.
#[test]
fn monitoring_sees_a_copy_fall_behind_and_catch_up() {
    let cluster = cluster(3);
    let logs = [("wconfd", "config"), ("luxid", "queue")];
    let lost = cluster.nodes[LOST].name.clone();
    let number = |daemon: &str, what: &str| family(&cluster, &format!("gantry_{daemon}_copy_{what}{{"));
    step("all copies lack nothing, and have what info says", || {
        copies(&cluster, 3)?;
        for (daemon, log) in logs {
            wait::until("the numbers agree", PATIENCE, || {
                let info = cluster.luxi().ok()?.call("QueryMembers", json!([])).ok()?;
                let told = |node: &str, of: &str| {
                    let copies = info[log].as_array().map(Vec::as_slice).unwrap_or_default();
                    copies
                        .iter()
                        .find(|copy| copy["name"] == node)
                        .map_or(Value::Null, |copy| copy[of].clone())
                };
                let at = number(daemon, "position").ok()?;
                let agree = at.iter().all(|(node, at)| told(node, "matched").as_f64() == Some(*at));
                (at.len() == 2 && agree).then_some(())
            })?;
            for what in ["lag_rows", "suspect", "learner"] {
                let found = number(daemon, what)?;
                ensure!(found.len() == 2 && found.values().all(|n| *n == 0.0), "{daemon} {what}: {found:?}");
            }
        }
        Ok(())
    });
    step("one falls silent: it lacks what was done since, and it shows for how long", || {
        cluster.kill_node(LOST)?;
        cluster.run(&["cluster", "add-tags", "without-it"])?;
        for (daemon, _) in logs {
            wait::until("the silence is seen", PATIENCE, || {
                let (lag, silent) =
                    (number(daemon, "lag_rows").ok()?, number(daemon, "last_answer_seconds").ok()?);
                let others = lag.iter().filter(|(node, _)| **node != lost).all(|(_, lag)| *lag == 0.0);
                (lag[&lost] > 0.0 && silent[&lost] > 5.0 && others).then_some(())
            })?;
        }
        Ok(())
    });
    step("it is back: it lacks nothing", || {
        cluster.boot(LOST)?;
        copies(&cluster, 3)?;
        for (daemon, _) in logs {
            wait::until("it has caught up", PATIENCE, || {
                let (lag, silent) =
                    (number(daemon, "lag_rows").ok()?, number(daemon, "last_answer_seconds").ok()?);
                (lag[&lost] == 0.0 && silent[&lost] < 5.0).then_some(())
            })?;
        }
        Ok(())
    });
}
