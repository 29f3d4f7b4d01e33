//! Opcodes on nodes.

use crate::opcode::types::{EVACUATION_MODE, MIGRATION_MODE, OBJECT, STORAGE_TYPE, TEXTS};
use crate::opcode::types::Type::{Bool, Int, Num, OneName, Secret, Text};
use crate::opcode::Relevance::{A, B, C};
use crate::opcode::{OpcodeSpec, Fill, def, opt, req};

pub(super) const SPECS: &[OpcodeSpec] = &[
OpcodeSpec { id: "OP_NODE_ADD", relevance: A, summary: Some("node_name"), needs_bgl: true, params: &[req("node_name", Text), opt("hv_state", &OBJECT), opt("disk_state", &OBJECT), opt("primary_ip", &Text), opt("secondary_ip", &Text), def("readd", Bool, Fill::Bool(false)), opt("group", &Text), opt("master_capable", &Bool), opt("vm_capable", &Bool), opt("ndparams", &OBJECT), def("node_setup", Bool, Fill::Bool(false)), /* JOIN */ opt("join_secret", &Secret(&Text))] },
OpcodeSpec { id: "OP_NODE_EVACUATE", relevance: C, summary: Some("node_name"), needs_bgl: false, params: &[def("early_release", Bool, Fill::Bool(false)), req("node_name", Text), opt("node_uuid", &Text), opt("remote_node", &Text), opt("remote_node_uuid", &Text), opt("iallocator", &Text), req("mode", EVACUATION_MODE), opt("ignore_soft_errors", &Bool)] },
OpcodeSpec { id: "OP_NODE_MIGRATE", relevance: C, summary: Some("node_name"), needs_bgl: false, params: &[req("node_name", Text), opt("node_uuid", &Text), opt("mode", &MIGRATION_MODE), opt("live", &Bool), opt("target_node", &Text), opt("target_node_uuid", &Text), def("allow_runtime_changes", Bool, Fill::Bool(true)), def("ignore_ipolicy", Bool, Fill::Bool(false)), opt("iallocator", &Text)] },
OpcodeSpec { id: "OP_NODE_MODIFY_STORAGE", relevance: C, summary: Some("node_name"), needs_bgl: false, params: &[req("node_name", Text), opt("node_uuid", &Text), req("storage_type", STORAGE_TYPE), opt("name", &Text), req("changes", OBJECT)] },
OpcodeSpec { id: "OP_NODE_POWERCYCLE", relevance: B, summary: Some("node_name"), needs_bgl: false, params: &[req("node_name", Text), opt("node_uuid", &Text), def("force", Bool, Fill::Bool(false))] },
OpcodeSpec { id: "OP_NODE_QUERYVOLS", relevance: C, summary: None, needs_bgl: false, params: &[req("output_fields", TEXTS), def("nodes", TEXTS, Fill::EmptyList)] },
OpcodeSpec { id: "OP_NODE_QUERY_STORAGE", relevance: B, summary: None, needs_bgl: false, params: &[req("output_fields", TEXTS), opt("storage_type", &STORAGE_TYPE), def("nodes", TEXTS, Fill::EmptyList), opt("name", &Text)] },
OpcodeSpec { id: "OP_NODE_REMOVE", relevance: A, summary: Some("node_name"), needs_bgl: true, params: &[req("node_name", Text), opt("node_uuid", &Text)] },
OpcodeSpec { id: "OP_NODE_SET_PARAMS", relevance: A, summary: Some("node_name"), needs_bgl: false, params: &[req("node_name", Text), opt("node_uuid", &Text), def("force", Bool, Fill::Bool(false)), opt("hv_state", &OBJECT), opt("disk_state", &OBJECT), opt("master_candidate", &Bool), opt("offline", &Bool), opt("drained", &Bool), def("auto_promote", Bool, Fill::Bool(false)), opt("master_capable", &Bool), opt("vm_capable", &Bool), opt("secondary_ip", &Text), opt("ndparams", &OBJECT), opt("powered", &Bool)] },
OpcodeSpec { id: "OP_OOB_COMMAND", relevance: B, summary: None, needs_bgl: false, params: &[def("node_names", TEXTS, Fill::EmptyList), opt("node_uuids", &TEXTS), req("command", OneName(&["health", "power-cycle", "power-off", "power-on", "power-status"])), def("timeout", Int, Fill::Int(60)), def("ignore_status", Bool, Fill::Bool(false)), def("power_delay", Num, Fill::Num(2.0))] },
OpcodeSpec { id: "OP_REPAIR_NODE_STORAGE", relevance: C, summary: Some("node_name"), needs_bgl: false, params: &[req("node_name", Text), opt("node_uuid", &Text), req("storage_type", STORAGE_TYPE), opt("name", &Text), def("ignore_consistency", Bool, Fill::Bool(false))] },
OpcodeSpec { id: "OP_RESTRICTED_COMMAND", relevance: B, summary: None, needs_bgl: false, params: &[def("use_locking", Bool, Fill::Bool(false)), req("nodes", TEXTS), opt("node_uuids", &TEXTS), req("command", Text)] },
];
