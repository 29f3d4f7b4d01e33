//! Copies of logs on a real noded, over real TLS: promises, rows, bodies, the role.

use crate::bed::*;
use gantry_model::ids::Fence;
use gantry_model::role::{Role, RoleFile};
use gantry_proto::copies::{
    AppendReply, AppendRequest, BodyPutRequest, Claim, Digest, Facts, FetchReply, FetchRequest, Log,
    MakeReply, MakeRequest, Place, PromiseRequest, Refusal, Row, RowKind, Term, TokenRequest,
};
use gantry_proto::noded as wire;
use gantry_rpc::tls::Identity;
use gantry_rpc::{Client, Code};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use uuid::Uuid;

const HISTORY: Uuid = Uuid::from_u128(77);
const COPY: Uuid = Uuid::from_u128(88);

fn term(epoch: u64, run: u64) -> Term {
    Term { epoch, run }
}

fn claim(cluster: &Cluster, term: Term) -> Claim {
    let epoch = u8::try_from(term.epoch).expect("a small epoch");
    Claim { cluster: cluster.uuid, history: HISTORY, term, ballot: [epoch; 16], nonce: [3; 16] }
}

fn both(cluster: &Cluster, term: Term) -> Vec<(Log, Claim)> {
    vec![(Log::W, claim(cluster, term)), (Log::Q, claim(cluster, term))]
}

async fn make(client: &Client, cluster: &Cluster, copy_id: Uuid, term: Term) -> MakeReply {
    let look = client.call::<wire::CopyLook>(&(), PATIENCE).await.expect("answered");
    let instead_of = look.copies.into_iter().map(|(log, facts)| (log, facts.copy_id)).collect();
    make_instead(client, cluster, copy_id, term, instead_of).await
}

async fn make_instead(
    client: &Client,
    cluster: &Cluster,
    copy_id: Uuid,
    term: Term,
    instead_of: Vec<(Log, Uuid)>,
) -> MakeReply {
    let request = MakeRequest { claims: both(cluster, term), copy_id, instead_of };
    client.call::<wire::CopyMake>(&request, PATIENCE).await.expect("answered")
}

async fn facts(client: &Client, log: Log) -> Option<Facts> {
    let look = client.call::<wire::CopyLook>(&(), PATIENCE).await.expect("answered");
    look.copies.into_iter().find(|(of, _)| *of == log).map(|(_, facts)| facts)
}

async fn promise(client: &Client, claims: Vec<(Log, Claim)>) -> Vec<Result<Facts, Refusal>> {
    let reply = client.call::<wire::CopyPromise>(&PromiseRequest { claims }, PATIENCE).await;
    reply.expect("answered").answers.into_iter().map(|(_, answer)| answer).collect()
}

fn row(term: Term, idx: u64) -> Row {
    let at = Place { term, idx };
    Row { at, kind: RowKind::Empty, body: Vec::new() }
}

fn rows(cluster: &Cluster, term: Term, prev: Place, count: u64) -> AppendRequest {
    let rows = (1..=count).map(|n| row(term, prev.idx + n)).collect();
    AppendRequest { log: Log::W, claim: claim(cluster, term), prev, rows, commit: 0, absent: Vec::new() }
}

async fn append(client: &Client, request: &AppendRequest) -> AppendReply {
    client.call::<wire::CopyAppend>(request, PATIENCE).await.expect("answered")
}

/// A client that is the node itself.
async fn own(node: &Node) -> Client {
    let identity = Identity::load(&node.root.secrets()).expect("its secrets");
    Client::tls(node.address, &hello(), &identity, node.node).await.expect("connects")
}

fn role(node: &Node) -> RoleFile {
    gantry_rt::files::read_role(&node.root).expect("read").expect("there")
}

#[tokio::test]
async fn a_regular_node_has_no_copies_and_says_so() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    let look = client.call::<wire::CopyLook>(&(), PATIENCE).await.expect("answered");
    assert_eq!((look.node, look.master, look.copies), (node.node, None, Vec::new()));
    let request = PromiseRequest { claims: both(&cluster, term(2, 0)) };
    assert_eq!(code(client.call::<wire::CopyPromise>(&request, PATIENCE).await), Code::NotFound);
}

