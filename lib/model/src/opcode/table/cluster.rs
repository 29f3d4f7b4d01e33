//! Opcodes on the cluster as a whole.

use crate::opcode::types::{DISK_TEMPLATE, OBJECT, OBJECTS, OS_CHANGES, SECRETS_BY_OS, SSH_KEY_TYPE, TEXTS, UID_RANGES, VERIFY_CHECK, VERIFY_CODE};
use crate::opcode::types::Type::{Bool, Int, List, Map, Nic, Pos, Str, Text, Uint};
use crate::opcode::Relevance::{A, B};
use crate::opcode::{OpcodeSpec, Fill, def, opt, req};

pub(super) const SPECS: &[OpcodeSpec] = &[
OpcodeSpec { id: "OP_CLUSTER_ACTIVATE_MASTER_IP", relevance: B, summary: None, needs_bgl: true, params: &[] },
OpcodeSpec { id: "OP_CLUSTER_CONFIG_QUERY", relevance: B, summary: None, needs_bgl: false, params: &[req("output_fields", TEXTS)] },
OpcodeSpec { id: "OP_CLUSTER_DEACTIVATE_MASTER_IP", relevance: B, summary: None, needs_bgl: true, params: &[] },
OpcodeSpec { id: "OP_CLUSTER_DESTROY", relevance: B, summary: None, needs_bgl: true, params: &[] },
OpcodeSpec { id: "OP_CLUSTER_POST_INIT", relevance: B, summary: None, needs_bgl: true, params: &[] },
OpcodeSpec { id: "OP_CLUSTER_QUERY", relevance: B, summary: None, needs_bgl: false, params: &[] },
OpcodeSpec { id: "OP_CLUSTER_REDIST_CONF", relevance: A, summary: None, needs_bgl: false, params: &[] },
OpcodeSpec { id: "OP_CLUSTER_RENAME", relevance: B, summary: Some("name"), needs_bgl: true, params: &[req("name", Text)] },
OpcodeSpec { id: "OP_CLUSTER_RENEW_CRYPTO", relevance: B, summary: None, needs_bgl: false, params: &[def("node_certificates", Bool, Fill::Bool(false)), def("renew_ssh_keys", Bool, Fill::Bool(false)), opt("ssh_key_type", &SSH_KEY_TYPE), opt("ssh_key_bits", &Pos), def("verbose", Bool, Fill::Bool(false)), def("debug", Bool, Fill::Bool(false))] },
OpcodeSpec { id: "OP_CLUSTER_REPAIR_DISK_SIZES", relevance: B, summary: None, needs_bgl: false, params: &[def("instances", TEXTS, Fill::EmptyList)] },
OpcodeSpec { id: "OP_CLUSTER_SET_PARAMS", relevance: A, summary: None, needs_bgl: false, params: &[def("force", Bool, Fill::Bool(false)), opt("hv_state", &OBJECT), opt("disk_state", &OBJECT), opt("vg_name", &Str), opt("enabled_hypervisors", &List(&HYPERVISOR)), opt("hvparams", &OBJECTS), opt("beparams", &OBJECT), opt("os_hvp", &OBJECTS), opt("osparams", &OBJECTS), opt("osparams_private_cluster", &SECRETS_BY_OS), opt("diskparams", &Map(&DISK_TEMPLATE, &OBJECT)), opt("candidate_pool_size", &Pos), opt("max_running_jobs", &Pos), opt("max_tracked_jobs", &Pos), opt("uid_pool", &UID_RANGES), opt("add_uids", &UID_RANGES), opt("remove_uids", &UID_RANGES), opt("maintain_node_health", &Bool), opt("prealloc_wipe_disks", &Bool), opt("nicparams", &Nic), opt("ndparams", &OBJECT), opt("ipolicy", &OBJECT), opt("drbd_helper", &Str), opt("default_iallocator", &Str), opt("default_iallocator_params", &OBJECT), opt("mac_prefix", &Text), opt("master_netdev", &Str), opt("master_netmask", &Uint), opt("reserved_lvs", &TEXTS), opt("hidden_os", &OS_CHANGES), opt("blacklisted_os", &OS_CHANGES), opt("use_external_mip_script", &Bool), opt("enabled_disk_templates", &List(&DISK_TEMPLATE)), opt("modify_etc_hosts", &Bool), opt("file_storage_dir", &Str), opt("shared_file_storage_dir", &Str), opt("gluster_storage_dir", &Str), opt("install_image", &Str), opt("instance_communication_network", &Str), opt("zeroing_image", &Str), opt("compression_tools", &TEXTS), opt("enabled_user_shutdown", &Bool), opt("enabled_data_collectors", &Map(&Str, &Bool)), opt("data_collector_interval", &Map(&Str, &Int))] },
OpcodeSpec { id: "OP_CLUSTER_VERIFY", relevance: A, summary: None, needs_bgl: false, params: &[def("debug_simulate_errors", Bool, Fill::Bool(false)), def("error_codes", Bool, Fill::Bool(false)), def("skip_checks", List(&VERIFY_CHECK), Fill::EmptyList), def("ignore_errors", List(&VERIFY_CODE), Fill::EmptyList), def("verbose", Bool, Fill::Bool(false)), opt("group_name", &Text), def("verify_clutter", Bool, Fill::Bool(false))] },
OpcodeSpec { id: "OP_CLUSTER_VERIFY_CONFIG", relevance: A, summary: None, needs_bgl: false, params: &[def("debug_simulate_errors", Bool, Fill::Bool(false)), def("error_codes", Bool, Fill::Bool(false)), def("ignore_errors", List(&VERIFY_CODE), Fill::EmptyList), def("verbose", Bool, Fill::Bool(false))] },
OpcodeSpec { id: "OP_CLUSTER_VERIFY_DISKS", relevance: B, summary: None, needs_bgl: false, params: &[opt("group_name", &Text)] },
OpcodeSpec { id: "OP_CLUSTER_VERIFY_GROUP", relevance: A, summary: Some("group_name"), needs_bgl: false, params: &[req("group_name", Text), def("debug_simulate_errors", Bool, Fill::Bool(false)), def("error_codes", Bool, Fill::Bool(false)), def("skip_checks", List(&VERIFY_CHECK), Fill::EmptyList), def("ignore_errors", List(&VERIFY_CODE), Fill::EmptyList), def("verbose", Bool, Fill::Bool(false)), def("verify_clutter", Bool, Fill::Bool(false))] },
];
