use super::*;
use gantry_proto::vmd::{VmLimits, Why};

fn request(vm: &str) -> CreateRequest {
    CreateRequest {
        vm: vm.to_owned(),
        label: "label".to_owned(),
        cgroup: format!("gantry/node/{vm}"),
        config: "{}".to_owned(),
        root: "/".to_owned(),
        uid_base: 100_000,
        scratch_mib: 1,
        limits: VmLimits { memory_mib: 16, cpu_percent: 100, pids: 8 },
        ready_ms: 1_000,
    }
}

fn end(code: i32) -> CommandEnd {
    CommandEnd { why: Why::Exit(code), wall_ms: 1, cpu_us: 2, memory_peak_bytes: 3, truncated: false }
}

/// A VM, whether it was started, and its commands with their ends.
type FoundVm = (String, bool, Vec<(u32, String, Option<CommandEnd>)>);

/// What a load finds, in short.
fn found(spool: &Spool) -> Vec<FoundVm> {
    let commands =
        |found: Found| found.commands.into_iter().map(|(number, one)| (number, one.name, one.end)).collect();
    let all = spool.load().expect("loaded").into_iter();
    all.map(|found| (found.request.vm.clone(), found.started, commands(found))).collect()
}

fn files(spool: &Spool) -> Vec<String> {
    let dirs = [&spool.journals, &spool.outputs].map(|dir| fs::read_dir(dir).expect("a directory"));
    let mut all: Vec<_> = dirs
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    all.sort();
    all
}

#[test]
fn a_run_has_two_files_and_leaves_none() {
    let dir = tempfile::tempdir().expect("dir");
    let spool = Spool::open(&Root::new(dir.path())).expect("opened");
    spool.create(&request("a")).expect("noted");
    assert_eq!(found(&spool), [("a".to_owned(), false, vec![])]);
    assert!(spool.create(&request("a")).is_err(), "a name is noted once");
    spool.start("a").expect("noted");
    let place = spool.begin("a", "run", 1).expect("noted");
    assert_eq!(found(&spool), [("a".to_owned(), true, vec![(1, "run".to_owned(), None)])]);
    fs::write(place.output(Stream::Out), b"said").expect("written");
    place.end(&end(3)).expect("noted");
    assert_eq!(found(&spool), [("a".to_owned(), true, vec![(1, "run".to_owned(), Some(end(3)))])]);
    assert_eq!(place.read(Stream::Out, 1, 2).expect("read"), b"ai");
    assert_eq!(place.read(Stream::Err, 0, 9).expect("none"), b"");
    assert_eq!(files(&spool), ["a", "a+1out"]);
    spool.remove("a", [1]).expect("removed");
    spool.remove("a", [1]).expect("not there is fine");
    assert_eq!(files(&spool), Vec::<String>::new());
}

#[test]
fn what_never_began_is_not_found() {
    let dir = tempfile::tempdir().expect("dir");
    let spool = Spool::open(&Root::new(dir.path())).expect("opened");
    spool.create(&request("a")).expect("noted");
    spool.begin("a", "run", 1).expect("noted").drop_it().expect("noted");
    spool.begin("a", "run", 2).expect("noted");
    assert_eq!(found(&spool), [("a".to_owned(), false, vec![(2, "run".to_owned(), None)])]);
}

#[test]
fn a_death_at_any_byte_leaves_the_whole_entries_and_a_journal_that_goes_on() {
    let dir = tempfile::tempdir().expect("dir");
    let spool = Spool::open(&Root::new(dir.path())).expect("opened");
    let mut bounds = Vec::new();
    let mut mark = || bounds.push(fs::metadata(spool.journal("a")).expect("there").len());
    spool.create(&request("a")).expect("noted");
    mark();
    spool.start("a").expect("noted");
    mark();
    let place = spool.begin("a", "run", 1).expect("noted");
    mark();
    place.end(&end(0)).expect("noted");
    mark();
    let whole = fs::read(spool.journal("a")).expect("read");
    for length in 0..=whole.len() {
        fs::write(spool.journal("a"), &whole[..length]).expect("written");
        let entries = bounds.iter().filter(|bound| **bound <= length as u64).count();
        let seen = found(&spool);
        let Some((_, started, commands)) = seen.first() else {
            assert_eq!((entries, files(&spool).len()), (0, 0), "what was never answered is removed");
            continue;
        };
        assert_eq!((*started, commands.len()), (entries >= 2, usize::from(entries >= 3)), "at byte {length}");
        assert_eq!(commands.iter().any(|(_, _, end)| end.is_some()), entries == 4, "at byte {length}");
        spool.begin("a", "next", 9).expect("noted");
        assert!(found(&spool)[0].2.iter().any(|(number, ..)| *number == 9), "at byte {length}");
    }
}

#[test]
fn a_load_removes_what_no_noted_vm_has() {
    let dir = tempfile::tempdir().expect("dir");
    let spool = Spool::open(&Root::new(dir.path())).expect("opened");
    spool.create(&request("a.b")).expect("noted");
    for (vm, number) in [("a.b", 1), ("a", 1)] {
        fs::write(spool.place(vm, number).output(Stream::Err), b"x").expect("written");
    }
    fs::write(spool.journal("zeros"), [0; 64]).expect("written");
    fs::write(spool.outputs.join("b"), b"a journal of an earlier version").expect("written");
    fs::create_dir_all(spool.journals.join("nobody's")).expect("made");
    fs::create_dir_all(spool.outputs.join("old/c-run")).expect("made");
    assert_eq!(found(&spool).len(), 1);
    assert_eq!(files(&spool), ["a.b", "a.b+1err"]);
}
