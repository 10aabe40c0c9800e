//! The boot plan: phases, options, and the undo of what failed.

use tonic::Code;
use zoneward::{
    internals::hypervisor::simulated::Faults,
    proto::v1::{self, boot_phase::Phase},
};

use super::support::{Clients, disk, fields, machine, metadata, reason, simulated::Simulated};

async fn with_disk() -> (Simulated, Clients, String) {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let vm = v1::VmSpec {
        ram: Some(512),
        vcpus: Some(2),
        disks: vec![disk(1), v1::DiskSpec { boot: Some(true), ..disk(1) }],
        ..machine()
    };
    let uuid = clients.create(vm).await;
    (agent, clients, uuid)
}

fn boot(uuid: &str, options: v1::BootOptions) -> v1::StartVmRequest {
    v1::StartVmRequest { uuid: uuid.to_owned(), options: Some(options), ..Default::default() }
}

fn cd(path: &str) -> v1::BootDevice {
    v1::BootDevice { path: path.into(), model: "ide".into(), media: v1::boot_device::Media::Cdrom.into() }
}

#[tokio::test]
async fn phases_come_in_order_and_are_journaled() {
    let (agent, mut clients, uuid) = with_disk().await;
    let expected = [
        Phase::ZoneReady,
        Phase::DisksReady,
        Phase::NicsReady,
        Phase::HypervisorSpawned,
        Phase::ControlReady,
        Phase::Running,
    ];
    assert_eq!(clients.start(&uuid).await.unwrap(), expected);
    agent.process(&uuid).print("hello");
    clients.console_until(&uuid, 0, "hello").await;
    let request = v1::WatchEventsRequest {
        start: Some(v1::watch_events_request::Start::Beginning(true)),
        uuids: vec![uuid.clone()],
        ..Default::default()
    };
    let mut stream = clients.events.watch_events(request).await.unwrap().into_inner();
    let mut journaled = Vec::new();
    let mut elapsed = 0;
    while journaled.last() != Some(&Phase::FirstConsoleByte) {
        let item = stream.message().await.unwrap().unwrap().item.unwrap();
        let v1::watch_events_response::Item::Event(event) = item else { continue };
        if let Some(v1::event::Kind::Boot(phase)) = event.kind {
            assert!(phase.elapsed_us >= elapsed, "time goes on");
            elapsed = phase.elapsed_us;
            journaled.push(phase.phase());
        }
    }
    assert_eq!(journaled[..6], expected);
}

#[tokio::test]
async fn options_reach_the_hypervisor_for_one_boot() {
    let (agent, mut clients, uuid) = with_disk().await;
    std::fs::write(agent.zonepath(&uuid).join("root/tiny.iso"), "iso").unwrap();
    let own = clients.get(&uuid).await.unwrap().spec.unwrap().disks[0].path.clone().unwrap();
    let second = v1::BootDevice {
        path: own.clone(),
        model: "scsi".into(),
        media: v1::boot_device::Media::Disk.into(),
    };
    let options =
        v1::BootOptions { order: "nc".into(), once: "d".into(), devices: vec![cd("/tiny.iso"), second] };
    clients.start_with(boot(&uuid, options)).await.unwrap();
    let arguments = agent.process(&uuid).arguments.clone();
    let zone = agent.zonepath(&uuid).display().to_string();
    assert_eq!(
        arguments,
        [
            "ram=512".to_owned(),
            "vcpus=2".to_owned(),
            "firmware=bios".to_owned(),
            "machine=pc-i440fx-7.2 screen=true".to_owned(),
            "order=nc".to_owned(),
            "once=d".to_owned(),
            format!("drive={zone}/disk1,virtio,disk,boot=true"),
            "drive=/tiny.iso,ide,cdrom,boot=false".to_owned(),
            format!("drive={own},scsi,disk,boot=false"),
            "vga=std".to_owned(),
        ]
    );
    clients.stop(&uuid, true).await.unwrap();
    clients.start(&uuid).await.unwrap();
    let arguments = agent.process(&uuid).arguments.clone();
    assert!(
        arguments.contains(&"order=cd".to_owned()) && arguments.contains(&"once=".to_owned()),
        "{arguments:?}"
    );
    assert!(!arguments.iter().any(|a| a.contains("tiny.iso")));
}

