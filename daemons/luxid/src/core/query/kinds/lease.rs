//! Leases (ADR 0007): those that wconfd granted, oldest first, then the requests that wait for one.

use crate::core::mirror::Snapshot;
use crate::core::query::cell::Cell;
use crate::core::query::field::{Ctx, Field, FieldTable};
use crate::core::query::run::{Inputs, Mentions, OwnNeeds, Pick, Resource};
use gantry_model::error::GanetiError;
use gantry_model::lease::{Lease, LeaseRequest, LeaseState, LeasedVm, RequestState};
use std::sync::{Arc, LazyLock};

pub(in crate::core::query) struct Leases;

/// A lease, before or after its grant.
pub(in crate::core::query) enum Row {
    Granted(Arc<Lease>),
    Waiting(Arc<LeaseRequest>),
}

impl Resource for Leases {
    type Row = Row;
    // A name list must find all it names, and who waits is not known before the shell was asked.
    const KEY: &'static str = "";
    const LATE: bool = true;

    fn fields() -> &'static FieldTable<Row> {
        static TABLE: LazyLock<FieldTable<Row>> = LazyLock::new(|| FieldTable::own(fields()));
        &TABLE
    }

    fn rows(config: &Snapshot, _pick: &Pick) -> Result<Vec<Row>, GanetiError> {
        let mut leases: Vec<&Arc<Lease>> = config.leases().iter().map(|(_, lease)| lease).collect();
        leases.sort_by_key(|lease| (lease.granted, lease.uuid));
        Ok(leases.into_iter().map(|lease| Row::Granted(Arc::clone(lease))).collect())
    }

    fn late_rows(_pick: &Pick, inputs: &mut Inputs) -> Vec<Row> {
        let mut requests = std::mem::take(&mut inputs.requests);
        requests.retain(|request| request.state == RequestState::Waiting);
        requests.sort_by_key(|request| (request.priority, request.received, request.uuid));
        requests.into_iter().map(Row::Waiting).collect()
    }

    fn needs(_pick: &Pick, _mentions: Mentions) -> OwnNeeds {
        OwnNeeds { requests: true, ..OwnNeeds::NOTHING }
    }
}

impl Row {
    fn vms(&self) -> &[LeasedVm] {
        match self {
            Self::Granted(lease) => &lease.vms,
            Self::Waiting(request) => &request.vms,
        }
    }
}

fn ends_in<'a>(row: &'a Row, ctx: &Ctx<'a>) -> Cell<'a> {
    match row {
        Row::Granted(lease) if lease.state == LeaseState::Active => {
            Cell::Uint(lease.ends().saturating_sub(ctx.config.lease_clock()).div_ceil(1000))
        }
        Row::Granted(_) | Row::Waiting(_) => Cell::UNAVAIL,
    }
}

fn fields() -> Vec<Field<Row>> {
    type F = Field<Row>;
    vec![
        F::text("uuid", "Lease", "UUID of the lease", |r, _| match r {
            Row::Granted(lease) => Cell::Uuid(lease.uuid.0),
            Row::Waiting(request) => Cell::Uuid(request.uuid.0),
        }),
        F::text("owner", "Owner", "Who has it, or asks for it", |r, _| match r {
            Row::Granted(lease) => Cell::Text(lease.owner.to_string()),
            Row::Waiting(request) => Cell::Str(&request.user),
        }),
        F::text("pool", "Pool", "The pool of its VMs", |r, _| match r {
            Row::Granted(lease) => Cell::Str(&lease.pool),
            Row::Waiting(request) => Cell::Str(&request.pool),
        }),
        F::text("state", "State", "waiting, active, released or broken", |r, _| match r {
            Row::Granted(lease) => Cell::Str(lease.state.as_str()),
            Row::Waiting(request) => Cell::Str(request.state.as_str()),
        }),
        F::other("vms", "VMs", "Names of the slots of its VMs", |r, ctx| {
            let name = |vm: &LeasedVm| match ctx.config.instances().name(&vm.slot) {
                Some(name) => Cell::Str(name),
                None => Cell::Uuid(vm.slot.0),
            };
            Cell::List(r.vms().iter().map(name).collect())
        }),
        F::other("nodes", "Nodes", "Names of the nodes of its VMs", |r, ctx| {
            let name = |vm: &LeasedVm| match ctx.config.nodes().name(&vm.node) {
                Some(name) => Cell::Str(name),
                None => Cell::Uuid(vm.node.0),
            };
            Cell::List(r.vms().iter().map(name).collect())
        }),
        F::time("since", "Since", "When it was granted, or asked for while it waits", |r, _| match r {
            Row::Granted(lease) => Cell::Float(lease.granted_at),
            Row::Waiting(request) => Cell::Float(request.received.epoch()),
        }),
        F::number("ends_in", "EndsIn", "Seconds until it ends unless it is renewed", ends_in),
        F::number("ttl", "TTL", "Seconds after which it ends when not renewed", |r, _| {
            let ttl = match r {
                Row::Granted(lease) => lease.ttl_ms,
                Row::Waiting(request) => request.ttl_ms,
            };
            ttl.map_or(Cell::UNAVAIL, |ms| Cell::Uint(ms.div_ceil(1000)))
        }),
        F::text("why", "Why", "Why it waits or ended", |r, _| {
            Cell::str_or_unavail(match r {
                Row::Granted(lease) => lease.why.as_deref(),
                Row::Waiting(request) => request.why.as_deref(),
            })
        }),
    ]
}
