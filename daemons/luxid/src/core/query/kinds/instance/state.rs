//! What an instance should be and what it is: the overlay of a slot's record, and the status word.

use super::node_of;
use crate::core::mirror::InstanceRow;
use crate::core::query::cell::{Cell, Missing};
use crate::core::query::field::{Ctx, Field};
use gantry_model::config::{AdminState, SlotState};
use gantry_model::ids::NodeUuid;
use gantry_proto::noded::VmFacts;
use serde_json::{Value, json};

/// Who sets the state of a pool's slot: never a user inside.
const SOURCE_ADMIN: &str = "admin";

/// The wanted state that clients see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Only reserves room.
    pub forthcoming: bool,
    /// Wanted state.
    pub admin: AdminState,
    /// A VM is being made: it counts as running before its node says so (`model.md` §2.5).
    pub starting: bool,
}

impl Wanted {
    pub fn of(row: &InstanceRow) -> Self {
        let instance = &row.instance;
        if instance.pool.is_none() {
            return Self { forthcoming: instance.forthcoming, admin: instance.admin_state, starting: false };
        }
        let state = row.slot.as_ref().map_or(SlotState::Absent, |slot| slot.state);
        let (forthcoming, admin, starting) = match state {
            SlotState::Absent => (true, AdminState::Down, false),
            SlotState::Creating | SlotState::Booting => (false, AdminState::Up, true),
            SlotState::Clean | SlotState::Leased => (false, AdminState::Up, false),
            SlotState::Dirty | SlotState::Destroying => (false, AdminState::Down, false),
        };
        Self { forthcoming, admin, starting }
    }
}

fn source(row: &InstanceRow) -> &str {
    if row.instance.pool.is_some() { SOURCE_ADMIN } else { &row.instance.admin_state_source }
}

/// The running VM of the slot's current generation, and the node that has it; the home node first.
fn running<'a>(row: &InstanceRow, ctx: &Ctx<'a>) -> Option<(NodeUuid, &'a VmFacts)> {
    let generation = row.slot.as_ref()?.generation;
    let home = row.instance.primary_node;
    let seen = ctx.live.vms(row.instance.uuid).iter();
    let current = seen.filter(|(_, vm)| vm.running && vm.generation == generation);
    current.map(|(node, vm)| (*node, vm)).max_by_key(|(node, _)| *node == home)
}

/// What stands in live fields when the home node can't tell.
fn silent(row: &InstanceRow, ctx: &Ctx<'_>) -> Option<Missing> {
    match node_of(row, ctx) {
        Some(node) if node.offline => Some(Missing::Offline),
        Some(node) if ctx.live.answered(node.uuid) => None,
        Some(_) | None => Some(Missing::NoData),
    }
}