#[tokio::test]
async fn uefi_and_nics_reach_the_hypervisor() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let nic = v1::NicSpec {
        nic_tag: Some("a".into()),
        model: Some("rtl8139".into()),
        mac: Some("02:00:00:00:00:09".into()),
        ..Default::default()
    };
    let uuid =
        clients.create(v1::VmSpec { bootrom: Some("uefi".into()), nics: vec![nic], ..machine() }).await;
    clients.start(&uuid).await.unwrap();
    let arguments = agent.process(&uuid).arguments.clone();
    assert!(arguments.contains(&"firmware=uefi".to_owned()));
    assert!(arguments.contains(&"nic=02:00:00:00:00:09,rtl8139".to_owned()), "{arguments:?}");
}

/// What operators say in the hypervisor's own words arrives there.
#[tokio::test]
async fn the_hypervisors_own_words_reach_it() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let spec = v1::VmSpec {
        cpu_type: Some("qemu64,+aes".into()),
        vga: Some("qxl".into()),
        virtio_txtimer: Some(5),
        virtio_txburst: Some(6),
        qemu_opts: Some("-usb".into()),
        qemu_extra_opts: Some("-snapshot -S".into()),
        vnc_password: Some("pw".into()),
        boot: Some("order=n,once=d".into()),
        ..machine()
    };
    let uuid = clients.create(spec).await;
    clients.start(&uuid).await.unwrap();
    let arguments = agent.process(&uuid).arguments.clone();
    for wanted in [
        "order=n",
        "once=d",
        "cpu_type=qemu64,+aes",
        "vga=qxl",
        "virtio_txtimer=5",
        "virtio_txburst=6",
        "qemu_opts=-usb",
        "qemu_extra_opts=-snapshot -S",
        "vnc_password=pw",
    ] {
        assert!(arguments.iter().any(|argument| argument == wanted), "{wanted}: {arguments:?}");
    }
}

#[tokio::test]
async fn paths_that_lead_astray_are_refused() {
    let (agent, mut clients, uuid) = with_disk().await;
    let root = agent.zonepath(&uuid).join("root");
    std::fs::write(agent.dir.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink(agent.dir.path().join("secret"), root.join("link.iso")).unwrap();
    std::os::unix::fs::symlink("..", root.join("up")).unwrap();
    std::fs::create_dir(root.join("folder")).unwrap();
    for path in ["/a/../b", "relative.iso", "//x", "/"] {
        let options = v1::BootOptions { devices: vec![cd(path)], ..Default::default() };
        let status = clients.start_with(boot(&uuid, options)).await.unwrap_err();
        if path != "/" {
            assert_eq!(fields(&status), ["options.devices.0.path"], "{path}");
        }
    }
    for path in ["/link.iso", "/up/disk0", "/missing.iso", "/folder", "/etc/passwd"] {
        let options = v1::BootOptions { devices: vec![cd(path)], ..Default::default() };
        let status = clients.start_with(boot(&uuid, options)).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::FailedPrecondition, "BOOT_FAILED"),
            "{path}"
        );
        assert_eq!(metadata(&status, "step"), "disks", "{path}");
        assert_eq!(clients.state(&uuid).await, v1::VmState::Stopped);
    }
    let options = v1::BootOptions { devices: vec![cd("/missing.iso")], ..Default::default() };
    let status = clients.start_with(boot(&uuid, options)).await.unwrap_err();
    assert_eq!(status.message(), "boot failed in step disks: Cannot find disk: /missing.iso");
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused() {
    let (_agent, mut clients, uuid) = with_disk().await;
    let device = |model: &str, media: i32| v1::BootDevice { path: "/x".into(), model: model.into(), media };
    for (options, field) in [
        (v1::BootOptions { order: "cx".into(), ..Default::default() }, "options.order"),
        (v1::BootOptions { once: "dd".into(), ..Default::default() }, "options.once"),
        (
            v1::BootOptions { devices: vec![device("nvme", 1)], ..Default::default() },
            "options.devices.0.model",
        ),
        (
            v1::BootOptions { devices: vec![device("ide", 0)], ..Default::default() },
            "options.devices.0.media",
        ),
        (v1::BootOptions { devices: vec![device("ide", 1); 9], ..Default::default() }, "options.devices"),
    ] {
        let status = clients.start_with(boot(&uuid, options)).await.unwrap_err();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]));
    }
}

