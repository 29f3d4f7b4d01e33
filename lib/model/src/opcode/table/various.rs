//! Opcodes on OS definitions, queries through a job, tags, backups, and the test opcodes.

use crate::opcode::types::{DISK_TEMPLATE, EVACUATION_MODE, EXPORT_MODE, QUERY_KIND, SECRETS, TAG_KIND, TEXTS};
use crate::opcode::types::Type::{Any, Bool, Int, List, Nic, Num, OneName, OneOf, Str, Text, Uint};
use crate::opcode::Relevance::{A, B, C};
use crate::opcode::{OpcodeSpec, Fill, def, opt, req};

pub(super) const SPECS: &[OpcodeSpec] = &[
OpcodeSpec { id: "OP_EXT_STORAGE_DIAGNOSE", relevance: B, summary: None, needs_bgl: false, params: &[req("output_fields", TEXTS), def("names", TEXTS, Fill::EmptyList)] },
OpcodeSpec { id: "OP_OS_DIAGNOSE", relevance: A, summary: None, needs_bgl: false, params: &[req("output_fields", TEXTS), def("names", TEXTS, Fill::EmptyList)] },
OpcodeSpec { id: "OP_QUERY", relevance: B, summary: Some("what"), needs_bgl: false, params: &[req("what", QUERY_KIND), def("use_locking", Bool, Fill::Bool(false)), req("fields", TEXTS), opt("qfilter", &List(&Any))] },
OpcodeSpec { id: "OP_QUERY_FIELDS", relevance: B, summary: Some("what"), needs_bgl: false, params: &[req("what", QUERY_KIND), opt("fields", &TEXTS)] },
OpcodeSpec { id: "OP_TAGS_DEL", relevance: A, summary: None, needs_bgl: false, params: &[req("kind", TAG_KIND), req("tags", List(&Str)), opt("name", &Str)] },
OpcodeSpec { id: "OP_TAGS_GET", relevance: B, summary: Some("kind"), needs_bgl: false, params: &[req("kind", TAG_KIND), def("use_locking", Bool, Fill::Bool(false)), opt("name", &Str)] },
OpcodeSpec { id: "OP_TAGS_SEARCH", relevance: A, summary: Some("pattern"), needs_bgl: false, params: &[req("pattern", Text)] },
OpcodeSpec { id: "OP_TAGS_SET", relevance: A, summary: None, needs_bgl: false, params: &[req("kind", TAG_KIND), req("tags", List(&Str)), opt("name", &Str)] },
OpcodeSpec { id: "OP_BACKUP_EXPORT", relevance: C, summary: Some("instance_name"), needs_bgl: false, params: &[req("instance_name", Str), opt("instance_uuid", &Text), def("compress", Str, Fill::Str("none")), def("shutdown_timeout", Uint, Fill::Int(120)), req("target_node", OneOf(&[Text, List(&Any)])), opt("target_node_uuid", &Text), def("shutdown", Bool, Fill::Bool(true)), def("remove_instance", Bool, Fill::Bool(false)), def("ignore_remove_failures", Bool, Fill::Bool(false)), def("mode", EXPORT_MODE, Fill::Str("local")), opt("x509_key_name", &List(&Any)), opt("destination_x509_ca", &Text), def("zero_free_space", Bool, Fill::Bool(false)), opt("zeroing_timeout_fixed", &Int), opt("zeroing_timeout_per_mib", &Num), def("long_sleep", Bool, Fill::Bool(false))] },
OpcodeSpec { id: "OP_BACKUP_PREPARE", relevance: C, summary: Some("instance_name"), needs_bgl: false, params: &[req("instance_name", Str), opt("instance_uuid", &Text), req("mode", EXPORT_MODE)] },
OpcodeSpec { id: "OP_BACKUP_REMOVE", relevance: C, summary: Some("instance_name"), needs_bgl: false, params: &[req("instance_name", Str), opt("instance_uuid", &Text)] },
OpcodeSpec { id: "OP_TEST_ALLOCATOR", relevance: C, summary: Some("iallocator"), needs_bgl: true, params: &[req("direction", OneName(&["in", "out"])), req("mode", OneName(&["allocate", "allocate-secondary", "change-group", "multi-allocate", "node-evacuate", "relocate"])), req("name", Text), opt("nics", &List(&Nic)), opt("disks", &List(&Any)), opt("hypervisor", &HYPERVISOR), opt("iallocator", &Text), def("tags", TEXTS, Fill::EmptyList), opt("memory", &Uint), opt("vcpus", &Uint), opt("os", &Text), opt("disk_template", &DISK_TEMPLATE), opt("instances", &TEXTS), opt("evac_mode", &EVACUATION_MODE), opt("target_groups", &TEXTS), def("spindle_use", Uint, Fill::Int(1)), def("count", Uint, Fill::Int(1)), opt("group_name", &Text)] },
OpcodeSpec { id: "OP_TEST_DELAY", relevance: A, summary: Some("duration"), needs_bgl: false, params: &[req("duration", Num), def("on_master", Bool, Fill::Bool(true)), def("on_nodes", TEXTS, Fill::EmptyList), opt("on_node_uuids", &TEXTS), def("repeat", Uint, Fill::Int(0)), def("interruptible", Bool, Fill::Bool(false)), def("no_locks", Bool, Fill::Bool(true))] },
OpcodeSpec { id: "OP_TEST_DUMMY", relevance: C, summary: None, needs_bgl: false, params: &[def("result", Any, Fill::Null), def("messages", Any, Fill::Null), def("fail", Any, Fill::Null), def("submit_jobs", Any, Fill::Null)] },
OpcodeSpec { id: "OP_TEST_JQUEUE", relevance: B, summary: None, needs_bgl: false, params: &[def("notify_waitlock", Bool, Fill::Bool(false)), def("notify_exec", Bool, Fill::Bool(false)), def("log_messages", List(&Str), Fill::EmptyList), def("fail", Bool, Fill::Bool(false))] },
OpcodeSpec { id: "OP_TEST_OS_PARAMS", relevance: B, summary: None, needs_bgl: false, params: &[opt("osparams_secret", &SECRETS)] },
];
