//! Opcodes on node groups.

use crate::opcode::Relevance::{A, C};
use crate::opcode::Type::{Bool, Map, Text};
use crate::opcode::named::{ALLOC_POLICY, DISK_TEMPLATE, OBJECT, TEXTS};
use crate::opcode::{Fill, OpcodeSpec, def, opt, req};

pub(super) const SPECS: &[OpcodeSpec] = &[
    OpcodeSpec {
        id: "OP_GROUP_ADD",
        relevance: A,
        summary: Some("group_name"),
        needs_bgl: false,
        params: &[
            req("group_name", Text),
            opt("alloc_policy", &ALLOC_POLICY),
            opt("ndparams", &OBJECT),
            opt("diskparams", &Map(&DISK_TEMPLATE, &OBJECT)),
            opt("hv_state", &OBJECT),
            opt("disk_state", &OBJECT),
            opt("ipolicy", &OBJECT),
        ],
    },
    OpcodeSpec {
        id: "OP_GROUP_ASSIGN_NODES",
        relevance: A,
        summary: Some("group_name"),
        needs_bgl: false,
        params: &[
            req("group_name", Text),
            def("force", Bool, Fill::Bool(false)),
            req("nodes", TEXTS),
            opt("node_uuids", &TEXTS),
        ],
    },
    OpcodeSpec {
        id: "OP_GROUP_EVACUATE",
        relevance: C,
        summary: Some("group_name"),
        needs_bgl: false,
        params: &[
            req("group_name", Text),
            def("early_release", Bool, Fill::Bool(false)),
            opt("iallocator", &Text),
            opt("target_groups", &TEXTS),
            def("sequential", Bool, Fill::Bool(false)),
            def("force_failover", Bool, Fill::Bool(false)),
        ],
    },
    OpcodeSpec {
        id: "OP_GROUP_REMOVE",
        relevance: A,
        summary: Some("group_name"),
        needs_bgl: false,
        params: &[req("group_name", Text)],
    },
    OpcodeSpec {
        id: "OP_GROUP_RENAME",
        relevance: A,
        summary: None,
        needs_bgl: false,
        params: &[req("group_name", Text), req("new_name", Text)],
    },
    OpcodeSpec {
        id: "OP_GROUP_SET_PARAMS",
        relevance: A,
        summary: Some("group_name"),
        needs_bgl: false,
        params: &[
            req("group_name", Text),
            opt("alloc_policy", &ALLOC_POLICY),
            opt("ndparams", &OBJECT),
            opt("diskparams", &Map(&DISK_TEMPLATE, &OBJECT)),
            opt("hv_state", &OBJECT),
            opt("disk_state", &OBJECT),
            opt("ipolicy", &OBJECT),
        ],
    },
    OpcodeSpec {
        id: "OP_GROUP_VERIFY_DISKS",
        relevance: A,
        summary: Some("group_name"),
        needs_bgl: false,
        params: &[req("group_name", Text)],
    },
];
