//! The command line of QEMU (7.2 and later).

use std::{collections::BTreeSet, os::fd::OwnedFd};

use super::{
    super::{Drive, Firmware, HypervisorError, MachinePlan, Nic, NicBackend, Program, Setup, Tuning},
    accel::Accelerator,
    boot_order::{Bootable, positions},
    settings::Settings,
};
use crate::spec::{DiskModel, Media, NicModel, disk::drive_name, place::SLOTS};

/// The first number that a descriptor of ours has; lower ones are standard streams and the
/// launcher's.
const FIRST_DESCRIPTOR: i32 = 10;
// PCI slots of the pc machine: 0 is the bridge, 1 the PIIX3 with IDE and USB, 2 the screen, 3 SCSI, 4 the random
// numbers; the machine's own devices have theirs from the lower end of the others, and those of one boot from the upper.

/// QEMU with one machine, stopped before its first instruction.
pub(super) fn program(
    settings: &Settings,
    accelerator: &Accelerator,
    plan: MachinePlan,
) -> Result<Program, HypervisorError> {
    let mut builder = Builder {
        arguments: Vec::new(),
        descriptors: Vec::new(),
        slots: taken(&plan),
        bootables: Vec::new(),
    };
    let b = &mut builder;
    identity(b, &plan);
    b.option("-machine", format!("pc,accel={}", accelerator.name));
    let usual = if accelerator.name == "kvm" { &settings.kvm_cpu } else { &settings.tcg_cpu };
    b.option("-cpu", cpu(plan.tuning.cpu_type.as_ref().unwrap_or(usual), accelerator));
    b.option("-m", format!("{}M", plan.ram));
    b.option("-smp", plan.vcpus.to_string());
    b.flag("-S");
    // Screen, keyboard and mouse; VNC clients are handed over one by one.
    b.option("-display", "none");
    b.option("-vga", plan.tuning.vga.as_deref().unwrap_or("std"));
    // Whether a client is asked for the password is said when it is handed over. One that wants the screen for
    // itself alone disconnects nobody.
    b.option("-vnc", "none,password=on,share=ignore");
    match &plan.tuning.options {
        Some(words) => b.words(words),
        None => {
            b.option("-device", "piix3-usb-uhci,addr=1.2");
            b.option("-device", "usb-tablet");
        }
    }
    // The console: standard input and output.
    b.option("-chardev", "stdio,id=console,signal=off");
    b.option("-serial", "chardev:console");
    // Whom the guest asks about itself.
    let metadata = b.descriptor(plan.metadata);
    b.option("-chardev", format!("socket,id=metadata,fd={metadata},server=on,wait=off"));
    b.option("-serial", "chardev:metadata");
    let control = b.descriptor(plan.control);
    b.option("-chardev", format!("socket,id=control,fd={control},server=on,wait=off"));
    b.option("-mon", "chardev=control,mode=control");
    b.option("-object", "rng-builtin,id=random");
    b.option("-device", "virtio-rng-pci,rng=random,addr=4");
    b.option("-device", "pvpanic");
    b.option("-action", format!("panic={}", plan.tuning.on_panic.as_deref().unwrap_or("none")));
    // What has no position is not booted from.
    b.option("-boot", "strict=on");
    for event in super::trace::EVENTS {
        b.option("-trace", event);
    }
    firmware(b, plan.firmware);
    drives(b, plan.drives)?;
    if let Some(disk) = plan.seed {
        b.node("seed", disk, true);
        let slot = b.slot(None)?;
        b.option("-device", format!("virtio-blk-pci,addr={slot:x},drive=seed,id=seed,serial=cidata"));
    }
    nics(b, plan.nics, &plan.tuning, accelerator.name == "kvm")?;
    if let Some(words) = &plan.tuning.extra_options {
        b.words(words);
    }
    let positions = boot_positions(b, &plan.order, plan.once.as_ref(), plan.order_is_given)?;
    let setup = Setup { vnc_password: plan.tuning.vnc_password, ..positions };
    Ok(Program {
        path: settings.binary.clone(),
        arguments: builder.arguments,
        descriptors: builder.descriptors,
        setup,
        accelerator: accelerator.name.to_owned(),
    })
}

