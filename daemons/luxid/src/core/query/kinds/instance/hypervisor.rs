//! Hypervisor parameters: a field per parameter that any of Ganeti's hypervisors knows.

use super::shown_hypervisor;
use crate::core::mirror::InstanceRow;
use crate::core::query::cell::Cell;
use crate::core::query::field::{Ctx, Field, ValueKind};
use gantry_model::config::{Params, filled};
use serde_json::Value;

type F = Field<InstanceRow>;

/// Parameters of the hypervisor on a whole node, not of an instance: they have no field.
const GLOBAL_PARAMS: [&str; 4] = ["migration_port", "migration_bandwidth", "migration_mode", "xen_cmd"];

/// Titles that are not the field's name.
const TITLES: &[(&str, &str)] = &[
    ("acpi", "ACPI"),
    ("boot_order", "Boot_order"),
    ("cdrom_image_path", "CDROM_image_path"),
    ("cpu_type", "cpu_type"),
    ("disk_type", "Disk_type"),
    ("initrd_path", "Initrd_path"),
    ("kernel_path", "Kernel_path"),
    ("nic_type", "NIC_type"),
    ("pae", "PAE"),
    ("pci_pass", "pci_pass"),
    ("vnc_bind_address", "VNC_bind_address"),
];

const BOOL_PARAMS: &[&str] = &[
    "acpi",
    "pae",
    "serial_console",
    "spice_playback_compression",
    "spice_use_tls",
    "spice_use_vdagent",
    "use_bootloader",
    "use_chroot",
    "use_guest_agent",
    "use_localtime",
    "user_shutdown",
    "vhost_net",
    "viridian",
    "vnc_tls",
    "vnc_x509_verify",
    "vnet_hdr",
];

const NUMBER_PARAMS: &[&str] = &[
    "cpu_cap",
    "cpu_cores",
    "cpu_sockets",
    "cpu_threads",
    "cpu_weight",
    "kvm_pci_reservations",
    "migration_downtime",
    "num_ttys",
    "serial_speed",
    "spice_ip_version",
    "startup_timeout",
    "virtio_net_queues",
];

const OTHER_PARAMS: &[&str] = &[
    "blockdev_prefix",
    "boot_order",
    "bootloader_args",
    "bootloader_path",
    "cdrom2_image_path",
    "cdrom_disk_type",
    "cdrom_image_path",
    "cpu_mask",
    "cpu_type",
    "cpuid",
    "device_model",
    "devices",
    "disk_aio",
    "disk_cache",
    "disk_discard",
    "disk_type",
    "drop_capabilities",
    "extra_cgroups",
    "extra_config",
    "floppy_image_path",
    "init_script",
    "initrd_path",
    "kernel_args",
    "kernel_path",
    "keymap",
    "kvm_extra",
    "kvm_flag",
    "kvm_path",
    "machine_version",
    "mem_path",
    "migration_caps",
    "nic_type",
    "pci_pass",
    "reboot_behavior",
    "root_path",
    "scsi_controller_type",
    "security_domain",
    "security_model",
    "soundhw",
    "spice_bind",
    "spice_image_compression",
    "spice_jpeg_wan_compression",
    "spice_password_file",
    "spice_streaming_video",
    "spice_tls_ciphers",
    "spice_zlib_glz_wan_compression",
    "usb_devices",
    "usb_mouse",
    "vga",
    "vif_script",
    "vif_type",
    "vnc_bind_address",
    "vnc_password_file",
    "vnc_x509_path",
];

fn of_cluster<'a>(row: &InstanceRow, ctx: &Ctx<'a>) -> Option<&'a Params> {
    ctx.cluster?.hvparams.get(shown_hypervisor(&row.instance.hypervisor))
}

/// What the cluster sets for this hypervisor under one operating system.
fn of_os<'a>(os: &str, hypervisor: &str, ctx: &Ctx<'a>) -> Option<&'a Params> {
    ctx.cluster?.extra.get("os_hvp")?.get(os)?.get(hypervisor)?.as_object()
}

/// The cluster's parameters, over them those of the OS, of its variant, and the instance's own.
fn layers<'a>(row: &'a InstanceRow, ctx: &Ctx<'a>) -> [Option<&'a Params>; 4] {
    let (os, hypervisor) = (row.instance.os.as_str(), shown_hypervisor(&row.instance.hypervisor));
    let base = os.split_once('+').and_then(|(base, _)| of_os(base, hypervisor, ctx));
    [of_cluster(row, ctx), base, of_os(os, hypervisor, ctx), Some(&row.instance.hvparams)]
}

fn param<'a>(row: &'a InstanceRow, ctx: &Ctx<'a>, key: &'static str) -> Cell<'a> {
    let set = layers(row, ctx).into_iter().rev().flatten().find_map(|set| set.get(key));
    Cell::json_or_unavail(set)
}

pub(super) fn fields() -> Vec<F> {
    let kinds = [
        (BOOL_PARAMS, ValueKind::Bool),
        (NUMBER_PARAMS, ValueKind::Number),
        (OTHER_PARAMS, ValueKind::Other),
    ];
    let title = |key: &str| TITLES.iter().find(|(name, _)| *name == key).map(|(_, title)| *title);
    let of_kind = |(keys, kind): (&'static [&'static str], ValueKind)| {
        keys.iter().map(move |key| F::keyed("hv", key, title(key), kind, param))
    };
    let mut fields: Vec<F> = kinds.into_iter().flat_map(of_kind).collect();
    fields.push(F::other(
        "custom_hvparams",
        "CustomHypervisorParameters",
        "Hypervisor parameters set on the instance",
        |r, _| Cell::Map(&r.instance.hvparams),
    ));
    fields.push(F::other(
        "hvparams",
        "HypervisorParameters",
        "All effective hypervisor parameters",
        |r, ctx| {
            let mut merged = Params::new();
            for set in layers(r, ctx).into_iter().flatten() {
                merged = filled(&merged, set);
            }
            merged.retain(|key, _| !GLOBAL_PARAMS.contains(&key.as_str()));
            Cell::Made(Value::Object(merged))
        },
    ));
    fields
}
