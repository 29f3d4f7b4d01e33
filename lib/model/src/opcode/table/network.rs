//! Opcodes on networks.

use crate::opcode::Relevance::B;
use crate::opcode::Type::{Bool, Ipv4, Ipv4Net, Ipv6, Ipv6Net, List, OneName, Str, Text};
use crate::opcode::named::TEXTS;
use crate::opcode::{Fill, OpcodeSpec, def, opt, req};

pub(super) const SPECS: &[OpcodeSpec] = &[
    OpcodeSpec {
        id: "OP_NETWORK_ADD",
        relevance: B,
        summary: Some("network_name"),
        needs_bgl: false,
        params: &[
            req("network_name", Text),
            req("network", Ipv4Net),
            opt("gateway", &Ipv4),
            opt("network6", &Ipv6Net),
            opt("gateway6", &Ipv6),
            opt("mac_prefix", &Text),
            opt("add_reserved_ips", &List(&Ipv4)),
            def("conflicts_check", Bool, Fill::Bool(true)),
            def("tags", TEXTS, Fill::EmptyList),
        ],
    },
    OpcodeSpec {
        id: "OP_NETWORK_CONNECT",
        relevance: B,
        summary: Some("network_name"),
        needs_bgl: false,
        params: &[
            req("group_name", Text),
            req("network_name", Text),
            req("network_mode", OneName(&["bridged", "openvswitch", "pool", "routed"])),
            req("network_link", Text),
            def("network_vlan", Str, Fill::Str("")),
            def("conflicts_check", Bool, Fill::Bool(true)),
        ],
    },
    OpcodeSpec {
        id: "OP_NETWORK_DISCONNECT",
        relevance: B,
        summary: Some("network_name"),
        needs_bgl: false,
        params: &[req("group_name", Text), req("network_name", Text)],
    },
    OpcodeSpec {
        id: "OP_NETWORK_REMOVE",
        relevance: B,
        summary: Some("network_name"),
        needs_bgl: false,
        params: &[req("network_name", Text), def("force", Bool, Fill::Bool(false))],
    },
    OpcodeSpec {
        id: "OP_NETWORK_SET_PARAMS",
        relevance: B,
        summary: Some("network_name"),
        needs_bgl: false,
        params: &[
            req("network_name", Text),
            opt("gateway", &Ipv4),
            opt("network6", &Ipv6Net),
            opt("gateway6", &Ipv6),
            opt("mac_prefix", &Text),
            opt("add_reserved_ips", &List(&Ipv4)),
            opt("remove_reserved_ips", &List(&Ipv4)),
        ],
    },
];