/// All that the host can do: TCG has another word for it than KVM.
pub(super) fn cpu(model: &str, accelerator: &Accelerator) -> String {
    match model.strip_prefix("host").filter(|rest| rest.is_empty() || rest.starts_with(',')) {
        Some(flags) if accelerator.name == "tcg" => format!("max{flags}"),
        _ => model.to_owned(),
    }
}

/// The device that a disk of that model is; none where the brand has no such.
pub(super) fn disk_device(model: DiskModel, media: Media) -> Option<&'static str> {
    let cd = media == Media::Cdrom;
    match model {
        DiskModel::Virtio => Some("virtio-blk-pci"),
        DiskModel::Scsi => Some(if cd { "scsi-cd" } else { "scsi-hd" }),
        DiskModel::Ide => Some(if cd { "ide-cd" } else { "ide-hd" }),
        DiskModel::Ahci | DiskModel::Nvme => None,
    }
}

/// The device that an interface of that model is.
pub(super) fn nic_device(model: NicModel) -> &'static str {
    match model {
        NicModel::Virtio => "virtio-net-pci",
        NicModel::E1000 => "e1000",
        NicModel::Rtl8139 => "rtl8139",
    }
}

struct Builder {
    arguments: Vec<String>,
    descriptors: Vec<(OwnedFd, i32)>,
    /// PCI slots that are taken.
    slots: BTreeSet<u8>,
    /// Device, what it is to the firmware, and where its argument stands.
    bootables: Vec<(String, Bootable, usize)>,
}

impl Builder {
    fn flag(&mut self, name: &str) {
        self.arguments.push(name.to_owned());
    }

    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.arguments.push(name.to_owned());
        self.arguments.push(value.into());
    }

    /// Arguments as somebody typed them.
    fn words(&mut self, text: &str) {
        self.arguments.extend(text.split_whitespace().map(str::to_owned));
    }

    /// A device that the firmware can boot from.
    fn bootable(&mut self, id: &str, kind: Bootable, value: String) {
        self.option("-device", value);
        self.bootables.push((id.to_owned(), kind, self.arguments.len() - 1));
    }

    fn descriptor(&mut self, descriptor: impl Into<OwnedFd>) -> i32 {
        // A plan has a few dozen descriptors at most.
        let number = FIRST_DESCRIPTOR + i32::try_from(self.descriptors.len()).unwrap_or(i32::MAX);
        self.descriptors.push((descriptor.into(), number));
        number
    }

    /// A block node behind which is a descriptor, not a path. Its format is told, never guessed.
    fn node(&mut self, name: &str, descriptor: impl Into<OwnedFd>, read_only: bool) {
        let number = self.descriptor(descriptor);
        let mode = if read_only { "rdonly" } else { "rdwr" };
        let read_only = if read_only { "on" } else { "off" };
        self.option("-add-fd", format!("fd={number},set={number},opaque={mode}:{name}"));
        self.option(
            "-blockdev",
            format!("driver=file,node-name={name}-file,filename=/dev/fdset/{number},read-only={read_only},discard=unmap"),
        );
        self.option(
            "-blockdev",
            format!("driver=raw,node-name={name},file={name}-file,read-only={read_only},discard=unmap"),
        );
    }

    /// The device's own slot; for one that has none, the highest that is free.
    fn slot(&mut self, own: Option<u8>) -> Result<u8, HypervisorError> {
        let free = || SLOTS.rev().find(|slot| !self.slots.contains(slot));
        let slot = own.or_else(free).ok_or_else(|| {
            let message = "the machine has no PCI slot left for another virtio disk or interface";
            HypervisorError::Plan(message.to_owned())
        })?;
        self.slots.insert(slot);
        Ok(slot)
    }
}

