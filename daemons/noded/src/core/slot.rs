//! What a node durably knows of one slot, and what each verb may make of it (P5.3 to P5.7, I2, I4, I12).
//!
//! [`decide`] turns (record, verb) into a [`Plan`]: steps to be done in order, a stored record outliving what it
//! must ([`outlive`]) before the next step. A crash between steps leaves the last stored record, from which the same verb goes
//! on: every verb may be repeated for ever, and late ones are refused by generation, floor or lease.

use super::Rules;
use gantry_model::ids::{Generation, InstanceUuid, LeaseUuid};
use gantry_proto::noded::{SlotFacts, VmState};
use serde::{Deserialize, Serialize};

/// Leases that one generation can see (recycle policy reuse). Each is kept until the VM is destroyed, so
/// that its late verbs are refused; a VM used so often is due for destruction anyway.
pub const LEASES_MAX: usize = 1024;

/// The durable record of one slot. It is never deleted while the node is in its cluster: the floor is what
/// refuses messages that are late by days.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Highest generation ever created here or told to be destroyed; never falls.
    pub floor: Generation,
    /// The current generation: of what lives, or lived last; 0 before the first.
    pub generation: Generation,
    /// What is known of it.
    pub state: State,
    /// The lease that works in it.
    pub holder: Option<LeaseUuid>,
    /// Whether any lease ever touched this generation.
    pub opened: bool,
    /// The VM was stopped for good so that its files stay as they are: that it does not run is no loss.
    #[serde(default)]
    pub settled: bool,
    /// Leases of this generation whose work was ended: they never open it again.
    #[serde(default)]
    pub closed: Vec<LeaseUuid>,
    /// The driver that made it; empty before the first.
    #[serde(default)]
    pub driver: String,
    /// Boot id of the machine when this was stored; empty in records of programs that flushed each of them.
    #[serde(default)]
    pub boot: String,
}

/// What a stored record must outlive before the next step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlive {
    /// The death of noded: written is enough.
    Process,
    /// A power cut too: flushed.
    Machine,
}

/// What `next` must outlive. Of a VM that dies with the machine only the floor matters after a power cut: whatever older
/// record of the same floor is read then, [`after_start`] sees that it is of another boot. So the first record of each boot is flushed
/// too: the one before may name no boot at all.
#[must_use]
pub fn outlive(rules: Rules, record: &Record, next: &Record, dies_with_machine: bool) -> Outlive {
    let raised = next.floor > record.floor && rules.flushed_floor;
    let first = next.boot != record.boot && rules.flushed_boot;
    if raised || first || !dies_with_machine { Outlive::Machine } else { Outlive::Process }
}

/// [`VmState`] on disk; the wire's enum may grow apart from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing lives, and the node's drivers confirmed it.
    #[default]
    Absent,
    /// A create began.
    Creating,
    /// Lives.
    Live,
    /// A destroy began.
    Destroying,
    /// Was live and is not there any more; only a destroy leads on.
    Lost,
}

impl State {
    /// A word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Creating => "creating",
            Self::Live => "live",
            Self::Destroying => "being destroyed",
            Self::Lost => "lost",
        }
    }
}

impl From<State> for VmState {
    fn from(state: State) -> Self {
        match state {
            State::Absent => Self::Absent,
            State::Creating => Self::Creating,
            State::Live => Self::Live,
            State::Destroying => Self::Destroying,
            State::Lost => Self::Lost,
        }
    }
}

/// A verb on a slot, its fence already admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Make and start the VM of this generation.
    Create {
        /// Which.
        generation: Generation,
        /// With which driver.
        driver: String,
    },
    /// Destroy what lives at or below this generation, and never make it again.
    Destroy {
        /// Up to which.
        generation: Generation,
    },
    /// First touch by a lease.
    Open {
        /// Which VM.
        generation: Generation,
        /// Who.
        lease: LeaseUuid,
    },
    /// End the lease's work; it never comes back to this generation.
    Close {
        /// Which VM.
        generation: Generation,
        /// Who.
        lease: LeaseUuid,
    },
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make this the durable record.
    Store(Record),
    /// Call the driver.
    Drive(Action),
}

/// What a driver is asked for. All are safe to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Create and start the VM of this generation, or finish doing so.
    Make(Generation),
    /// Remove all that is there of this generation; nothing there is success.
    Kill(Generation),
    /// Prepare the VM for its lease's work.
    Touch(Generation),
    /// End whatever the lease runs in the VM.
    EndWork(Generation, LeaseUuid),
}

