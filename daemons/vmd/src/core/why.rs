//! Why a command ended (DESIGN §7): exit code 0 wins; otherwise the first that holds, in this order: cancelled,
//! output, wall, cpu, memory, disk, pids, exit code. Only vmd's own counts are believed, never what a VM says.

use gantry_init::wire::How;
use gantry_proto::vmd::Why;

/// Free bytes of the scratch room below which it counts as full: less than a file's smallest useful growth.
pub const DISK_FREE_BYTES_MIN: u64 = 64 * 1024;

/// What vmd asked a command to end for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// Its owner cancelled.
    pub cancelled: bool,
    /// An output passed its limit.
    pub output: bool,
    /// Its time is up.
    pub wall: bool,
    /// It used its CPU time.
    pub cpu: bool,
}

/// What was seen when it ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// What init said; None = the VM is gone.
    pub how: Option<How>,
    /// What vmd did.
    pub asked: Asked,
    /// Processes killed for memory while it ran.
    pub oom_kills: u64,
    /// Forks refused while it ran.
    pub forks_refused: u64,
    /// Free bytes of the scratch room, if known.
    pub free_bytes: Option<u64>,
    /// Free inodes there, if known.
    pub free_inodes: Option<u64>,
    /// The VM is being removed: its commands end as lost, whatever else is true (P5.3).
    pub removed: bool,
}

/// The reason.
#[must_use]
pub fn why(seen: &Seen) -> Why {
    let full = seen.free_bytes.is_some_and(|free| free < DISK_FREE_BYTES_MIN) || seen.free_inodes == Some(0);
    let Asked { cancelled, output, wall, cpu } = seen.asked;
    let reasons = [
        (seen.how == Some(How::Exit(0)), Why::Exit(0)),
        (seen.removed, Why::Lost),
        (cancelled, Why::Cancelled),
        (output, Why::Output),
        (wall, Why::Wall),
        (cpu, Why::Cpu),
        (seen.oom_kills > 0, Why::Memory),
        (seen.how.is_some() && full, Why::Disk),
        (seen.how.is_some() && seen.forks_refused > 0, Why::Pids),
    ];
    let first = reasons.into_iter().find(|(holds, _)| *holds).map(|(_, why)| why);
    first.unwrap_or(match seen.how {
        Some(How::Exit(code)) => Why::Exit(code),
        Some(How::Signal(signal)) => Why::Signal(signal),
        None => Why::Lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Seen {
        Seen {
            how: Some(How::Exit(137)),
            asked: Asked { cancelled: true, output: true, wall: true, cpu: true },
            oom_kills: 1,
            forks_refused: 1,
            free_bytes: Some(0),
            free_inodes: Some(9),
            removed: false,
        }
    }

    #[test]
    fn the_first_reason_of_the_order_is_said() {
        let mut seen = all();
        let mut said = Vec::new();
        let steps: [fn(&mut Seen); 7] = [
            |seen| seen.asked.cancelled = false,
            |seen| seen.asked.output = false,
            |seen| seen.asked.wall = false,
            |seen| seen.asked.cpu = false,
            |seen| seen.oom_kills = 0,
            |seen| seen.free_bytes = None,
            |seen| seen.forks_refused = 0,
        ];
        for step in steps {
            said.push(why(&seen));
            step(&mut seen);
        }
        said.push(why(&seen));
        use Why::{Cancelled, Cpu, Disk, Memory, Output, Pids, Wall};
        assert_eq!(said, [Cancelled, Output, Wall, Cpu, Memory, Disk, Pids, Why::Exit(137)]);
    }

    #[test]
    fn success_wins_and_a_lost_vm_is_lost() {
        assert_eq!(why(&Seen { how: Some(How::Exit(0)), ..all() }), Why::Exit(0));
        assert_eq!(why(&Seen::default()), Why::Lost);
        assert_eq!(why(&Seen { removed: true, ..all() }), Why::Lost);
        // The kernel took PID 1 for memory: the user's limit, not our failure.
        assert_eq!(why(&Seen { oom_kills: 1, ..Seen::default() }), Why::Memory);
        let full = Seen { how: Some(How::Exit(1)), free_inodes: Some(0), ..Seen::default() };
        assert_eq!(why(&full), Why::Disk);
        let own = Seen { how: Some(How::Exit(137)), ..Seen::default() };
        assert_eq!(why(&own), Why::Exit(137));
        assert_eq!(why(&Seen { how: Some(How::Signal(9)), ..Seen::default() }), Why::Signal(9));
    }
}