/// The slots of devices that have one for life.
fn taken(plan: &MachinePlan) -> BTreeSet<u8> {
    let disks = plan.drives.iter().map(|drive| &drive.place);
    disks.chain(plan.nics.iter().map(|nic| &nic.place)).filter_map(|place| place.slot).collect()
}

/// Names and the SMBIOS identity by which guests of SmartOS know their host.
fn identity(b: &mut Builder, plan: &MachinePlan) {
    let uuid = plan.uuid;
    b.option("-name", format!("{uuid},debug-threads=on"));
    b.option("-uuid", uuid.to_string());
    b.flag("-nodefaults");
    b.flag("-no-user-config");
    b.option("-msg", "timestamp=on");
    b.option(
        "-smbios",
        format!(
            "type=1,manufacturer=Joyent,product=SmartDC HVM,version=7.{},serial={uuid},uuid={uuid},sku=001,family=Virtual Machine",
            env!("CARGO_PKG_VERSION")
        ),
    );
}

fn firmware(b: &mut Builder, firmware: Firmware) {
    let Firmware::Uefi { code, vars } = firmware else { return };
    b.node("uefi-code", code, true);
    b.node("uefi-vars", vars, false);
    b.option("-machine", "pflash0=uefi-code,pflash1=uefi-vars");
}

fn drives(b: &mut Builder, drives: Vec<Drive>) -> Result<(), HypervisorError> {
    if drives.iter().any(|drive| drive.model == DiskModel::Scsi) {
        b.option("-device", "virtio-scsi-pci,id=scsi,addr=3");
    }
    let mut ide = 0;
    for drive in drives {
        let cd = drive.media == Media::Cdrom;
        let id = drive_name(drive.place.number);
        let node = format!("disk{}", drive.place.number);
        let is_empty = drive.file.is_none();
        if let Some(file) = drive.file {
            b.node(&node, file, cd);
        }
        let kind = if cd { Bootable::Cd } else { Bootable::Disk { first: drive.boot } };
        let device = disk_device(drive.model, drive.media).ok_or_else(|| {
            HypervisorError::Plan(format!("the kvm brand has no {} disks", drive.model.as_str()))
        })?;
        let device = match drive.model {
            DiskModel::Virtio => {
                let slot = b.slot(drive.place.slot)?;
                format!("{device},addr={slot:x}")
            }
            DiskModel::Scsi | DiskModel::Ahci | DiskModel::Nvme => format!("{device},bus=scsi.0"),
            DiskModel::Ide if ide == 4 => {
                return Err(HypervisorError::Plan(
                    "the machine takes at most four ide disks and CDs".to_owned(),
                ));
            }
            DiskModel::Ide => {
                ide += 1;
                let (bus, unit) = ((ide - 1) / 2, (ide - 1) % 2);
                format!("{device},bus=ide.{bus},unit={unit}")
            }
        };
        let serial = drive.place.serial.map(|serial| format!(",serial={serial}")).unwrap_or_default();
        let medium = if is_empty { String::new() } else { format!(",drive={node}") };
        b.bootable(&id, kind, format!("{device}{medium},id={id}{serial}"));
    }
    Ok(())
}

