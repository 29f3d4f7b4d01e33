//! What comes in during a storm: tasks of every kind that people send, each with a result that only it can have.

use super::*;
use gantry_tests::Random;

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Says a word.
    Word,
    /// Brings files with it, in pieces, and gives one back.
    Files,
    /// Three steps that hand on what they made.
    Steps,
    /// Says more than a record holds.
    Output,
    /// Runs for seconds and says a number now and then.
    Long,
    /// The user's own failure.
    Exit,
    /// Over its time.
    Wall,
    /// Over its processor time.
    Cpu,
    /// Over its memory.
    Memory,
    /// Over its output.
    Flood,
}

/// As often as each is to come.
const KINDS: [Kind; 16] = [
    Kind::Word,
    Kind::Word,
    Kind::Word,
    Kind::Files,
    Kind::Files,
    Kind::Files,
    Kind::Steps,
    Kind::Steps,
    Kind::Output,
    Kind::Output,
    Kind::Long,
    Kind::Exit,
    Kind::Wall,
    Kind::Cpu,
    Kind::Memory,
    Kind::Flood,
];

/// Bytes that an `Output` task says.
const SAID: usize = 200_000;
/// Numbers that a `Long` task says, ten a second.
const NUMBERS: usize = 40;
/// A body of two pieces.
const BROUGHT: usize = 1_300_000;

/// Ends the step if somebody was in this VM before.
const FRESH: &str = "if test -e /tmp/used || test -e used || test -e /dev/shm/used; then exit 99; fi; touch /tmp/used used /dev/shm/used; ";

/// One task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// What it does.
    pub kind: Kind,
    /// What only it says.
    pub word: String,
    /// Tenths of a second that it waits first.
    pause: usize,
}

impl Load {
    /// The task of this number.
    pub fn draw(number: u64, random: &mut Random) -> Self {
        Self { kind: *random.of(&KINDS), word: format!("word{number}"), pause: random.below(9) }
    }

    /// What is submitted; its input is with luxid when this returns.
    ///
    /// # Errors
    /// When luxid does not take the input for long.
    pub fn spec(&self, bed: &Bed) -> Result<Value> {
        let word = &self.word;
        let steps: Vec<String> = match self.kind {
            Kind::Word => vec![format!("sleep 0.{}; echo {word}", self.pause)],
            Kind::Files => {
                vec![format!("cat dir/word; wc -c < dir/big; sleep 0.{}; cp dir/word out/back", self.pause)]
            }
            Kind::Steps => vec![
                format!("echo {word} > state; echo one"),
                format!("sleep 0.{}; cat state", self.pause),
                "cp state out/back; echo three >&2".to_owned(),
            ],
            Kind::Output => vec![format!("yes {word} | head -c {SAID}")],
            Kind::Long => vec![format!(
                "i=0; while test $i -lt {NUMBERS}; do sleep 0.1; i=$((i+1)); echo $i; done; echo {word}"
            )],
            Kind::Exit => vec![format!("echo {word}; exit 7"), "echo never".to_owned()],
            Kind::Wall => vec![format!("echo {word}; sleep 100")],
            Kind::Cpu => vec![format!("echo {word}; while :; do :; done")],
            Kind::Memory => vec![format!("echo {word}; exec /usr/bin/python3 -c 'x = bytearray(300 << 20)'")],
            Kind::Flood => vec!["yes".to_owned()],
        };
        let steps = steps.iter().enumerate().map(|(number, step)| {
            let before = if number == 0 { FRESH } else { "" };
            json!({"name": format!("step{number}"), "command": format!("{before}{step}")})
        });
        let mut spec = one("true");
        spec["execute"] = Value::Array(steps.collect());
        spec["limits"]["wall_s"] = json!(if self.kind == Kind::Wall { 1 } else { 60 });
        spec["limits"]["cpu_s"] = json!(if self.kind == Kind::Cpu { 1 } else { 20 });
        spec["limits"]["output_kib"] = json!(if self.kind == Kind::Flood { 64 } else { 512 });
        spec["key"] = json!(format!("storm-{word}"));
        spec["max_attempts"] = json!(ATTEMPTS);
        if self.kind == Kind::Files {
            let bytes = self.archive();
            spec["input"] = wait::until("an answer to BlobPut", PATIENCE, || rpc::upload(bed, &bytes).ok())?;
        }
        Ok(spec)
    }