/// What the caller is told when every step was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The VM lives; `attached`: the create had begun before.
    Created {
        /// Whether it was there already.
        attached: bool,
    },
    /// Nothing lives, and nothing up to this floor ever will again.
    Destroyed {
        /// The floor now.
        floor: Generation,
    },
    /// Done.
    Done,
}

/// Steps in order, then the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// To be done one after the other; a failing one ends the plan.
    pub steps: Vec<Step>,
    /// The answer after the last.
    pub answer: Answer,
}

/// Why a verb is refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Generation 0 is none.
    #[error("generation 0 names no VM: generations begin at 1")]
    Zero,
    /// Create below the floor: the message is late.
    #[error("generation {asked} is below this node's floor {floor}: the request is out of date")]
    BelowFloor {
        /// What the caller wants.
        asked: Generation,
        /// What the node has.
        floor: Generation,
    },
    /// Create at the floor of what was destroyed, or is being destroyed, or is lost.
    #[error("generation {asked} was already used here and is {}: take the next one", state.word())]
    Used {
        /// What the caller wants.
        asked: Generation,
        /// What became of it.
        state: State,
    },
    /// Create while an older generation is not gone.
    #[error("generation {current} is still {} in this slot: destroy it first", state.word())]
    Occupied {
        /// What is there.
        current: Generation,
        /// In which state.
        state: State,
    },
    /// The verb means another generation than the current one.
    #[error("generation {asked} is not the current one: this node has {current} with floor {floor}")]
    NotCurrent {
        /// What the caller means.
        asked: Generation,
        /// What the node has.
        current: Generation,
        /// Its floor.
        floor: Generation,
    },
    /// The VM does not live (yet, or any more).
    #[error("generation {generation} is {}, not live", state.word())]
    NotLive {
        /// Which.
        generation: Generation,
        /// Its state.
        state: State,
    },
    /// Another lease has the VM.
    #[error("generation {generation} is held by lease {holder}")]
    Held {
        /// Which.
        generation: Generation,
        /// By whom.
        holder: LeaseUuid,
    },
    /// The lease was closed.
    #[error("lease {lease} has ended its work in generation {generation} and can't open it again")]
    Over {
        /// Which VM.
        generation: Generation,
        /// Which lease.
        lease: LeaseUuid,
    },
    /// A command by a lease that has not opened the VM.
    #[error("lease {lease} has not opened generation {generation}")]
    NotOpened {
        /// Which VM.
        generation: Generation,
        /// Which lease.
        lease: LeaseUuid,
    },
    /// The VM was stopped to read its files.
    #[error("generation {generation} was stopped to read its files: nothing runs in it any more")]
    Settled {
        /// Which.
        generation: Generation,
    },
    /// [`LEASES_MAX`] is reached.
    #[error("generation {generation} was used by {LEASES_MAX} leases: destroy it")]
    WornOut {
        /// Which.
        generation: Generation,
    },
}

/// What `verb` does to a slot with `record`.
///
/// # Errors
/// When generation, floor, state or lease forbid it.
pub fn decide(rules: Rules, record: &Record, verb: &Verb) -> Result<Plan, Refusal> {
    match verb {
        Verb::Create { generation, driver } => create(rules, record, *generation, driver),
        Verb::Destroy { generation } => destroy(rules, record, *generation),
        Verb::Open { generation, lease } => open(rules, record, *generation, *lease),
        Verb::Close { generation, lease } => close(rules, record, *generation, *lease),
    }
}

fn create(rules: Rules, record: &Record, asked: Generation, driver: &str) -> Result<Plan, Refusal> {
    if asked == Generation(0) {
        return Err(Refusal::Zero);
    }
    if asked == record.generation && asked >= record.floor {
        match record.state {
            State::Live => return Ok(plan([], Answer::Created { attached: true })),
            State::Creating => return Ok(make(rules, record.clone(), true)),
            State::Absent | State::Destroying | State::Lost => {}
        }
    }
    if rules.floor && asked < record.floor {
        return Err(Refusal::BelowFloor { asked, floor: record.floor });
    }
    if rules.floor && asked == record.floor {
        return Err(Refusal::Used { asked, state: record.state });
    }
    if record.state != State::Absent {
        return Err(Refusal::Occupied { current: record.generation, state: record.state });
    }
    let begun = Record {
        floor: asked.max(record.floor),
        generation: asked,
        state: State::Creating,
        driver: driver.to_owned(),
        ..Record::default()
    };
    Ok(make(rules, begun, false))
}