fn nics(b: &mut Builder, nics: Vec<Nic>, tuning: &Tuning, kvm: bool) -> Result<(), HypervisorError> {
    for nic in nics {
        let index = nic.place.number;
        let mtu = match nic.backend {
            NicBackend::Hub => {
                b.option("-netdev", format!("hubport,id=net{index},hubid={index}"));
                String::new()
            }
            NicBackend::Tap { tap, vhost, mtu } => {
                let tap = b.descriptor(tap);
                let vhost = vhost.filter(|_| kvm).map(|vhost| b.descriptor(vhost));
                let vhost = vhost.map(|vhost| format!(",vhost=on,vhostfd={vhost}")).unwrap_or_default();
                b.option("-netdev", format!("tap,id=net{index},fd={tap}{vhost}"));
                format!(",host_mtu={mtu}")
            }
        };
        let model = nic_device(nic.model);
        let held_back = match nic.model {
            NicModel::Virtio => mtu + &held_back(tuning),
            NicModel::E1000 | NicModel::Rtl8139 => String::new(),
        };
        let slot = b.slot(nic.place.slot)?;
        let id = format!("nic{index}");
        b.bootable(
            &id,
            Bootable::Nic,
            format!("{model},addr={slot:x},netdev=net{index},mac={},id={id}{held_back}", nic.mac),
        );
    }
    Ok(())
}

/// How a virtio interface gathers packets, where operators say so.
fn held_back(tuning: &Tuning) -> String {
    let timer = tuning.virtio_txtimer.map(|nanos| format!(",tx=timer,x-txtimer={nanos}"));
    let burst = tuning.virtio_txburst.map(|packets| format!(",x-txburst={packets}"));
    timer.unwrap_or_default() + &burst.unwrap_or_default()
}

