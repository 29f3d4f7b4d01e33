//! The fake driver against the contract of `driver`, and its faults.

use super::*;
use crate::driver::bounded;
use gantry_model::ids::{Generation, InstanceUuid};
use uuid::Uuid;

const CLUSTER: ClusterUuid = ClusterUuid(Uuid::from_u128(1));
const ROOM: Room = Room { memory_mib: 1024, disk_mib: 4096 };

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().expect("dir") };
        std::fs::create_dir_all(bench.root().etc()).expect("made");
        bench
    }

    fn root(&self) -> Root {
        Root::new(self.dir.path())
    }

    fn fake(&self) -> Fake {
        Fake::new(&self.root(), CLUSTER, "first".to_owned(), ROOM)
    }

    fn faults(&self, json: &str) {
        std::fs::write(self.root().etc().join("fake.json"), json).expect("written");
    }
}

fn vm(slot: u128, generation: u64) -> VmId {
    VmId { cluster: CLUSTER, slot: InstanceUuid(Uuid::from_u128(slot)), generation: Generation(generation) }
}

fn spec() -> VmSpec {
    VmSpec {
        name: "vm1".into(),
        driver: "fake".into(),
        image: IMAGE.into(),
        memory_mib: 512,
        vcpus: 1,
        disk_mib: 1024,
        image_digest: None,
        pids: 64,
    }
}

fn class<T>(result: Result<T, DriverError>) -> Option<Class> {
    result.err().map(|error| error.class)
}

#[tokio::test]
async fn a_life() {
    let bench = Bench::new();
    let fake = bench.fake();
    assert_eq!(class(fake.info(&vm(1, 1)).await), Some(Class::NotFound));
    fake.create(&vm(1, 1), &spec()).await.expect("created");
    assert_eq!(class(fake.create(&vm(1, 1), &spec()).await), Some(Class::Exists));
    fake.start(&vm(1, 1)).await.expect("started");
    assert_eq!(class(fake.start(&vm(1, 1)).await), Some(Class::Running));
    // another noded finds it
    let again = bench.fake();
    let all = again.list().await.expect("listed");
    assert!(all.len() == 1 && all[0].running && all[0].memory_mib == 512);
    assert_eq!(again.stats(&vm(1, 1)).await.expect("stats").memory_mib, 512);
    again.stop(&vm(1, 1), Duration::ZERO).await.expect("stopped");
    assert_eq!(class(again.stop(&vm(1, 1), Duration::ZERO).await), Some(Class::NotRunning));
    again.destroy(&vm(1, 1)).await.expect("destroyed");
    assert_eq!(class(again.destroy(&vm(1, 1)).await), Some(Class::NotFound));
}

#[tokio::test]
async fn room_is_counted_and_images_are_checked() {
    let bench = Bench::new();
    let fake = bench.fake();
    let wrong = VmSpec { image: "debian".into(), ..spec() };
    assert_eq!(class(fake.create(&vm(1, 1), &wrong).await), Some(Class::BadImage));
    let host = VmSpec { image: "host".into(), ..spec() };
    fake.create(&vm(9, 1), &host).await.expect("blueprints name the built-in image");
    fake.destroy(&vm(9, 1)).await.expect("destroyed");
    fake.create(&vm(1, 1), &spec()).await.expect("fits");
    fake.create(&vm(2, 1), &spec()).await.expect("fits");
    assert_eq!(class(fake.create(&vm(3, 1), &spec()).await), Some(Class::NoSpace));
    fake.destroy(&vm(1, 1)).await.expect("destroyed");
    fake.create(&vm(3, 1), &spec()).await.expect("fits again");
}

#[tokio::test]
async fn failures_are_counted_over_noded_s_death() {
    let bench = Bench::new();
    bench.faults(r#"{"fail": {"create": {"class": "timeout", "times": 2}}}"#);
    assert_eq!(class(bench.fake().create(&vm(1, 1), &spec()).await), Some(Class::Timeout));
    assert_eq!(class(bench.fake().create(&vm(1, 1), &spec()).await), Some(Class::Timeout));
    bench.fake().create(&vm(1, 1), &spec()).await.expect("the third works");
    bench.faults(r#"{"fail": {"create": {"class": "lost", "when": "after"}}}"#);
    assert_eq!(class(bench.fake().create(&vm(2, 1), &spec()).await), Some(Class::Lost));
    bench.fake().info(&vm(2, 1)).await.expect("it was made all the same");
}

#[tokio::test]
async fn vms_get_lost_and_die_with_the_machine() {
    let bench = Bench::new();
    let fake = bench.fake();
    fake.create(&vm(1, 1), &spec()).await.expect("created");
    fake.create(&vm(2, 1), &spec()).await.expect("created");
    bench.faults(&format!(r#"{{"lose": [{{"slot": "{}"}}]}}"#, vm(1, 1).slot));
    assert_eq!(class(fake.info(&vm(1, 1)).await), Some(Class::NotFound));
    fake.info(&vm(2, 1)).await.expect("there");
    bench.faults(r#"{"boot_id": "second"}"#);
    assert_eq!(fake.list().await.expect("listed"), []);
}

#[tokio::test]
async fn hanging_calls_are_given_up() {
    let bench = Bench::new();
    bench.faults(r#"{"hang": ["start"], "limit_ms": {"start": 20}}"#);
    let fake = bench.fake();
    let answer = bounded(&fake, CallKind::Start, fake.start(&vm(1, 1))).await;
    assert_eq!(class(answer), Some(Class::Timeout));
}

#[tokio::test]
async fn typing_errors_are_told() {
    let bench = Bench::new();
    bench.faults(r#"{"delay": {"create": 1}}"#);
    let error = bench.fake().list().await.expect_err("refused");
    assert!(error.text.contains("fake.json"), "{error}");
}

#[tokio::test]
async fn a_command_runs_once() {
    let bench = Bench::new();
    let fake = bench.fake();
    fake.create(&vm(1, 1), &spec()).await.expect("created");
    let command = |id: &str, argv: &[&str]| ExecSpec {
        id: id.into(),
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: vec![],
        cwd: None,
        stdin: vec![],
        output_bytes_max: 1024,
        wall_ms: 1000,
        cpu_ms: 1000,
    };
    assert_eq!(class(fake.exec(&vm(1, 1), &command("a", &["true"])).await), Some(Class::NotRunning));
    fake.start(&vm(1, 1)).await.expect("started");
    let mut first = fake.exec(&vm(1, 1), &command("a", &["echo", "x", "y"])).await.expect("runs");
    assert_eq!(first.ended().await, Ok(Ended::Exit(0)));
    let chunk = first.read(Output::Out, 2, 10).await.expect("read");
    assert_eq!(chunk, Chunk { bytes: b"y\n".to_vec(), last: true });
    // the same id attaches, whatever the words
    let mut again = bench.fake().exec(&vm(1, 1), &command("a", &["false"])).await.expect("attaches");
    assert_eq!(again.ended().await, Ok(Ended::Exit(0)));
    let mut other = fake.exec(&vm(1, 1), &command("b", &["make"])).await.expect("runs");
    assert_eq!(other.ended().await, Ok(Ended::Exit(0)));
    assert_eq!(other.read(Output::Out, 0, 10).await.expect("read").bytes, b"ran: make\n");
}
