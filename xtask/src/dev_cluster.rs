//! A cluster to try things on: real processes on 127.0.0.11 and up, gone on Ctrl-C.

use crate::build;
use anyhow::Result;
use gantry_tests::{Options, VirtualCluster};
use std::sync::mpsc;
use std::time::Duration;

/// How long after a failed start a Ctrl-C that caused it may take to be noticed.
const SAID: Duration = Duration::from_millis(200);

/// Starts it, tells what to try, waits for Ctrl-C, stops it.
pub fn run(nodes: u8) -> Result<()> {
    let programs = build::all(false)?;
    let (tell, ends) = mpsc::sync_channel(1);
    ctrlc::set_handler(move || {
        tell.try_send(()).ok(); // Said once is enough.
    })?;
    eprintln!("starting {nodes} virtual nodes…");
    let options = Options { network: [127, 0, 0], programs: programs.clone(), ..Options::new(nodes) };
    let mut cluster = match VirtualCluster::start(&options) {
        Ok(cluster) => cluster,
        // Ctrl-C reaches what is being started too: its failure is no news, and all of it is gone.
        Err(_) if ends.recv_timeout(SAID).is_ok() => {
            eprintln!("\nstopped before it was up; nothing is left.");
            return Ok(());
        }
        Err(why) => return Err(why),
    };
    println!("{}", help(&cluster, &programs));
    ends.recv()?;
    eprintln!("\nstopping…");
    cluster.stop()?;
    eprintln!("stopped; nothing is left.");
    Ok(())
}

fn help(cluster: &VirtualCluster, programs: &std::path::Path) -> String {
    let names: Vec<String> =
        cluster.nodes.iter().map(|node| format!("{} ({})", node.name, node.address)).collect();
    let root = cluster.master().root.display().to_string();
    format!(
        "\nA cluster of {count} nodes runs: {names}.\nIn another shell:\n\n  \
         export GANTRY_ROOT={root} PATH={programs}:$PATH\n  \
         gnt-node list\n  \
         gnt-instance add -t diskless -o noop --no-nics inst1.gantry.test\n  \
         gnt-instance list\n  \
         gnt-debug delay --submit 5; gnt-job list\n  \
         gnt-job watch 1\n  \
         gnt-cluster verify\n  \
         hbal -L$GANTRY_ROOT/run/gantry/luxi.sock      # Ganeti's own tools work too\n\n\
         Logs are in {root}/var/log/gantry. Ctrl-C here stops everything and removes it.",
        count = cluster.nodes.len(),
        names = names.join(", "),
        programs = programs.display(),
    )
}