    fn archive(&self) -> Vec<u8> {
        let big: Vec<u8> = self.word.bytes().cycle().take(BROUGHT).collect();
        let file = |name: &str, content: &[u8]| input::entry(name, b'0', "", content.len() as u64, content);
        let word = format!("{}\n", self.word);
        input::archive(&[
            input::entry("dir/", b'5', "", 0, b""),
            file("dir/word", word.as_bytes()),
            file("dir/big", &big),
        ])
    }

    /// Why the user is charged, if so it must end.
    fn charge(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Exit => Some("exit"),
            Kind::Wall => Some("wall"),
            Kind::Cpu => Some("cpu"),
            Kind::Memory => Some("memory"),
            Kind::Flood => Some("output"),
            Kind::Word | Kind::Files | Kind::Steps | Kind::Output | Kind::Long => None,
        }
    }

    /// Whether it ended as it must, however often it was tried.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, bed: &Bed, record: &Record) -> Result<()> {
        let outcomes = record.outcomes();
        let (last, before) = outcomes.split_last().context("no attempt")?;
        ensure!(before.iter().all(|outcome| *outcome == "infra-fail"), "tried after its end: {outcomes:?}");
        let (state, outcome) = match self.charge() {
            None => ("success", "user-ok"),
            Some(_) => ("run-failed", "user-fail"),
        };
        ensure!(record.state() == state && *last == outcome, "is {}, {outcomes:?}", record.state());
        let line = format!("{}\n", self.word);
        if let Some(why) = self.charge() {
            ensure!(record.steps().len() == 1, "went on after its failure");
            ensure!(record.deciding()["why"] == json!(why), "failed for another reason");
            ensure!(self.kind != Kind::Exit || record.deciding()["exit"] == json!(7), "another exit");
            ensure!(self.kind == Kind::Flood || record.out(0) == line, "not its word");
            return Ok(());
        }
        match self.kind {
            Kind::Word => ensure!(record.out(0) == line, "not its word"),
            Kind::Files => {
                ensure!(record.out(0) == format!("{line}{BROUGHT}\n"), "not its files");
                self.gave_back(bed, record)?;
            }
            Kind::Steps => {
                ensure!(record.steps().len() == 3, "not its steps");
                ensure!(record.out(0) == "one\n" && record.out(1) == line, "not what its steps said");
                ensure!(record.err(2) == "three\n", "not what its last step said");
                self.gave_back(bed, record)?;
            }
            Kind::Output => {
                let said: Vec<u8> = line.bytes().cycle().take(SAID).collect();
                let digest = record.steps()[0]["out"]["digest"].as_str().context("no body of its output")?;
                ensure!(body(bed, digest)? == said, "not its output");
            }
            Kind::Long => {
                let numbers: String = (1..=NUMBERS).map(|number| format!("{number}\n")).collect();
                ensure!(record.out(0) == format!("{numbers}{line}"), "not its numbers");
            }
            Kind::Exit | Kind::Wall | Kind::Cpu | Kind::Memory | Kind::Flood => {}
        }
        Ok(())
    }

    /// The one file under `out/` is there, and its own.
    fn gave_back(&self, bed: &Bed, record: &Record) -> Result<()> {
        let result = &record.json()["result"];
        let names: Vec<&Value> =
            result["artifacts"].as_array().into_iter().flatten().map(|one| &one["path"]).collect();
        ensure!(names == [&json!("back")], "not its artifacts");
        let archive = body(bed, result["archive"]["digest"].as_str().context("no archive")?)?;
        let line = format!("{}\n", self.word);
        ensure!(archive.windows(line.len()).any(|part| part == line.as_bytes()), "another's artifacts");
        Ok(())
    }
}

/// A body as it lies with luxid.
fn body(bed: &Bed, digest: &str) -> Result<Vec<u8>> {
    let start = digest.get(..2).context("a digest")?;
    let blob = bed.cluster.master().root.join("var/lib/gantry/blob/sha256");
    Ok(std::fs::read(blob.join(start).join(digest))?)
}