/// Makes the VM of `begun`, which is in state creating; `attached`: it is stored already.
fn make(rules: Rules, begun: Record, attached: bool) -> Plan {
    let action = Step::Drive(Action::Make(begun.generation));
    let live = Record { state: State::Live, ..begun.clone() };
    let answer = Answer::Created { attached };
    match (attached, rules.intent_first) {
        (true, _) | (false, false) => plan([action, Step::Store(live)], answer),
        (false, true) => plan([Step::Store(begun), action, Step::Store(live)], answer),
    }
}

fn destroy(rules: Rules, record: &Record, asked: Generation) -> Result<Plan, Refusal> {
    if asked == Generation(0) {
        return Err(Refusal::Zero);
    }
    let floor = record.floor.max(asked);
    let gone = Record { floor, state: State::Absent, holder: None, ..record.clone() };
    match record.state {
        State::Absent if floor == record.floor || !rules.confirmed_floor => {
            Ok(plan([], Answer::Destroyed { floor }))
        }
        State::Absent => Ok(plan([Step::Store(gone)], Answer::Destroyed { floor })),
        State::Creating | State::Live | State::Destroying | State::Lost if asked < record.generation => {
            Err(Refusal::NotCurrent { asked, current: record.generation, floor: record.floor })
        }
        State::Creating | State::Live | State::Destroying | State::Lost => {
            let doomed = Record { floor, state: State::Destroying, ..record.clone() };
            let kill = Step::Drive(Action::Kill(record.generation));
            let stored = doomed == *record || !rules.doom_first;
            let first = (!stored).then_some(Step::Store(doomed));
            let steps = first.into_iter().chain([kill, Step::Store(gone)]);
            Ok(Plan { steps: steps.collect(), answer: Answer::Destroyed { floor } })
        }
    }
}

fn open(rules: Rules, record: &Record, asked: Generation, lease: LeaseUuid) -> Result<Plan, Refusal> {
    working(record, asked)?;
    if record.state != State::Live {
        return Err(Refusal::NotLive { generation: asked, state: record.state });
    }
    if record.settled && record.holder != Some(lease) {
        return Err(Refusal::Settled { generation: asked });
    }
    if rules.closed_leases && record.closed.contains(&lease) {
        return Err(Refusal::Over { generation: asked, lease });
    }
    let touch = Step::Drive(Action::Touch(asked));
    match record.holder {
        Some(holder) if holder == lease => return Ok(plan([touch], Answer::Done)),
        Some(holder) if rules.first_lease => return Err(Refusal::Held { generation: asked, holder }),
        Some(_) | None => {}
    }
    if record.closed.len() >= LEASES_MAX {
        return Err(Refusal::WornOut { generation: asked });
    }
    let opened = Step::Store(Record { holder: Some(lease), opened: true, ..record.clone() });
    let steps = if rules.opened_first { [opened, touch] } else { [touch, opened] };
    Ok(plan(steps, Answer::Done))
}

fn close(rules: Rules, record: &Record, asked: Generation, lease: LeaseUuid) -> Result<Plan, Refusal> {
    working(record, asked)?;
    match record.state {
        // Nothing lives, so no work does either.
        State::Absent | State::Destroying | State::Lost => return Ok(plan([], Answer::Done)),
        State::Creating => return Err(Refusal::NotLive { generation: asked, state: record.state }),
        State::Live => {}
    }
    match record.holder {
        Some(holder) if holder != lease && rules.first_lease => {
            return Err(Refusal::Held { generation: asked, holder });
        }
        Some(_) => {}
        None if record.closed.contains(&lease) => return Ok(plan([], Answer::Done)),
        // Whoever never had the VM has nothing to end in it.
        None => return Err(Refusal::NotOpened { generation: asked, lease }),
    }
    if record.closed.contains(&lease) {
        return Ok(plan([], Answer::Done));
    }
    if record.closed.len() >= LEASES_MAX {
        return Err(Refusal::WornOut { generation: asked });
    }
    let mut closed = Record { holder: None, ..record.clone() };
    closed.closed.push(lease);
    // Work ends before the record says so: a crash between the two ends it once more.
    Ok(plan([Step::Drive(Action::EndWork(asked, lease)), Step::Store(closed)], Answer::Done))
}