/// The status word (`spec/query.md` §6).
pub(super) fn status(row: &InstanceRow, ctx: &Ctx<'_>) -> &'static str {
    let wanted = Wanted::of(row);
    if wanted.forthcoming {
        return "ADMIN_down";
    }
    let up = wanted.admin == AdminState::Up;
    match (silent(row, ctx), running(row, ctx)) {
        (Some(Missing::Offline), _) => "ERROR_nodeoffline",
        (Some(_), None) => "ERROR_nodedown",
        (_, Some((node, _))) if node != row.instance.primary_node => "ERROR_wrongnode",
        (_, Some(_)) if up => "running",
        (_, Some(_)) => "ERROR_up",
        (None, None) if up && wanted.starting => "running",
        (None, None) => stopped(row, ctx, wanted.admin),
    }
}

fn stopped(row: &InstanceRow, ctx: &Ctx<'_>, admin: AdminState) -> &'static str {
    match admin {
        AdminState::Up => "ERROR_down",
        AdminState::Down if source(row) == "user" && user_shutdown(ctx) => "USER_down",
        AdminState::Down => "ADMIN_down",
        AdminState::Offline => "ADMIN_offline",
    }
}

fn user_shutdown(ctx: &Ctx<'_>) -> bool {
    ctx.cluster.and_then(|c| c.extra.get("enabled_user_shutdown")).and_then(Value::as_bool).unwrap_or(false)
}

/// A fact of the running VM: status 3 when nothing runs, 2 or 4 when the node can't tell.
fn fact<'a>(row: &InstanceRow, ctx: &Ctx<'a>, get: impl FnOnce(&'a VmFacts) -> Cell<'a>) -> Cell<'a> {
    if Wanted::of(row).forthcoming {
        return Cell::UNAVAIL;
    }
    match (running(row, ctx), silent(row, ctx)) {
        (_, Some(Missing::Offline)) => Cell::Missing(Missing::Offline),
        (Some((_, vm)), _) => get(vm),
        (None, Some(missing)) => Cell::Missing(missing),
        (None, None) => Cell::UNAVAIL,
    }
}

fn oper_state<'a>(row: &InstanceRow, ctx: &Ctx<'a>) -> Cell<'a> {
    if Wanted::of(row).forthcoming {
        return Cell::Bool(false);
    }
    match (running(row, ctx), silent(row, ctx)) {
        (_, Some(Missing::Offline)) => Cell::Missing(Missing::Offline),
        (Some(_), _) => Cell::Bool(true),
        (None, Some(missing)) => Cell::Missing(missing),
        (None, None) => Cell::Bool(false),
    }
}

/// The fake driver has nothing to attach to and says so; for other drivers there is none yet.
fn console<'a>(row: &'a InstanceRow, ctx: &Ctx<'a>) -> Cell<'a> {
    let instance = &row.instance;
    fact(row, ctx, |_| match instance.hypervisor.as_str() {
        "fake" => {
            let message = format!("Instance {} is of the fake driver and has no console", instance.name);
            Cell::Made(json!({ "instance": instance.name, "kind": "msg", "message": message }))
        }
        _ => Cell::UNAVAIL,
    })
}

pub(super) fn fields() -> Vec<Field<InstanceRow>> {
    type F = Field<InstanceRow>;
    vec![
        F::text("admin_state", "InstanceState", "Wanted state: up, down or offline", |r, _| {
            Cell::Str(Wanted::of(r).admin.as_str())
        }),
        F::text(
            "admin_state_source",
            "InstanceStateSource",
            "Who set the wanted state: admin or user",
            |r, _| Cell::Str(source(r)),
        ),
        F::bool("admin_up", "Autostart", "Whether the wanted state is up", |r, _| {
            Cell::Bool(Wanted::of(r).admin == AdminState::Up)
        }),
        F::other("console", "Console", "How to reach the console", console).live(),
        F::bool(
            "forthcoming",
            "Forthcoming",
            "Whether it only reserves room and nothing lives in it",
            |r, _| Cell::Bool(Wanted::of(r).forthcoming),
        ),
        F::unit("oper_ram", "Memory", "Memory that the VM uses now", |r, ctx| {
            fact(r, ctx, |vm| Cell::Uint(vm.memory_mib))
        })
        .live(),
        F::bool("oper_state", "Running", "Whether the VM runs", oper_state).live(),
        F::number("oper_vcpus", "VCPUs", "CPUs that the VM has now", |r, ctx| {
            fact(r, ctx, |vm| Cell::Uint(vm.vcpus))
        })
        .live(),
        F::text("status", "Status", STATUS_DOC, |r, ctx| Cell::Str(status(r, ctx))).live(),
    ]
}

const STATUS_DOC: &str = "What is wanted against what is: running, ADMIN_down and ADMIN_offline agree; USER_down was \
    shut down from inside; ERROR_up runs unwanted, ERROR_down is wanted and does not run, ERROR_wrongnode runs away \
    from home, ERROR_nodedown has a home node that does not answer, ERROR_nodeoffline one that is marked offline";
