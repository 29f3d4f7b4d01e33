//! The verb Failover: the elector is a script, everything else is real.

use crate::play::{LIMIT, Stage, eventually, lives};
use gantry_model::role::Role;
use gantry_proto::boot::{self as wire, FailoverReply, FailoverRequest};
use gantry_rpc::{CallError, Code, Event, Fail, Stream};

const REQUEST: FailoverRequest =
    FailoverRequest { look: false, no_voting: false, ignore_offline: false, patience_ms: None };
const ALL: &[&str] = &["noded", "rconfd", "mond", "wconfd", "luxid", "overseer"];

/// Reads to the end.
async fn ended(mut stream: Stream<wire::Failover>) -> (Vec<String>, Result<FailoverReply, Fail>) {
    let mut lines = Vec::new();
    loop {
        match stream.next().await {
            Ok(Event::Item(line)) => lines.push(line.text),
            Ok(Event::End(reply)) => return (lines, Ok(reply)),
            Err(CallError::Fail(fail)) => return (lines, Err(fail)),
            Err(other) => panic!("{other}"),
        }
    }
}

async fn failover(stage: &Stage, request: FailoverRequest) -> (Vec<String>, Result<FailoverReply, Fail>) {
    let client = stage.client().await;
    ended(client.open::<wire::Failover>(&request).await.unwrap()).await
}

#[tokio::test]
async fn a_won_ballot_is_answered_when_the_masters_daemons_are_ready() {
    let stage = Stage::new();
    stage.role(Role::Master);
    let won = std::fs::read(stage.root.role_file()).unwrap();
    std::fs::write(stage.path().join("won.json"), won).unwrap();
    stage.role(Role::Candidate);
    let _boot = stage.boot();
    stage.ready(&["noded", "rconfd", "mond"]).await;
    // Stopped long ago by hand: a new master's daemons run nevertheless.
    stage.client().await.call::<wire::Stop>(&vec!["luxid".to_owned()], LIMIT).await.unwrap();
    stage.elector(&format!(
        "echo \"options ${{4}} ${{5}}\"; echo '{{\"ballot\": {{}}}}'; mv \"$3/won.json\" '{}'; \
         echo '{{\"won\": {{\"epoch\": 7}}}}'",
        stage.root.role_file().display()
    ));
    let (lines, reply) = failover(&stage, FailoverRequest { no_voting: true, ..REQUEST }).await;
    assert_eq!(reply.unwrap(), FailoverReply { epoch: Some(7) });
    assert_eq!(lines[0], "options --no-voting --yes-do-it");
    assert!(lines[1].contains("epoch 7") && lines.len() == 2, "{lines:?}");
    stage.ready(ALL).await;
}

/// Two candidates won one epoch after the other: the first is told at once, and does not wait for daemons that nothing starts.
#[tokio::test]
async fn one_who_won_and_gave_way_is_told_at_once() {
    let stage = Stage::new();
    stage.role(Role::Candidate);
    let _boot = stage.boot();
    stage.ready(&["noded", "rconfd", "mond"]).await;
    stage.elector("echo '{\"ballot\": {}}'; echo '{\"won\": {\"epoch\": 7}}'");
    let fail = tokio::time::timeout(LIMIT, failover(&stage, REQUEST)).await.expect("at once").1.unwrap_err();
    assert!(fail.code == Code::Stale && fail.text.contains("had won epoch 7"), "{fail:?}");
}

#[tokio::test]
async fn a_refusal_and_a_silent_end_say_why() {
    let stage = Stage::new();
    stage.role(Role::Candidate);
    let _boot = stage.boot();
    stage.elector(
        "echo looks; echo '{\"refused\": {\"code\": \"wrong_input\", \"text\": \"the master is here\"}}'",
    );
    let (lines, reply) = failover(&stage, REQUEST).await;
    let fail = reply.unwrap_err();
    assert_eq!((fail.code, fail.text.as_str()), (Code::Ganeti, "the master is here"));
    assert_eq!(fail.as_ganeti().unwrap().ecode(), Some("wrong_input"));
    assert_eq!(lines, ["looks"]);
    stage.elector("echo looks; exit 3");
    let fail = failover(&stage, REQUEST).await.1.unwrap_err();
    assert!(fail.code == Code::Unknown && fail.text.contains("without a word"), "{fail:?}");
    stage.elector("[ \"$4\" = --look ] && echo '{\"looked\": {}}'");
    let looked = failover(&stage, FailoverRequest { look: true, ..REQUEST }).await.1;
    assert_eq!(looked.unwrap(), FailoverReply { epoch: None });
    stage.ready(&["noded", "rconfd", "mond"]).await;
}

/// Starts a failover, waits for its first line, and gives the elector's pid, which that line is.
async fn begun(stage: &Stage) -> (gantry_rpc::Client, Stream<wire::Failover>, u32) {
    let client = stage.client().await;
    let mut stream = client.open::<wire::Failover>(&REQUEST).await.unwrap();
    let first = tokio::time::timeout(LIMIT, stream.next()).await.unwrap().unwrap();
    let Event::Item(line) = first else { panic!("no line: {first:?}") };
    (client, stream, line.text.parse().unwrap())
}

#[tokio::test]
async fn a_caller_who_goes_ends_a_look_but_no_ballot() {
    let stage = Stage::new();
    stage.role(Role::Candidate);
    let _boot = stage.boot();
    // The elector waits at a pipe nobody opens before the test does.
    let fifo = stage.path().join("go");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    stage.elector("echo $$; read x < \"$3/go\"; touch \"$3/went-on\"");
    let (client, stream, pid) = begun(&stage).await;
    let busy = failover(&stage, REQUEST).await.1.unwrap_err();
    assert_eq!(busy.code, Code::Busy, "one at a time");
    drop((client, stream));
    eventually("the look is ended", async || (!lives(pid)).then_some(())).await;

    stage.elector("echo '{\"ballot\": {}}'; echo $$; read x < \"$3/go\"; echo late; touch \"$3/went-on\"");
    let (client, stream, pid) = eventually("the first is over", async || {
        let client = stage.client().await;
        let mut stream = client.open::<wire::Failover>(&REQUEST).await.unwrap();
        match stream.next().await {
            Ok(Event::Item(line)) => Some((client, stream, line.text.parse::<u32>().unwrap())),
            Ok(Event::End(_)) | Err(_) => None,
        }
    })
    .await;
    drop((client, stream));
    // Boot has handled the caller's end once it answers another that came later; the elector still waits.
    let busy = failover(&stage, REQUEST).await.1.unwrap_err();
    assert!(busy.code == Code::Busy && lives(pid), "{busy:?}");
    std::fs::write(&fifo, "x\n").unwrap();
    let mark = stage.path().join("went-on");
    eventually("the ballot went on", async || mark.exists().then_some(())).await;
}