/// The record under which the VM is stopped for good so that its files stay as they are; None = nothing is to be
/// stored. Only the lease that has the VM may ask: one whose work was ended would stop the next one's.
///
/// # Errors
/// When generation, state or holder forbid it.
pub fn settle(record: &Record, asked: Generation, lease: LeaseUuid) -> Result<Option<Record>, Refusal> {
    working(record, asked)?;
    match record.state {
        State::Live | State::Lost => {}
        state @ (State::Absent | State::Creating | State::Destroying) => {
            return Err(Refusal::NotLive { generation: asked, state });
        }
    }
    match record.holder {
        Some(holder) if holder == lease => {}
        Some(holder) => return Err(Refusal::Held { generation: asked, holder }),
        None if record.closed.contains(&lease) => return Err(Refusal::Over { generation: asked, lease }),
        None => return Err(Refusal::NotOpened { generation: asked, lease }),
    }
    let news = record.state == State::Live && !record.settled;
    Ok(news.then(|| Record { settled: true, ..record.clone() }))
}

/// What a lease wants in a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To change something: the VM must live and be opened by it.
    Work,
    /// To look at what it did, also after its end, as long as something is there.
    Look,
}

/// Whether `lease` may do so in this generation.
///
/// # Errors
/// When generation, state or holder forbid it.
pub fn admit(record: &Record, asked: Generation, lease: LeaseUuid, need: Need) -> Result<(), Refusal> {
    working(record, asked)?;
    if need == Need::Look && (record.holder == Some(lease) || record.closed.contains(&lease)) {
        return Ok(());
    }
    match record.state {
        State::Live => {}
        state => return Err(Refusal::NotLive { generation: asked, state }),
    }
    match record.holder {
        Some(holder) if holder == lease && record.settled => Err(Refusal::Settled { generation: asked }),
        Some(holder) if holder == lease => Ok(()),
        Some(holder) => Err(Refusal::Held { generation: asked, holder }),
        None if record.closed.contains(&lease) => Err(Refusal::Over { generation: asked, lease }),
        None => Err(Refusal::NotOpened { generation: asked, lease }),
    }
}

/// Whether commands of `asked` can only be lost: its VM is gone, or is going.
#[must_use]
pub fn is_gone(record: &Record, asked: Generation) -> bool {
    if asked == Generation(0) {
        return false;
    }
    if asked != record.generation {
        return asked <= record.floor;
    }
    matches!(record.state, State::Absent | State::Destroying)
}

/// Whether the VM of `asked` lives.
///
/// # Errors
/// It does not, or another generation does.
pub fn lives(record: &Record, asked: Generation) -> Result<(), Refusal> {
    working(record, asked)?;
    match record.state {
        State::Live => Ok(()),
        state => Err(Refusal::NotLive { generation: asked, state }),
    }
}

fn working(record: &Record, asked: Generation) -> Result<(), Refusal> {
    if asked == Generation(0) {
        return Err(Refusal::Zero);
    }
    if asked != record.generation {
        return Err(Refusal::NotCurrent { asked, current: record.generation, floor: record.floor });
    }
    Ok(())
}

fn plan<const N: usize>(steps: [Step; N], answer: Answer) -> Plan {
    Plan { steps: steps.into(), answer }
}

/// The record after the driver was asked whether the current generation runs; None when nothing changes.
/// Only a live VM can get lost: one being made or destroyed waits for its verb to be repeated.
#[must_use]
pub fn observe(record: &Record, runs: bool) -> Option<Record> {
    match record.state {
        State::Live if !runs && !record.settled => Some(Record { state: State::Lost, ..record.clone() }),
        State::Live | State::Absent | State::Creating | State::Destroying | State::Lost => None,
    }
}

/// The record a starting node goes on with in the machine's boot `boot`. A VM that dies with the machine is lost when its
/// record is of another boot, whatever that says: later ones may have been lost in a power cut, with which it was opened,
/// used, or destroyed.
#[must_use]
pub fn after_start(rules: Rules, record: Record, boot: &str, dies_with_machine: bool) -> Record {
    if record.boot.is_empty() || record.boot == boot {
        return record;
    }
    if !rules.lasting_floor {
        return Record::default();
    }
    match record.state {
        State::Creating | State::Live | State::Destroying if dies_with_machine && rules.lost_by_reboot => {
            Record { state: State::Lost, ..record }
        }
        State::Absent | State::Creating | State::Live | State::Destroying | State::Lost => record,
    }
}

/// A slot's line of the inventory (P5.2); None: not told.
#[must_use]
pub fn facts(rules: Rules, slot: InstanceUuid, record: &Record) -> Option<SlotFacts> {
    if !rules.full_inventory && record.state != State::Live {
        return None;
    }
    Some(SlotFacts {
        slot,
        floor: record.floor,
        generation: record.generation,
        state: record.state.into(),
        holder: record.holder,
        opened: record.opened,
    })
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "slot_history.rs"]
mod history;
