//! Copies that are not what they were (P1.11), and bodies that rows name (P3.4).

use crate::world::*;
use gantry_copies::wire;
use gantry_model::root::Root;
use gantry_proto::copies::{Log, MakeReply, MakeRequest};
use gantry_store::core::list::List;
use gantry_store::{Batch, LogKind, Member};
use std::path::Path;

fn files(root: &Root) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(root.lib()).unwrap().map(|e| e.unwrap().path());
    entries.filter(|p| p.is_file() && !p.ends_with("role.json")).collect()
}

fn save(root: &Root, to: &Path) {
    for file in files(root) {
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

fn restore(root: &Root, from: &Path) {
    for file in files(root) {
        std::fs::remove_file(file).unwrap();
    }
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, root.lib().join(file.file_name().unwrap())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_image_is_suspect_and_counts_no_more() {
    let world = World::new(3).await;
    let image = tempfile::tempdir().unwrap();
    let leader = world.lead(0, LogKind::W).await.unwrap();
    leader.put("one").await;
    let given = || world.facts(1, Log::W);
    while given().await.token.is_none() {
        leader.put("until the token is given").await;
    }
    world.nodes[1].restart(|root| save(root, image.path())).await;
    // It comes back as it was: sound. Then it gets on, and comes back older than it was.
    let token = given().await.token;
    leader.put("two").await;
    let lag = || leader.handle.status().iter().find(|c| c.node == world.nodes[1].uuid).map(|c| c.lag);
    world.cut(1);
    leader.put("three").await;
    until("the loss", || leader.handle.status().iter().any(|c| c.why.contains("no way"))).await;
    world.heal();
    while given().await.token == token {
        leader.put("until another token is given").await;
    }
    until("all", || lag() == Some(0)).await;
    world.cut(1);
    world.nodes[1].restart(|root| restore(root, image.path())).await;
    until("the loss", || leader.handle.status().iter().any(|c| c.why.contains("no way"))).await;
    world.heal();
    let suspect = || leader.handle.status().iter().any(|c| c.suspect.is_some());
    until("suspicion", suspect).await;
    // With the third away there is no majority left.
    leader.put("four").await;
    world.cut(2);
    let idx = leader.started.writer.append(batch("five", 1)).unwrap();
    assert!(leader.handle.confirm().await.is_err());
    assert!(leader.started.writer.progress().borrow().committed < idx);
    world.heal();
    assert!(committed(&leader.started.writer, idx).await);
}

/// Changes one byte wherever a file holds `text`.
fn flip(path: &Path, text: &[u8]) {
    let mut bytes = std::fs::read(path).unwrap();
    let found: Vec<usize> =
        (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text)).collect();
    assert!(!found.is_empty(), "{} does not hold {text:?}", path.display());
    found.into_iter().for_each(|at| bytes[at] ^= 0x15);
    std::fs::write(path, bytes).unwrap();
}

/// A log's header, vote or format: the copy is suspect, the other log of its node is not, and both commands of the cure work.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_which_nothing_can_be_read_is_suspect_and_made_anew() {
    for (log, kind, file) in [(Log::W, LogKind::W, "wconf.log"), (Log::Q, LogKind::Q, "queue.data")] {
        let other = if log == Log::W { Log::Q } else { Log::W };
        for what in ["header", "vote", "format"] {
            let world = World::new(3).await;
            let (w, q) = (world.lead(0, LogKind::W).await.unwrap(), world.lead(0, LogKind::Q).await.unwrap());
            for leader in [&w, &q] {
                leader.put("one").await;
                until("all", || leader.handle.status().iter().all(|copy| copy.lag == 0)).await;
            }
            let leader = if log == Log::W { &w } else { &q };
            let history = world.history.to_string();
            let text = match what {
                "header" => b"SQLite format 3".as_slice(),
                "vote" => history.as_bytes(),
                _ => file.as_bytes(),
            };
            world.nodes[1].restart(|root| flip(&root.lib().join(file), text)).await;
            let why = || {
                let copy =
                    leader.handle.status().into_iter().find(|c| c.node == world.nodes[1].uuid).unwrap();
                copy.suspect
            };
            until("suspicion", || why().is_some_and(|why| why.contains("its files are damaged"))).await;
            let facts = world.facts(1, log).await;
            assert!(facts.copy_id.is_nil() && facts.damaged.unwrap().contains("damaged"), "{what} of {file}");
            let sound = world.facts(1, other).await;
            assert_eq!((sound.damaged, sound.copy_id), (None, world.members[1].copy_id));
            // It can't be master, and says why.
            assert!(world.elect(1).await.unwrap_err().contains("damaged"), "{what} of {file}");
            // Out, and in again as a new one.
            let rest = vec![world.members[0], world.members[2]];
            let writer = &leader.started.writer;
            let at = writer.append_list(List { n: 2, prev: 1, members: rest }).unwrap();
            assert!(committed(writer, at).await);
            let learner = Member { copy_id: uuid::Uuid::new_v4(), ..world.members[1] };
            let claim = |leader: &Leader| wire::claim(&leader.handle.claim());
            let request = MakeRequest {
                claims: vec![(Log::W, claim(&w)), (Log::Q, claim(&q))],
                copy_id: learner.copy_id,
                instead_of: vec![(other, world.members[1].copy_id)],
            };
            let noded = world.nodes[1].copies();
            assert_eq!(noded.make(request.clone()).await.unwrap(), MakeReply::Made);
            assert_eq!(noded.make(request).await.unwrap(), MakeReply::Made, "repeated");
            assert!(world.nodes[1].root.lib().join(format!("aside/{kind:?}-copy/{file}")).exists());
            leader.handle.add_learner(learner);
            until("the new copy", || {
                leader
                    .handle
                    .status()
                    .iter()
                    .any(|c| c.copy_id == learner.copy_id && c.answered_ms_ago.is_some() && c.lag == 0)
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_lie_on_a_copy_before_it_confirms_the_row() {
    use sha2::Digest as _;
    let world = World::new(3).await;
    let leader = world.lead(0, LogKind::Q).await.unwrap();
    let body: Vec<u8> = (0..2_500_000_u32).map(|n| n.to_le_bytes()[n as usize % 4]).collect();
    let digest: [u8; 32] = sha2::Sha256::digest(&body).into();
    let name = digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let path = world.nodes[0].root.blob(&name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, &body).unwrap();
    let idx = leader.started.writer.append(Batch { bodies: vec![digest], ..batch("names it", 1) }).unwrap();
    assert!(committed(&leader.started.writer, idx).await);
    let there =
        |nth: usize| std::fs::read(world.nodes[nth].root.blob(&name)).is_ok_and(|found| found == body);
    assert!(there(1) || there(2), "a majority has it");
    until("all have it", || there(1) && there(2)).await;
    // Nothing names it any more.
    let idx = leader.started.writer.append(Batch { dropped: vec![digest], ..batch("drops it", 1) }).unwrap();
    assert!(committed(&leader.started.writer, idx).await);
    until("it is gone", || !there(1) && !there(2)).await;
}

/// Writes a body into a node's store.
fn keep_body(root: &Root, body: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    let digest: [u8; 32] = sha2::Sha256::digest(body).into();
    let path = body_path(root, &digest);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, body).unwrap();
    digest
}

fn body_path(root: &Root, digest: &[u8; 32]) -> std::path::PathBuf {
    root.blob(&digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn names(leader: &Leader, digests: Vec<[u8; 32]>) {
    leader.handle.set_named(std::sync::Arc::new(move || {
        let digests = digests.clone();
        Box::pin(async move { digests })
    }));
}

/// A copy that was fed a snapshot has seen no row that names them; a master may have been in the minority that lacked them.
#[tokio::test(flavor = "multi_thread")]
async fn both_sides_come_to_have_the_bodies_that_objects_name() {
    let world = World::new(3).await;
    let large: Vec<u8> = (0..2_500_000_u32).map(|n| n.to_le_bytes()[n as usize % 4]).collect();
    let ours = keep_body(&world.nodes[0].root, &large);
    let theirs = keep_body(&world.nodes[1].root, &large[1..]);
    let damaged = keep_body(&world.nodes[1].root, b"a good one");
    std::fs::write(body_path(&world.nodes[1].root, &damaged), b"a bad one").unwrap();
    let leader = world.lead(0, LogKind::Q).await.unwrap();
    names(&leader, vec![ours, theirs, damaged, [9; 32]]);
    let same = |nth: usize, digest: &[u8; 32], body: &[u8]| {
        std::fs::read(body_path(&world.nodes[nth].root, digest)).is_ok_and(|found| found == body)
    };
    until("all have both", || (0..3).all(|nth| same(nth, &ours, &large) && same(nth, &theirs, &large[1..])))
        .await;
    // Bodies travel beside the rows: this one's turn makes the directory.
    let dir = body_path(&world.nodes[0].root, &damaged).parent().unwrap().to_owned();
    let empty = || std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_none());
    until("what is damaged is not taken, and nothing is left of it", empty).await;
    leader.put("work goes on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_was_dropped_holds_no_later_copy_up() {
    let world = World::new(3).await;
    let body = keep_body(&world.nodes[0].root, b"soon gone");
    let leader = world.lead(0, LogKind::Q).await.unwrap();
    world.cut(2);
    let writer = &leader.started.writer;
    let idx = writer.append(Batch { bodies: vec![body], ..batch("names it", 1) }).unwrap();
    assert!(committed(writer, idx).await);
    let idx = writer.append(Batch { dropped: vec![body], ..batch("drops it", 1) }).unwrap();
    assert!(committed(writer, idx).await);
    std::fs::remove_file(body_path(&world.nodes[0].root, &body)).unwrap();
    world.heal();
    until("the late copy has all", || {
        leader.handle.status().iter().all(|copy| copy.lag == 0 && copy.suspect.is_none())
    })
    .await;
    assert!(!body_path(&world.nodes[2].root, &body).exists());
}

/// The master's own copy counts for rows it takes over, so it has their bodies first.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_master_has_the_bodies_of_rows_it_takes_over() {
    let world = World::new(3).await;
    let body = keep_body(&world.nodes[0].root, b"kept");
    let gone = keep_body(&world.nodes[0].root, b"dropped again");
    let leader = world.lead(0, LogKind::Q).await.unwrap();
    let w = world.lead(0, LogKind::W).await.unwrap();
    // The next master is in the minority that has neither the rows nor the bodies.
    world.cut(1);
    let writer = leader.started.writer.clone();
    let idx = writer.append(Batch { bodies: vec![body, gone], ..batch("names them", 1) }).unwrap();
    assert!(committed(&writer, idx).await);
    let idx = writer.append(Batch { dropped: vec![gone], ..batch("drops one", 1) }).unwrap();
    assert!(committed(&writer, idx).await);
    until("the copy to drop it", || !body_path(&world.nodes[2].root, &gone).exists()).await;
    leader.end().await;
    w.end().await;
    world.heal();
    world.cut(0);
    world.elect(1).await.unwrap();
    // Nobody says what the objects name: the rows alone do.
    let next = world.lead(1, LogKind::Q).await.unwrap();
    assert!(next.keys().contains("names them"));
    assert!(body_path(&world.nodes[1].root, &body).exists(), "there before the first row is committed");
    assert!(!body_path(&world.nodes[1].root, &gone).exists());
}

/// A copy that wants a body which an object names, and which the master lacks, is not told to do without.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_an_object_names_is_never_called_absent() {
    let world = World::new(3).await;
    let body = keep_body(&world.nodes[0].root, b"needed");
    let leader = world.lead(0, LogKind::Q).await.unwrap();
    names(&leader, vec![body]);
    world.cut(2);
    let writer = &leader.started.writer;
    let idx = writer.append(Batch { bodies: vec![body], ..batch("names it", 1) }).unwrap();
    assert!(committed(writer, idx).await);
    // Lost here and at the copy that had it, the last one must not confirm without it.
    let aside = world.nodes[1].root.lib().join("moved");
    std::fs::rename(body_path(&world.nodes[1].root, &body), &aside).unwrap();
    std::fs::remove_file(body_path(&world.nodes[0].root, &body)).unwrap();
    world.heal();
    let third = world.nodes[2].uuid;
    let of_third = || leader.handle.status().into_iter().find(|copy| copy.node == third).unwrap();
    until("it to say what it waits for", || of_third().why.contains("takes from another copy")).await;
    assert!(of_third().matched < idx);
    // Found again, it goes to all.
    std::fs::rename(&aside, body_path(&world.nodes[1].root, &body)).unwrap();
    until("it to have all", || of_third().matched >= idx).await;
    assert!(body_path(&world.nodes[2].root, &body).exists());
}

/// Rows go to a copy that returns while a large body is still on its way to it: it counts at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_keeps_no_copy_from_counting() {
    let world = World::new(3).await;
    // Forty pieces, each of which takes a while.
    let large = keep_body(&world.nodes[0].root, &vec![7; 40 << 20]);
    let leader = world.lead(0, LogKind::Q).await.unwrap();
    world.storm(0, 100, 1);
    names(&leader, vec![large]);
    leader.put("beside it").await;
    let last = *leader.started.writer.appended().borrow();
    until("both copies to have the row", || leader.handle.status().iter().all(|copy| copy.matched >= last))
        .await;
    let there = |nth: usize| body_path(&world.nodes[nth].root, &large).exists();
    assert!(!there(1) && !there(2), "the body is still on its way");
    world.storm(0, 0, 1);
    until("the body to be there", || there(1) && there(2)).await;
}

/// A flipped byte on any disk reaches no other copy: who reads such a body puts it aside, and is given a whole one.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_body_is_put_aside_and_mended_from_another_copy() {
    let world = World::new(3).await;
    let good: Vec<u8> = (0..1_500_000_u32).map(|n| n.to_le_bytes()[n as usize % 4]).collect();
    let mut bad = good.clone();
    bad[1_234_567] ^= 1;
    let body = keep_body(&world.nodes[1].root, &good);
    let path = |nth: usize| body_path(&world.nodes[nth].root, &body);
    let whole = |nth: usize| std::fs::read(path(nth)).is_ok_and(|found| found == good);
    // The master's is damaged, and the third has none: it would be given the damaged one.
    keep_body(&world.nodes[0].root, &good);
    std::fs::write(path(0), &bad).unwrap();
    let leader = world.lead(0, LogKind::Q).await.unwrap();
    names(&leader, vec![body]);
    until("all have it whole", || (0..3).all(whole)).await;
    // A copy's is damaged where the master has none: it says that it has none either, and is given one.
    std::fs::write(path(1), &bad).unwrap();
    world.cut(2);
    std::fs::remove_file(path(0)).unwrap();
    leader.handle.take_bodies_anew();
    until("the copy put it aside", || !path(1).exists()).await;
    world.heal();
    until("all have it whole again", || (0..3).all(whole)).await;
    // Whoever finds one damaged on the master only puts it aside.
    std::fs::write(path(0), &bad).unwrap();
    let name = gantry_body::hex(&body);
    assert!(gantry_body::set_aside(&world.nodes[0].root, &name).unwrap());
    until("the master takes a whole one", || whole(0)).await;
}

/// Files that are removed while noded has them open: the copy is suspect as soon as it is next spoken to, and noded goes on through
/// both commands of the cure.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_files_are_removed_under_noded_is_suspect_and_made_anew() {
    let world = World::new(3).await;
    let (w, q) = (world.lead(0, LogKind::W).await.unwrap(), world.lead(0, LogKind::Q).await.unwrap());
    for leader in [&w, &q] {
        leader.put("one").await;
        until("all", || leader.handle.status().iter().all(|copy| copy.lag == 0)).await;
    }
    for file in files(&world.nodes[1].root) {
        let name = file.file_name().unwrap().to_str().unwrap();
        if ["wconf.log", "queue.data"].iter().any(|log| name.starts_with(log)) {
            std::fs::remove_file(&file).unwrap();
        }
    }
    for leader in [&w, &q] {
        leader.put("two").await;
        let why =
            || leader.handle.status().into_iter().find(|c| c.node == world.nodes[1].uuid).unwrap().suspect;
        until("suspicion", || why().is_some_and(|why| why.contains("its files are damaged"))).await;
    }
    for log in [Log::W, Log::Q] {
        let facts = world.facts(1, log).await;
        assert!(facts.damaged.is_some_and(|why| why.contains("removed under the daemon")));
        assert_eq!(facts.copy_id, world.members[1].copy_id, "it still says which copy it was");
    }
    assert!(world.elect(1).await.unwrap_err().contains("damaged"));
    // Out, and in again as a new one: what it is asked for is what it shows.
    let rest = vec![world.members[0], world.members[2]];
    let at = w.started.writer.append_list(List { n: 2, prev: 1, members: rest }).unwrap();
    assert!(committed(&w.started.writer, at).await);
    let learner = Member { copy_id: uuid::Uuid::new_v4(), ..world.members[1] };
    let noded = world.nodes[1].copies();
    let shown = noded.look().await.unwrap().copies;
    let request = MakeRequest {
        claims: vec![(Log::W, wire::claim(&w.handle.claim())), (Log::Q, wire::claim(&q.handle.claim()))],
        copy_id: learner.copy_id,
        instead_of: shown.into_iter().map(|(log, facts)| (log, facts.copy_id)).collect(),
    };
    assert_eq!(noded.make(request).await.unwrap(), MakeReply::Made);
    for leader in [&w, &q] {
        leader.handle.add_learner(learner);
        let is_fed = |c: &gantry_copies::CopyStatus| {
            c.copy_id == learner.copy_id && c.answered_ms_ago.is_some() && c.lag == 0
        };
        until("the new copy", || leader.handle.status().iter().any(is_fed)).await;
    }
    assert!(world.nodes[1].root.lib().join("queue.data").exists());
}

/// A noded that starts without them has no copy to tell of, and says which file is missing and what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_missing_is_told_by_its_file_and_the_cure() {
    let world = World::new(3).await;
    let leader = world.lead(0, LogKind::Q).await.unwrap();
    leader.put("one").await;
    world.nodes[1].restart(|root| std::fs::remove_file(root.lib().join("queue.data")).unwrap()).await;
    let why = || leader.handle.status().into_iter().find(|c| c.node == world.nodes[1].uuid).unwrap().why;
    until("why", || why().contains("queue.data is missing") && why().contains("gnt-node modify -C no")).await;
}