/// Puts the first boot's positions on the command line, and says what later ones are.
fn boot_positions(
    b: &mut Builder,
    order: &crate::spec::BootOrder,
    once: Option<&crate::spec::BootOrder>,
    is_given: bool,
) -> Result<Setup, HypervisorError> {
    let kinds: Vec<Bootable> = b.bootables.iter().map(|(_, kind, _)| *kind).collect();
    let first_order = once.unwrap_or(order);
    let first = positions(&kinds, first_order);
    if !first.is_empty() && first.iter().all(|position| *position < 0) {
        // Firmware that is given no position boots from whatever it finds: here from the network, if it can.
        if !is_given {
            for (_, _, argument) in b.bootables.iter().filter(|(_, kind, _)| *kind == Bootable::Nic) {
                b.arguments[*argument].push_str(",romfile=");
            }
            return Ok(Setup::default());
        }
        let why = format!(
            "the boot order \"{first_order}\" names nothing that the VM has: c is a disk, d a CD, n the network"
        );
        return Err(HypervisorError::Plan(why));
    }
    for ((_, _, argument), position) in b.bootables.iter().zip(&first) {
        if *position >= 0 {
            b.arguments[*argument].push_str(&format!(",bootindex={position}"));
        }
    }
    let later = positions(&kinds, order);
    if later == first {
        return Ok(Setup::default());
    }
    let names = b.bootables.iter().map(|(id, _, _)| id.clone());
    Ok(Setup { boot_positions: names.zip(later).collect(), ..Setup::default() })
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fs::File};

    use uuid::Uuid;

    use super::*;
    use crate::{
        hypervisor::NicBackend,
        spec::{NicModel, Place},
    };

    fn drive(model: DiskModel, media: Media) -> Drive {
        let path = "/x".to_owned();
        Drive { file: Some(null()), model, media, boot: false, path, place: Place::default() }
    }

    fn null() -> File {
        File::open("/dev/null").unwrap()
    }

    fn plan(mut drives: Vec<Drive>, nics: usize) -> MachinePlan {
        let mac = "2:0:0:0:0:1".parse().unwrap();
        for (number, drive) in (0..).zip(&mut drives) {
            drive.place = Place { number, serial: Some(format!("disk{number}")), slot: None };
        }
        let nic = |number| Nic {
            place: Place { number, ..Place::default() },
            mac,
            model: NicModel::Virtio,
            backend: NicBackend::Hub,
        };
        MachinePlan {
            uuid: Uuid::from_u128(1),
            ram: 1024,
            vcpus: 2,
            tuning: Tuning::default(),
            firmware: Firmware::Bios,
            drives,
            seed: None,
            nics: (0..u32::try_from(nics).unwrap()).map(nic).collect(),
            order: "cd".parse().unwrap(),
            once: Some("d".parse().unwrap()),
            order_is_given: true,
            control: null().into(),
            metadata: null().into(),
        }
    }

    fn build(plan: MachinePlan) -> Result<Program, HypervisorError> {
        let accelerator = Accelerator { name: "tcg", reason: String::new() };
        program(&Settings::default(), &accelerator, plan)
    }

    #[test]
    fn every_descriptor_has_its_number_and_no_path_is_named() {
        let drives = vec![drive(DiskModel::Virtio, Media::Disk), drive(DiskModel::Ide, Media::Cdrom)];
        let mut plan = plan(drives, 1);
        plan.firmware = Firmware::Uefi { code: null(), vars: null() };
        let program = build(plan).unwrap();
        let numbers: HashSet<i32> = program.descriptors.iter().map(|(_, n)| *n).collect();
        assert_eq!(numbers, (10..16).collect());
        let line = program.arguments.join(" ");
        for word in line.split(['=', ',', ' ']).filter(|word| word.starts_with('/')) {
            assert!(word.starts_with("/dev/fdset/"), "{word}");
        }
        assert!(line.contains("-m 1024M -smp 2"), "{line}");
        assert!(line.contains("mac=02:00:00:00:00:01"), "{line}");
    }

    #[test]
    fn once_is_on_the_command_line_and_order_is_set_later() {
        let program =
            build(plan(vec![drive(DiskModel::Virtio, Media::Disk), drive(DiskModel::Ide, Media::Cdrom)], 1))
                .unwrap();
        let device = |id: &str| program.arguments.iter().find(|a| a.contains(&format!("id={id}"))).unwrap();
        assert!(!device("drive0").contains("bootindex"));
        assert!(device("drive1").ends_with("bootindex=0"));
        let later = [("drive0", 0), ("drive1", 1), ("nic0", -1)].map(|(id, p)| (id.to_owned(), p));
        assert_eq!(program.setup.boot_positions, later);

        let same = MachinePlan { once: None, ..plan(vec![drive(DiskModel::Virtio, Media::Disk)], 0) };
        assert_eq!(build(same).unwrap().setup, Setup::default());
    }

    /// With no position at all, firmware boots from what it finds.
    #[test]
    fn an_order_that_names_nothing_is_refused() {
        let of = |order: &str, drives, nics| {
            let order: crate::spec::BootOrder = order.parse().unwrap();
            let order_is_given = order != crate::spec::BootOrder::default();
            build(MachinePlan { order, once: None, order_is_given, ..plan(drives, nics) })
        };
        let disk = || vec![drive(DiskModel::Virtio, Media::Disk)];
        for (order, drives, nics) in [("n", disk(), 0), ("d", disk(), 1)] {
            let error = of(order, drives, nics).unwrap_err().to_string();
            assert!(error.contains(&format!("\"{order}\"")), "{error}");
        }
        of("dc", disk(), 1).unwrap();
        of("cd", vec![], 0).unwrap();
        // The usual one, and nothing but a network, from which it does not boot.
        let bare = of("cd", vec![], 1).unwrap();
        assert!(
            bare.arguments.iter().any(|argument| argument.ends_with(",romfile=")),
            "{:?}",
            bare.arguments
        );
    }

    #[test]
    fn slots_run_out_with_an_error() {
        let most = SLOTS.len();
        let network = |nics| MachinePlan { order: "n".parse().unwrap(), once: None, ..plan(vec![], nics) };
        build(network(most)).unwrap();
        assert!(matches!(build(network(most + 1)), Err(HypervisorError::Plan(_))));
        let ide = |n| (0..n).map(|_| drive(DiskModel::Ide, Media::Cdrom)).collect();
        build(plan(ide(4), 0)).unwrap();
        assert!(matches!(build(plan(ide(5), 0)), Err(HypervisorError::Plan(_))));
    }
}
