//! Gantry's own opcodes: blueprints, pools, slots, tasks, images (`model.md` §2.9). None exists in Ganeti. None takes
//! the big lock or a node's lock: revisions, generations and leases guard what they change (DESIGN §5).

use crate::opcode::Relevance::A;
use crate::opcode::Type::{Bool, List, OneName, OneOf, Pos, Text, Tuple, Uint};
use crate::opcode::named::{OBJECT, TEXTS};
use crate::opcode::{Fill, OpcodeSpec, def, opt, req};

/// (slot uuid, generation).
const SLOTS: crate::opcode::Type = List(&Tuple(&[Text, Uint]));

pub(super) const SPECS: &[OpcodeSpec] = &[
    OpcodeSpec {
        id: "OP_BLUEPRINT_ADD",
        relevance: A,
        summary: Some("blueprint_name"),
        needs_bgl: false,
        params: &[
            req("blueprint_name", Text),
            req("driver", OneName(&["fake", "oci"])),
            req("image", Text),
            def("memory_mib", Uint, Fill::Int(256)),
            def("vcpus", Uint, Fill::Int(1)),
            def("disk_mib", Uint, Fill::Int(64)),
            def("pids", Uint, Fill::Int(64)),
            def("recycle", OneName(&["destroy"]), Fill::Str("destroy")),
            def("wall_s_max", Uint, Fill::Int(3600)),
            def("lease_s_max", Uint, Fill::Int(86_400)),
            def("tags", TEXTS, Fill::EmptyList),
        ],
    },
    OpcodeSpec {
        id: "OP_BLUEPRINT_MODIFY",
        relevance: A,
        summary: Some("blueprint_name"),
        needs_bgl: false,
        params: &[req("blueprint_name", Text), req("set", OBJECT)],
    },
    OpcodeSpec {
        id: "OP_BLUEPRINT_REMOVE",
        relevance: A,
        summary: Some("blueprint_name"),
        needs_bgl: false,
        params: &[req("blueprint_name", Text)],
    },
    OpcodeSpec {
        id: "OP_POOL_ADD",
        relevance: A,
        summary: Some("pool_name"),
        needs_bgl: false,
        params: &[
            req("pool_name", Text),
            req("blueprint", Text),
            opt("group_name", &Text),
            def("min", Uint, Fill::Int(0)),
            opt("max", &Uint),
            req("amount", Uint),
            def("spare", Uint, Fill::Int(0)),
            def("lifetime_s", Uint, Fill::Int(0)),
            def("connect_timeout_s", Pos, Fill::Int(120)),
            def("tags", TEXTS, Fill::EmptyList),
        ],
    },
    OpcodeSpec {
        id: "OP_POOL_MODIFY",
        relevance: A,
        summary: Some("pool_name"),
        needs_bgl: false,
        params: &[req("pool_name", Text), req("set", OBJECT)],
    },
    OpcodeSpec {
        id: "OP_POOL_RESIZE",
        relevance: A,
        summary: Some("pool_name"),
        needs_bgl: false,
        params: &[req("pool_name", Text), req("amount", Uint)],
    },
    OpcodeSpec {
        id: "OP_POOL_DRAIN",
        relevance: A,
        summary: Some("pool_name"),
        needs_bgl: false,
        params: &[req("pool_name", Text), def("drain", Bool, Fill::Bool(true))],
    },
    OpcodeSpec {
        id: "OP_POOL_REMOVE",
        relevance: A,
        summary: Some("pool_name"),
        needs_bgl: false,
        params: &[req("pool_name", Text), def("force", Bool, Fill::Bool(false))],
    },
    // Adds the slots that are missing, each with a home node that has room for it.
    OpcodeSpec {
        id: "OP_POOL_EXPAND",
        relevance: A,
        summary: Some("pool_name"),
        needs_bgl: false,
        params: &[req("pool_name", Text)],
    },
    OpcodeSpec {
        id: "OP_SLOT_CREATE",
        relevance: A,
        summary: None,
        needs_bgl: false,
        params: &[req("slots", SLOTS)],
    },
    OpcodeSpec {
        id: "OP_SLOT_DESTROY",
        relevance: A,
        summary: None,
        needs_bgl: false,
        // With `recreate` what became ABSENT and is still wanted is created in the same job.
        params: &[req("slots", SLOTS), def("recreate", Bool, Fill::Bool(false))],
    },
    OpcodeSpec {
        id: "OP_SLOT_VERIFY",
        relevance: A,
        summary: None,
        needs_bgl: false,
        params: &[req("slots", SLOTS)],
    },
    // Makes slots drained: CLEAN ones DIRTY, ABSENT ones go.
    OpcodeSpec {
        id: "OP_SLOT_DRAIN",
        relevance: A,
        summary: None,
        needs_bgl: false,
        params: &[req("slots", SLOTS), def("why", Text, Fill::Str("drained"))],
    },
    // By name, or by slot and generation: then others of the lot that changed are left alone. A leased one only with force,
    // which breaks its lease, and with `only_lost` only while its node is lost.
    OpcodeSpec {
        id: "OP_SLOT_RECYCLE",
        relevance: A,
        summary: None,
        needs_bgl: false,
        params: &[
            req("slots", OneOf(&[TEXTS, SLOTS])),
            def("force", Bool, Fill::Bool(false)),
            def("only_lost", Bool, Fill::Bool(false)),
            def("why", Text, Fill::Str("recycled by operator")),
        ],
    },
    OpcodeSpec {
        id: "OP_NODE_AUDIT",
        relevance: A,
        summary: Some("node_name"),
        needs_bgl: false,
        params: &[req("node_name", Text), opt("node_uuid", &Text)],
    },
    OpcodeSpec {
        id: "OP_OS_IMPORT",
        relevance: A,
        summary: Some("image_name"),
        needs_bgl: false,
        params: &[req("image_name", Text), req("digest", Text), req("bytes", Pos)],
    },
    OpcodeSpec {
        id: "OP_OS_REMOVE",
        relevance: A,
        summary: Some("image_name"),
        needs_bgl: false,
        params: &[req("image_name", Text)],
    },
    // luxid alone submits it: one attempt of a task on its lease.
    OpcodeSpec {
        id: "OP_TASK_RUN",
        relevance: A,
        summary: Some("task"),
        needs_bgl: false,
        params: &[
            req("task", Pos),
            req("attempt", Pos),
            req("lease", Text),
            req("slot", Text),
            req("generation", Uint),
            req("node", Text),
            req("spec", OBJECT),
        ],
    },
];
