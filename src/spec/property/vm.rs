//! The properties of a VM.

use super::{DISK, Default, Effect, ILLUMOS, Kind, NIC, PCI_DEVICE, Property, ZFS, property};
use crate::spec::{forms, validate};

const MIB: &str = "MiB";
const ZERO_UUID: &str = "\"00000000-0000-0000-0000-000000000000\"";
const COMPRESSION: &[&str] = &[
    "on", "off", "gzip", "gzip-1", "gzip-2", "gzip-3", "gzip-4", "gzip-5", "gzip-6", "gzip-7", "gzip-8",
    "gzip-9", "lz4", "lzjb", "zle",
];
const MEMORY: i64 = 2 * validate::MAX_RAM as i64;
const MANY: i64 = i32::MAX as i64;
const NO_SPICE: Effect = Effect::None("the agent brokers VNC, not SPICE");
const NO_BHYVE: Effect = Effect::None("bhyve runs on illumos hosts");
const KEYS: Kind = Kind::List(&Kind::Text(255), 1000);

/// Of a VM; first what it is, then what it may use, then what it has.
#[rustfmt::skip]
pub const VM: &[Property] = &[
    property("uuid", Kind::Uuid, "Names the VM for life; lower case, 36 characters.").fixed().effect(Effect::Label).default(Default::Computed("made by the agent")).column("UUID", 36),
    property("brand", Kind::Word(&["kvm", "bhyve"]), "Which hypervisor runs the VM. Required.").fixed().column("BRAND", 14),
    property("alias", Kind::Text(4096), "A name for people; not unique.").effect(Effect::Live).column("ALIAS", 10),
    property("hostname", Kind::Form(forms::hostname), "What the guest should call itself.").default(Default::Computed("the uuid")).column("HOSTNAME", 32),
    property("autoboot", Kind::Boolean, "Started at creation and with its host. Set by a start, cleared by a stop: what the operator wants.").effect(Effect::Live).default(Default::Value("true")).column("AUTOBOOT", 8),
    property("owner_uuid", Kind::Text(255), "Whose it is.").effect(Effect::Label).default(Default::Value(ZERO_UUID)).column("OWNER_UUID", 36),
    property("billing_id", Kind::Text(255), "What it is billed as.").effect(Effect::Label).default(Default::Value(ZERO_UUID)).column("BILLING_ID", 36),
    property("package_name", Kind::Text(255), "What was bought; deprecated.").kvm().effect(Effect::Label).column("PACKAGE_NAME", 32),
    property("package_version", Kind::Text(255), "Its version; deprecated.").kvm().effect(Effect::Label).column("PACKAGE_VER", 11),
    property("do_not_inventory", Kind::Boolean, "Controllers should not list it.").effect(Effect::Label).column("DNI", 5),
    property("archive_on_delete", Kind::Boolean, "Keep a bundle when the VM is deleted.").effect(ILLUMOS),

    property("ram", Kind::Integer(1, validate::MAX_RAM as i64, MIB), "Memory of the guest.").default(Default::Value("256")).column("RAM", 7),
    property("vcpus", Kind::Integer(1, validate::MAX_VCPUS as i64, "virtual CPUs"), "Virtual CPUs of the guest.").default(Default::Value("1")).column("VCPUS", 5),
    property("cpu_type", Kind::Form(forms::cpu_type), "The hypervisor's name of a CPU model, like host or qemu64,+aes.").kvm().default(Default::Computed("the host's configuration")).column("CPU_TYPE", 8),
    property("cpu_cap", Kind::Integer(0, validate::MAX_CPU_CAP as i64, "percent of one CPU (0: no cap)"), "Most CPU time of the host.").effect(Effect::Live).default(Default::Computed("no cap")).column("CPU_CAP", 7),
    property("cpu_shares", Kind::Integer(1, validate::MAX_CPU_SHARES as i64, "shares"), "Weight against other VMs while CPUs of the host are short.").effect(Effect::Live).default(Default::Value("100")).column("CPU_SHARE", 9),
    property("max_physical_memory", Kind::Integer(1, MEMORY, MIB), "Memory of the hypervisor in all, guest memory included; a hypervisor that needs more is killed. Raised to ram + 256 when it is less.").effect(Effect::Live).default(Default::Computed("ram + 1024 (kvm), ram + 1280 (bhyve)")).column("MAX_PHYS", 8),
    property("max_locked_memory", Kind::Integer(1, MEMORY, MIB), "Memory that may be locked. Lowered to max_physical_memory when it is more.").default(Default::Computed("max_physical_memory")).column("MAX_LOCKED", 10),
    property("max_swap", Kind::Integer(1, MEMORY, MIB), "Memory and swap together. Raised to max_physical_memory when it is less.").effect(Effect::Live).default(Default::Computed("max_physical_memory")).column("MAX_SWAP", 8),
    property("max_lwps", Kind::Integer(1, validate::MAX_LWPS as i64, "threads"), "Threads of the hypervisor.").effect(Effect::Live).default(Default::Value("2000")).column("MAX_LWP", 7),
    property("max_msg_ids", Kind::Integer(0, MANY, ""), "System V message queues.").effect(ILLUMOS).default(Default::Value("4096")),
    property("max_sem_ids", Kind::Integer(0, MANY, ""), "System V semaphores.").effect(ILLUMOS).default(Default::Value("4096")),
    property("max_shm_ids", Kind::Integer(0, MANY, ""), "System V shared memory segments.").effect(ILLUMOS).default(Default::Value("4096")),
    property("max_shm_memory", Kind::Integer(0, MEMORY, MIB), "System V shared memory.").effect(ILLUMOS).default(Default::Computed("max_physical_memory")),
    property("zfs_io_priority", Kind::Integer(0, validate::MAX_ZFS_IO_PRIORITY as i64, ""), "Weight against other VMs while the host's disks are short.").effect(Effect::Live).default(Default::Value("100")).column("IO_PRIORITY", 11),
    property("limit_priv", Kind::List(&Kind::Text(64), 100), "Privileges of the zone.").effect(Effect::None("zones have the same restrictions always; see restrictions")),

    property("disk_driver", Kind::Word(&["virtio", "scsi", "ide", "ahci", "nvme"]), "Model of new disks that name none.").effect(Effect::Live),
    property("nic_driver", Kind::Word(&["virtio", "e1000", "rtl8139"]), "Model of new interfaces that name none.").effect(Effect::Live),
    property("boot", Kind::Form(forms::boot), "Boot order, like order=cd.").default(Default::Value("\"order=cd\"")),
    property("bootrom", Kind::Word(&["bios", "uefi"]), "The firmware.").default(Default::Value("\"bios\"")),
    property("vga", Kind::Form(forms::vga), "The graphics adapter.").kvm().default(Default::Value("\"std\"")),
    property("vnc_port", Kind::Integer(-1, 65535, "(-1: none, 0: any free port)"), "TCP port of the VNC endpoint.").effect(Effect::Live).default(Default::Value("0")).column("VNC_PORT", 8),
    property("vnc_password", Kind::Secret(8), "Password of the VNC endpoint.").effect(Effect::Live),
    property("spice_port", Kind::Integer(-1, 65535, ""), "TCP port of the SPICE endpoint.").kvm().effect(NO_SPICE),
    property("spice_password", Kind::Secret(255), "Its password.").kvm().effect(NO_SPICE),
    property("spice_opts", Kind::Text(1024), "Its options.").kvm().effect(NO_SPICE),
    property("virtio_txtimer", Kind::Integer(0, MANY, "nanoseconds"), "How long a virtio interface may hold packets back to send several at once.").kvm().default(Default::Computed("not held back")),
    property("virtio_txburst", Kind::Integer(1, MANY, "packets"), "How many packets a virtio interface sends at once.").kvm().default(Default::Computed("the hypervisor's")),
    property("qemu_opts", Kind::Text(4096), "Replaces the tablet and keyboard arguments of QEMU.").kvm(),
    property("qemu_extra_opts", Kind::Text(4096), "Appended to QEMU's arguments, split at blanks.").kvm().column("QEMU_EXTRA_OPTS", 15),
    property("bhyve_extra_opts", Kind::Text(4096), "Appended to bhyve's arguments, split at blanks.").bhyve().effect(NO_BHYVE),
    property("com1", Kind::Text(255), "The first serial port.").bhyve().effect(NO_BHYVE),
    property("com2", Kind::Text(255), "The second serial port.").bhyve().effect(NO_BHYVE),

    property("zpool", Kind::Text(255), "Where volumes are.").fixed().effect(ZFS).default(Default::Value("\"zones\"")).column("ZPOOL", 12),
    property("quota", Kind::Integer(0, MANY, "GiB (0: none)"), "Room of the zone's root.").effect(ZFS).default(Default::ByBrand("10", "1")).column("QUOTA", 5),
    property("flexible_disk_size", Kind::Integer(0, MANY, MIB), "Room of all disks and snapshots together.").bhyve().effect(ZFS).column("FLEX_DISK_SIZE", 14),
    property("zfs_root_compression", Kind::Word(COMPRESSION), "Compression of the zone's root.").effect(ZFS).default(Default::Value("\"off\"")),
    property("zfs_root_recsize", Kind::Integer(0, 131_072, "bytes (0: off)"), "Record size of the zone's root, bytes.").effect(ZFS),
    property("zfs_filesystem_limit", Kind::Integer(0, MANY, ""), "File systems below the zone's root.").effect(ZFS),
    property("zfs_snapshot_limit", Kind::Integer(0, MANY, ""), "Snapshots of the zone's root.").effect(ZFS),
    property("indestructible_zoneroot", Kind::Boolean, "The VM can't be deleted or reprovisioned.").effect(Effect::Live).column("INDESTR_ROOT", 12),
    property("indestructible_delegated", Kind::Boolean, "The VM's delegated data can't be deleted.").effect(Effect::Live).column("INDESTR_DATA", 12),
    property("image_uuid", Kind::Uuid, "Image of the zone's root.").fixed().effect(ZFS).column("IMAGE_UUID", 36),
    property("zone_dataset_uuid", Kind::Uuid, "Image of the zone's root; older.").fixed().effect(ZFS),

    property("disks", Kind::Objects(DISK), "Disks and CDs, in the guest's order.").fixed(),
    property("nics", Kind::Objects(NIC), "Interfaces, in the guest's order.").fixed(),
    property("pci_devices", Kind::Objects(PCI_DEVICE), "Devices of the host that the guest has.").bhyve().fixed().effect(NO_BHYVE),
    property("resolvers", Kind::List(&Kind::Form(forms::ip), 32), "Name servers.").default(Default::Value("[]")),
    property("routes", Kind::FlatObject, "Static routes: destination to gateway.").fixed().default(Default::Value("{}")),
    property("firewall_enabled", Kind::Boolean, "Filter what comes in.").default(Default::Value("false")).column("FIREWALL_ENABLED", 16),
    property("customer_metadata", Kind::FlatObject, "Read and written by the guest.").fixed().effect(Effect::Live).default(Default::Value("{}")),
    property("internal_metadata", Kind::FlatObject, "For operators; the guest sees what its rules allow.").fixed().effect(Effect::Live).default(Default::Value("{}")),
    property("internal_metadata_namespaces", Kind::List(&Kind::Form(forms::namespace), 100), "Prefixes of keys that the guest reads from internal_metadata.").effect(Effect::Live).default(Default::Value("[]")),
    property("tags", Kind::FlatObject, "Free labels.").fixed().effect(Effect::Live).default(Default::Value("{}")),

    property("add_disks", Kind::Objects(DISK), "Disks to add.").in_updates(),
    property("update_disks", Kind::Objects(DISK), "Disks to change, found by path.").in_updates(),
    property("remove_disks", KEYS, "Paths of disks to remove.").in_updates(),
    property("add_nics", Kind::Objects(NIC), "Interfaces to add.").in_updates(),
    property("update_nics", Kind::Objects(NIC), "Interfaces to change, found by mac.").in_updates(),
    property("remove_nics", Kind::List(&Kind::Mac, 1000), "MAC addresses of interfaces to remove.").in_updates(),
    property("add_pci_devices", Kind::Objects(PCI_DEVICE), "Devices to add.").bhyve().in_updates().effect(NO_BHYVE),
    property("update_pci_devices", Kind::Objects(PCI_DEVICE), "Devices to change, found by path.").bhyve().in_updates().effect(NO_BHYVE),
    property("remove_pci_devices", KEYS, "Paths of devices to remove.").bhyve().in_updates().effect(NO_BHYVE),
    property("set_customer_metadata", Kind::FlatObject, "Keys to set.").in_updates().effect(Effect::Live),
    property("remove_customer_metadata", KEYS, "Keys to remove; a key that is also set is set.").in_updates().effect(Effect::Live),
    property("set_internal_metadata", Kind::FlatObject, "Keys to set.").in_updates().effect(Effect::Live),
    property("remove_internal_metadata", KEYS, "Keys to remove; a key that is also set is set.").in_updates().effect(Effect::Live),
    property("set_tags", Kind::FlatObject, "Tags to set.").in_updates().effect(Effect::Live),
    property("remove_tags", KEYS, "Tags to remove; a tag that is also set is set.").in_updates().effect(Effect::Live),
    property("set_routes", Kind::FlatObject, "Routes to set.").in_updates(),
    property("remove_routes", KEYS, "Destinations of routes to remove; one that is also set is set.").in_updates(),

    property("state", Kind::Text(255), "Where the VM is in its life.").known().column("STATE", 16),
    property("zone_state", Kind::Text(255), "Where its zone is.").known().column("ZONE_STATE", 10),
    property("type", Kind::Text(255), "The brand in four letters.").known().column("TYPE", 4),
    property("zonename", Kind::Text(255), "The uuid.").known().column("ZONENAME", 12),
    property("zonepath", Kind::Text(4096), "Where the zone is on the host.").known().column("ZONEPATH", 40),
    property("pid", Kind::Integer(0, MANY, ""), "The hypervisor's process id; while it runs.").known().column("PID", 6),
    property("create_timestamp", Kind::Text(255), "When it was made.").known().column("CREATE_TIMESTAMP", 24),
    property("last_modified", Kind::Text(255), "When it last changed.").known().column("LAST_MODIFIED", 24),
    property("boot_timestamp", Kind::Text(255), "When it was last started; while it runs.").known().column("BOOT_TIMESTAMP", 24),
    property("exit_status", Kind::Integer(0, MANY, ""), "How the hypervisor ended; while it does not run.").known().column("EXIT", 4),
    property("exit_timestamp", Kind::Text(255), "When the hypervisor ended; while it does not run.").known().column("EXIT_TIMESTAMP", 24),
    property("exit_reason", Kind::Text(255), "Why the hypervisor ended; while it does not run.").known().column("EXIT_REASON", 16),
    property("exit_detail", Kind::Text(4096), "The hypervisor's last words, when it failed.").known(),
    property("accelerator", Kind::Text(255), "What runs guest code: kvm or tcg; while it runs.").known().column("ACCELERATOR", 11),
    property("restrictions", Kind::FlatObject, "What the hypervisor is kept from, and by what; while it runs.").known(),
    property("limits", Kind::FlatObject, "What bounds it, and by what; while it runs.").known(),
    property("etag", Kind::Text(255), "Changes whenever the VM does.").known(),
    property("server_uuid", Kind::Text(255), "The host.").known(),
    property("hvm", Kind::Boolean, "It has a hypervisor: always true.").known().column("HVM", 5),
    property("v", Kind::Integer(0, MANY, ""), "Version of vmadm's own format.").known(),
    property("snapshots", Kind::Text(255), "Snapshots of the VM.").known(),
];