#[tokio::test]
async fn what_a_copy_promised_and_flushed_outlives_a_kill() {
    let cluster = Cluster::new();
    let (mut node, client) = cluster.member("n1").await;
    assert_eq!(make(&client, &cluster, COPY, term(1, 1)).await, MakeReply::Made);
    assert_eq!(make(&client, &cluster, COPY, term(1, 1)).await, MakeReply::Made);
    assert!(promise(&client, both(&cluster, term(1, 1))).await.iter().all(Result::is_ok));
    let first = rows(&cluster, term(1, 1), Place::default(), 5);
    assert_eq!(append(&client, &first).await, AppendReply::Matched(5));
    assert_eq!(append(&client, &first).await, AppendReply::Matched(5));
    let (old, new) = (None, [9; 16]);
    let token = TokenRequest { log: Log::W, claim: claim(&cluster, term(1, 1)), old, new };
    assert_eq!(client.call::<wire::CopyToken>(&token, PATIENCE).await, Ok(None));
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    let known = facts(&client, Log::W).await.expect("a copy");
    assert_eq!((known.promised, known.last.idx, known.copy_id), (term(1, 1), 5, COPY));
    assert_eq!((known.token, facts(&client, Log::Q).await.expect("a copy").last.idx), (Some([9; 16]), 0));
    // A gap tells where the log ends; a lower term is refused; a higher one replaces what differs.
    let far = rows(&cluster, term(1, 1), Place { term: term(1, 1), idx: 9 }, 1);
    let end = Place { term: term(1, 1), idx: 5 };
    assert_eq!(append(&client, &far).await, AppendReply::Refused(Refusal::Gap(end)));
    let newer = rows(&cluster, term(2, 1), Place { idx: 3, ..end }, 1);
    assert_eq!(append(&client, &newer).await, AppendReply::Matched(4));
    let refused = AppendReply::Refused(Refusal::Promised(term(2, 1)));
    assert_eq!(append(&client, &first).await, refused);
    let fetch = FetchRequest {
        log: Log::W,
        claim: claim(&cluster, term(2, 1)),
        after: Place { idx: 2, ..end },
        bytes_max: 1 << 20,
    };
    let fetched = client.call::<wire::CopyFetch>(&fetch, PATIENCE).await.expect("answered");
    let wanted = vec![row(term(1, 1), 3), row(term(2, 1), 4)];
    assert_eq!(fetched, FetchReply::Rows(wanted));
    // A call that comes late finds another copy than it names; it touches neither log.
    let other = MakeReply::OtherCopy(Log::W, Some(COPY));
    assert_eq!(make_instead(&client, &cluster, Uuid::from_u128(98), term(2, 1), Vec::new()).await, other);
    let half = vec![(Log::W, COPY)];
    let other = MakeReply::OtherCopy(Log::Q, Some(COPY));
    assert_eq!(make_instead(&client, &cluster, Uuid::from_u128(98), term(2, 1), half).await, other);
    assert_eq!(facts(&client, Log::W).await.expect("a copy").copy_id, COPY);
    // An old master's call does not empty the copy; the current one's does, and keeps the old aside.
    let late = make(&client, &cluster, Uuid::from_u128(99), term(1, 1)).await;
    assert_eq!(late, MakeReply::Refused(Log::W, Refusal::Promised(term(2, 1))));
    assert_eq!(make(&client, &cluster, Uuid::from_u128(99), term(2, 1)).await, MakeReply::Made);
    let fresh = facts(&client, Log::W).await.expect("a copy");
    assert_eq!((fresh.copy_id, fresh.last.idx, fresh.token), (Uuid::from_u128(99), 0, None));
    assert!(node.root.lib().join("aside").is_dir());
}

#[tokio::test]
async fn a_victory_is_believed_from_the_node_itself_and_only_as_promised() {
    let cluster = Cluster::new();
    let (mut node, client) = cluster.member("n1").await;
    make(&client, &cluster, COPY, term(1, 0)).await;
    let itself = own(&node).await;
    let won = Fence { epoch: 5, ballot: [5; 16] };
    assert_eq!(code(itself.call::<wire::Elected>(&won, PATIENCE).await), Code::Stale);
    // Half a promise is none.
    promise(&client, vec![(Log::W, claim(&cluster, term(5, 0)))]).await;
    assert_eq!(code(itself.call::<wire::Elected>(&won, PATIENCE).await), Code::Stale);
    promise(&client, both(&cluster, term(5, 0))).await;
    assert_eq!(code(client.call::<wire::Elected>(&won, PATIENCE).await), Code::Denied);
    let rival = Fence { epoch: 5, ballot: [6; 16] };
    assert_eq!(code(itself.call::<wire::Elected>(&rival, PATIENCE).await), Code::Stale);
    itself.call::<wire::Elected>(&won, PATIENCE).await.expect("believed");
    itself.call::<wire::Elected>(&won, PATIENCE).await.expect("again");
    assert_eq!((role(&node).role, role(&node).epoch), (Role::Master, 5));
    // Its own writers' runs depose nobody.
    promise(&client, vec![(Log::W, claim(&cluster, term(5, 1)))]).await;
    assert_eq!(role(&node).role, Role::Master);
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    assert_eq!(client.call::<wire::CopyLook>(&(), PATIENCE).await.expect("answered").master, Some(5));
    // A ballot of others deposes it, and the fence of its VMs stays.
    promise(&client, both(&cluster, term(6, 0))).await;
    assert_eq!((role(&node).role, role(&node).epoch), (Role::Candidate, 6));
    client.call::<wire::Inventory>(&fence(1), PATIENCE).await.expect("the fence is the old one");
}

