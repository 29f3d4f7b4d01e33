//! `gantry-mon-collector NAME`: one report on standard output, made now and from the files that are named. The twin of Ganeti's
//! `mon-collector`, with its sub-commands and options.

use clap::Parser;
use gantry_model::root::Root;
use gantry_mond::collector_args::{Args, Collector};
use gantry_mond::core::board::{Board, Look};
use gantry_mond::core::catalogue::index;
use gantry_mond::core::collect::lv::{self, Disk};
use gantry_mond::core::collect::{diskstats, drbd, instances};
use gantry_mond::core::report::Gathered;
use gantry_mond::core::settings::Settings;
use gantry_mond::io::sources::Places;
use gantry_mond::io::{cluster, lvs, node};
use gantry_rt::clock;
use serde_json::Value;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// How long `lvs` may take here: somebody waits for it.
const LVS: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("gantry-mon-collector: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<String, String> {
    let begun = clock::millis();
    let (category, name, found) = match args.collector {
        Collector::Diskstats { file } => ("storage", "diskstats", diskstats::gathered(&text(&file)?)?),
        Collector::Drbd { status, pairing } => {
            let pairing = pairing.as_deref().map(json).transpose()?.unwrap_or_default();
            let status = status.exists().then(|| text(&status)).transpose()?;
            ("storage", "drbd", drbd::gathered(status.as_deref(), &pairing))
        }
        Collector::InstStatusXen { .. } => {
            let view = node::view(&Places::of_machine(Root::new(args.root)), None)?;
            ("instance", "inst-status-xen", instances::gathered("inst-status-xen", &view))
        }
        Collector::Lv { file, instances, .. } => {
            ("storage", "lv", volumes(file.as_deref(), instances.as_deref())?)
        }
    };
    let index = index(name).ok_or("it is no collector")?;
    let active = Settings::read(&serde_json::json!({ name: {"active": true} }));
    let mut board = Board::new(&active);
    let now = clock::millis();
    #[allow(clippy::cast_precision_loss, reason = "milliseconds of one command")]
    let took_s = (now - begun) as f64 / 1000.0;
    board.put(index, Look { at: now, epoch: clock::now().epoch(), took_s, found: Ok(found) });
    match board.one(category, name) {
        Some(Ok(report)) => Ok(report.to_string()),
        Some(Err(why)) => Err(why.to_owned()),
        None => Err("it has no report".to_owned()),
    }
}

fn volumes(file: Option<&Path>, instances: Option<&Path>) -> Result<Gathered, String> {
    let listed = instances.map(json).transpose()?.unwrap_or_default();
    let of = |one: &Value| Some(cluster::disks(one["name"].as_str()?, &one["disks"]));
    let disks: Vec<Disk> = listed.as_array().into_iter().flatten().filter_map(of).flatten().collect();
    let printed = match file {
        Some(file) => text(file)?,
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            let asked =
                async { tokio::time::timeout(LVS, lvs::run(Path::new("lvs"), std::future::pending())).await };
            runtime
                .block_on(asked)
                .map_err(|_| format!("lvs did not end within {} s", LVS.as_secs()))??
                .unwrap_or_default()
        }
    };
    lv::gathered(&printed, &disks)
}

fn text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn json(path: &Path) -> Result<Value, String> {
    serde_json::from_str(&text(path)?).map_err(|error| format!("{} is no JSON: {error}", path.display()))
}
