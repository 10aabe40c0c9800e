//! The command line of QEMU (7.2 and later).

use super::{
    super::{Firmware, HypervisorError, MachinePlan, Program, Setup},
    accel::Accelerator,
    bhyve,
    boot_order::set_positions,
    builder::Builder,
    devices::{self, taken_slots},
    kvm,
    settings::Settings,
};
use crate::spec::Brand;

/// QEMU with one machine, stopped before its first instruction.
pub(super) fn program(
    settings: &Settings,
    accelerator: &Accelerator,
    brand: Brand,
    plan: MachinePlan,
) -> Result<Program, HypervisorError> {
    let mut builder = Builder::new(taken_slots(&plan.drives, &plan.nics));
    let b = &mut builder;
    identity(b, &plan);
    b.option("-machine", machine(brand, &plan, accelerator));
    let usual = if accelerator.name == "kvm" { &settings.kvm_cpu } else { &settings.tcg_cpu };
    b.option("-cpu", cpu(plan.tuning.cpu_type.as_ref().unwrap_or(usual), accelerator));
    b.option("-m", format!("{}M", plan.ram));
    b.option("-smp", plan.vcpus.to_string());
    b.flag("-S");
    b.option("-display", "none");
    if plan.has_screen {
        // VNC clients are handed over one by one. `add_client` decides whether a client is asked for the
        // password. A client that wants the screen for itself disconnects nobody.
        b.option("-vnc", "none,password=on,share=ignore");
    }
    match brand {
        Brand::Kvm => kvm::own_devices(b, &plan),
        Brand::Bhyve => bhyve::own_devices(b, &plan),
    }
    // The console: standard input and output.
    b.option("-chardev", "stdio,id=console,signal=off");
    b.option("-serial", "chardev:console");
    // The guest's metadata channel.
    let metadata = b.descriptor(plan.metadata);
    b.option("-chardev", format!("socket,id=metadata,fd={metadata},server=on,wait=off"));
    b.option("-serial", "chardev:metadata");
    let control = b.descriptor(plan.control);
    b.option("-chardev", format!("socket,id=control,fd={control},server=on,wait=off"));
    b.option("-mon", "chardev=control,mode=control");
    // Devices without a position are not bootable.
    b.option("-boot", "strict=on");
    for event in super::trace::EVENTS {
        b.option("-trace", event);
    }
    firmware(b, plan.firmware);
    let is_kvm = accelerator.name == "kvm";
    match brand {
        Brand::Kvm => {
            kvm::drives(b, plan.drives)?;
            plan.seed.map(|disk| kvm::seed(b, disk)).transpose()?;
            devices::nics(b, plan.nics, &plan.tuning, is_kvm, kvm::place)?;
        }
        Brand::Bhyve => {
            bhyve::buses(b, &plan.drives)?;
            plan.seed.map(|disk| bhyve::seed(b, disk)).transpose()?;
            bhyve::drives(b, plan.drives)?;
            devices::nics(b, plan.nics, &plan.tuning, is_kvm, bhyve::place)?;
        }
    }
    if let Some(words) = &plan.tuning.extra_options {
        b.words(words);
    }
    let positions = set_positions(b, &plan.order, plan.once.as_ref(), plan.order_is_given)?;
    let setup = Setup { vnc_password: plan.tuning.vnc_password, ..positions };
    Ok(Program {
        path: settings.binary.clone(),
        arguments: builder.arguments,
        descriptors: builder.descriptors,
        setup,
        accelerator: accelerator.name.to_owned(),
    })
}

/// The machine type, or the family's newest if the VM has none.
fn machine(brand: Brand, plan: &MachinePlan, accelerator: &Accelerator) -> String {
    let (newest, options) = match brand {
        Brand::Kvm => ("pc", ""),
        Brand::Bhyve => ("q35", bhyve::MACHINE_OPTIONS),
    };
    format!("{}{options},accel={}", plan.machine_type.as_deref().unwrap_or(newest), accelerator.name)
}

/// Translates `host`, which TCG calls `max`.
pub(super) fn cpu(model: &str, accelerator: &Accelerator) -> String {
    match model.strip_prefix("host").filter(|rest| rest.is_empty() || rest.starts_with(',')) {
        Some(flags) if accelerator.name == "tcg" => format!("max{flags}"),
        _ => model.to_owned(),
    }
}

/// Sets names and the SMBIOS identity by which SmartOS guests recognize their host.
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

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fs::File};

    use uuid::Uuid;

    use super::*;
    use crate::{
        hypervisor::{Drive, Nic, NicBackend, Tuning},
        spec::{BootOrder, DiskModel, Media, NicModel, Place, place::kvm::SLOTS},
    };

    fn drive(model: DiskModel, media: Media) -> Drive {
        let path = "/x".to_owned();
        let place = Place::default();
        Drive {
            file: Some(null()),
            image: None,
            model,
            media,
            boot: false,
            path,
            place,
            block_size: None,
            notrim: false,
        }
    }

    fn null() -> File {
        File::open("/dev/null").unwrap()
    }

    fn plan(mut drives: Vec<Drive>, nics: usize) -> MachinePlan {
        let mac = "2:0:0:0:0:1".parse().unwrap();
        for (number, drive) in (0..).zip(&mut drives) {
            drive.place = Place { number, serial: Some(format!("disk{number}")), ..Place::default() };
        }
        let nic = |number| Nic {
            place: Place { number, ..Place::default() },
            mac,
            model: NicModel::Virtio,
            backend: NicBackend::Hub,
        };
        MachinePlan {
            uuid: Uuid::from_u128(1),
            machine_type: Some("pc-i440fx-7.2".to_owned()),
            has_screen: true,
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
        program(&Settings::default(), &accelerator, Brand::Kvm, plan)
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
        assert!(line.contains("-machine pc-i440fx-7.2,accel=tcg"), "{line}");
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
            let order: BootOrder = order.parse().unwrap();
            let order_is_given = order != BootOrder::default();
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