#[tokio::test]
async fn rows_and_claims_of_a_higher_epoch_depose_a_master() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    make(&client, &cluster, COPY, term(1, 0)).await;
    let itself = own(&node).await;
    for epoch in [3_u8, 5, 7] {
        promise(&client, both(&cluster, term(u64::from(epoch), 0))).await;
        let won = Fence { epoch: epoch.into(), ballot: [epoch; 16] };
        itself.call::<wire::Elected>(&won, PATIENCE).await.expect("believed");
        assert_eq!(role(&node).role, Role::Master);
        match epoch {
            3 => {
                let taken = append(&client, &rows(&cluster, term(4, 1), Place::default(), 1)).await;
                assert_eq!(taken, AppendReply::Matched(1));
            }
            5 => {
                crate::bed::claim(&client, &cluster, &node, fence(6)).await.expect("claimed");
            }
            _ => {
                assert_eq!(code(client.call::<wire::Deposed>(&8, PATIENCE).await), Code::Denied);
                itself.call::<wire::Deposed>(&7, PATIENCE).await.expect("no news");
                assert_eq!(role(&node).role, Role::Master);
                itself.call::<wire::Deposed>(&8, PATIENCE).await.expect("told");
            }
        }
        assert_eq!((role(&node).role, role(&node).epoch), (Role::Candidate, u64::from(epoch) + 1));
    }
}

#[tokio::test]
async fn stepping_down_waits_for_the_writers() {
    let cluster = Cluster::new();
    let (node, client) = cluster.member("n1").await;
    make(&client, &cluster, COPY, term(1, 0)).await;
    promise(&client, both(&cluster, term(5, 0))).await;
    let won = Fence { epoch: 5, ballot: [5; 16] };
    own(&node).await.call::<wire::Elected>(&won, PATIENCE).await.expect("believed");
    let writer = File::create(node.root.lib().join("queue.lock")).expect("made");
    writer.lock().expect("locked");
    let other = client.call::<wire::StepDown>(&4, PATIENCE).await.expect("answered");
    assert!(!other.stepped, "another epoch's master is meant");
    assert_eq!(role(&node).role, Role::Master);
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.call::<wire::StepDown>(&5, PATIENCE).await }
    });
    let candidate = || async { (role(&node).role == Role::Candidate).then_some(()) };
    wait_for("the role", candidate).await;
    assert!(!asked.is_finished(), "a writer still runs");
    writer.unlock().expect("unlocked");
    assert!(asked.await.expect("no panic").expect("answered").stepped);
}

#[tokio::test]
async fn bodies_are_there_when_confirmed_and_begin_anew_after_a_kill() {
    let cluster = Cluster::new();
    let (mut node, client) = cluster.member("n1").await;
    let body: Vec<u8> = (0..1_500_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let digest: Digest = Sha256::digest(&body).into();
    let piece = |from: usize, to: usize| BodyPutRequest {
        digest,
        total: body.len() as u64,
        offset: from as u64,
        bytes: body[from..to].to_vec(),
    };
    let mib = 1 << 20;
    let half = client.call::<wire::BodyPut>(&piece(0, mib), PATIENCE).await.expect("taken");
    assert_eq!((half.next, half.done), (mib as u64, false));
    node.kill_and_start();
    let client = cluster.connect(&node).await;
    let again = client.call::<wire::BodyPut>(&piece(mib, body.len()), PATIENCE).await.expect("answered");
    assert_eq!((again.next, again.done), (0, false));
    assert_eq!(client.call::<wire::BodyHave>(&vec![digest], PATIENCE).await, Ok(vec![digest]));
    client.call::<wire::BodyPut>(&piece(0, mib), PATIENCE).await.expect("taken");
    let whole = client.call::<wire::BodyPut>(&piece(mib, body.len()), PATIENCE).await.expect("taken");
    assert!(whole.done);
    assert_eq!(client.call::<wire::BodyHave>(&vec![digest], PATIENCE).await, Ok(Vec::new()));
    let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(std::fs::read(node.root.blob(&name)).expect("there"), body);
    let mut wrong = piece(0, 10);
    (wrong.digest, wrong.total) = ([1; 32], 10);
    assert_eq!(code(client.call::<wire::BodyPut>(&wrong, PATIENCE).await), Code::BadRequest);
}