/// Whatever step fails, nothing is left of the boot and the next one works.
#[tokio::test]
async fn a_failed_step_undoes_those_before_it() {
    for (faults, step) in [
        (Faults { attach: true, ..Faults::default() }, "control"),
        (Faults { resume: true, ..Faults::default() }, "run"),
    ] {
        let (agent, mut clients, uuid) = with_disk().await;
        agent.hypervisor.set_faults(faults);
        let before = clients.get(&uuid).await.unwrap().spec;
        assert_eq!(before.as_ref().unwrap().autoboot, Some(false));
        let status = clients.start(&uuid).await.unwrap_err();
        assert_eq!((reason(&status).as_str(), metadata(&status, "step").as_str()), ("BOOT_FAILED", step));
        assert_eq!(clients.get(&uuid).await.unwrap().spec, before, "nothing of it stays");
        assert_eq!(clients.state(&uuid).await, v1::VmState::Stopped);
        assert!(!agent.process(&uuid).is_alive());
        assert!(!agent.config.run_dir.join(&uuid).exists());
        let failed = clients.journal().await.into_iter().rev().find_map(|event| match event.kind {
            Some(v1::event::Kind::Boot(phase)) => Some(phase),
            _ => None,
        });
        let failed = failed.unwrap();
        assert_eq!((failed.phase(), failed.step.as_str()), (Phase::Failed, step));
        assert!(!failed.reason.is_empty());

        agent.hypervisor.set_faults(Faults::default());
        clients.start(&uuid).await.unwrap();
    }
}

#[tokio::test]
async fn a_taken_vnc_port_fails_the_boot_with_its_number() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let uuid = clients.create(v1::VmSpec { vnc_port: Some(port.into()), ..machine() }).await;
    let status = clients.start(&uuid).await.unwrap_err();
    assert_eq!(metadata(&status, "step"), "display");
    assert!(status.message().contains(&port.to_string()), "{status:?}");
    drop(taken);
    clients.start(&uuid).await.unwrap();
}

#[tokio::test]
async fn a_creation_whose_boot_fails_leaves_a_stopped_vm() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    agent.hypervisor.set_faults(Faults { attach: true, ..Faults::default() });
    let request = v1::CreateVmRequest {
        vm: Some(v1::VmSpec { autoboot: Some(true), ..machine() }),
        ..Default::default()
    };
    let status = clients.vms.create_vm(request).await.unwrap_err();
    assert_eq!(reason(&status), "BOOT_FAILED");
    assert_eq!(clients.state(&metadata(&status, "uuid")).await, v1::VmState::Stopped);
}

/// A VM that does not boot when it is made exists all the same, and everything says so.
#[tokio::test]
async fn one_that_is_made_and_does_not_boot_is_named() {
    let agent = Simulated::start().await;
    agent.hypervisor.set_faults(zoneward::internals::hypervisor::simulated::Faults {
        resume: true,
        ..Default::default()
    });
    let mut clients = agent.clients().await;
    let vm = v1::VmSpec { autoboot: Some(true), ..machine() };
    let create = v1::CreateVmRequest { vm: Some(vm), ..Default::default() };
    let status = clients.vms.create_vm(create).await.unwrap_err();
    assert_eq!((reason(&status).as_str(), metadata(&status, "state").as_str()), ("BOOT_FAILED", "stopped"));
    let uuid = metadata(&status, "uuid");
    assert!(status.message().contains(&uuid) && status.message().contains("was created"), "{status:?}");
    let vm = clients.get(&uuid).await.unwrap().status.unwrap();
    assert_eq!(vm.state(), v1::VmState::Stopped);
    assert!(vm.exit.unwrap().detail.starts_with("boot failed in step run"));
}
