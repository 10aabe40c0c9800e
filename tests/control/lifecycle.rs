//! Start, stop, reboot, delete, and what ends by itself.

use tonic::Code;
use zoneward::{
    internals::{
        hypervisor::{MachineEvent, simulated::Faults},
        zone::Ended,
    },
    proto::v1,
};

use super::support::{Clients, eventually, fields, machine, metadata, reason, simulated::Simulated};

async fn exit(clients: &mut Clients, uuid: &str) -> v1::ExitInfo {
    eventually("stopped", || {
        let (mut clients, uuid) = (clients.clone(), uuid.to_owned());
        async move {
            let status = clients.get(&uuid).await.unwrap().status.unwrap();
            (status.state() == v1::VmState::Stopped).then(|| status.exit.unwrap())
        }
    })
    .await
}

async fn wait_for(clients: &Clients, uuid: &str, state: v1::VmState) {
    eventually("the state", || {
        let (mut clients, uuid) = (clients.clone(), uuid.to_owned());
        async move { (clients.state(&uuid).await == state).then_some(()) }
    })
    .await;
}

#[tokio::test]
async fn start_and_stop_set_state_and_autoboot() {
    let (agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    let vm = clients.get(&uuid).await.unwrap();
    let status = vm.status.clone().unwrap();
    assert_eq!(status.state(), v1::VmState::Running);
    assert!(status.pid.is_some() && status.boot_time.is_some());
    assert_eq!(status.accelerator.as_deref(), Some("tcg"));
    assert_eq!(status.zonepath, agent.zonepath(&uuid).display().to_string());
    assert_eq!(vm.spec.unwrap().autoboot, Some(true), "a start means it is wanted");

    let stopped = clients.stop(&uuid, false).await.unwrap();
    let vm = stopped.vm.unwrap();
    assert_eq!(vm.status.clone().unwrap().state(), v1::VmState::Stopped);
    assert_eq!(vm.status.unwrap().exit.unwrap().reason(), v1::ExitReason::Operator);
    assert_eq!(vm.spec.unwrap().autoboot, Some(false), "a stop means it is not");
    assert!(!stopped.already_stopped);
    assert!(clients.stop(&uuid, false).await.unwrap().already_stopped);
}

#[tokio::test]
async fn starting_a_running_vm_gives_it_without_phases() {
    let (_agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    assert_eq!(clients.start(&uuid).await.unwrap(), []);
}

#[tokio::test]
async fn a_deaf_guest_is_forced_after_the_timeout() {
    let (agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    agent.hypervisor.set_faults(Faults { deaf: true, ..Faults::default() });
    let request = v1::StopVmRequest { uuid: uuid.clone(), timeout_seconds: Some(0), ..Default::default() };
    clients.vms.stop_vm(request).await.unwrap();
    assert_eq!(exit(&mut clients, &uuid).await.status, 128 + 9);
}

#[tokio::test]
async fn a_forced_stop_overtakes_a_patient_one() {
    let (agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    agent.hypervisor.set_faults(Faults { deaf: true, ..Faults::default() });
    let patient = tokio::spawn({
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { clients.stop(&uuid, false).await }
    });
    wait_for(&clients, &uuid, v1::VmState::Stopping).await;
    // Where it will be, and by when.
    let status = clients.get(&uuid).await.unwrap().status.unwrap();
    assert_eq!(status.transition_to(), v1::VmState::Stopped);
    let left = status.transition_expire.unwrap().seconds - jiff::Timestamp::now().as_second();
    assert!((170..=181).contains(&left), "{left} s");
    clients.stop(&uuid, true).await.unwrap();
    patient.await.unwrap().unwrap();
    let status = clients.get(&uuid).await.unwrap().status.unwrap();
    assert_eq!((status.transition_to(), status.transition_expire), (v1::VmState::Unspecified, None));
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_stop_the_work() {
    let (agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    agent.hypervisor.set_faults(Faults { deaf: true, ..Faults::default() });
    let mut request = tonic::Request::new(v1::StopVmRequest {
        uuid: uuid.clone(),
        timeout_seconds: Some(1),
        ..Default::default()
    });
    request.set_timeout(std::time::Duration::from_millis(100));
    let status = clients.vms.stop_vm(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    let exit = exit(&mut clients, &uuid).await;
    assert_eq!(exit.reason(), v1::ExitReason::PowerCut);
    assert!(exit.detail.contains("power was cut"), "{exit:?}");
}

#[tokio::test]
async fn reboot_starts_anew_and_reset_does_not() {
    let (agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    let before = clients.get(&uuid).await.unwrap().status.unwrap();
    let reboot = |force| v1::RebootVmRequest { uuid: uuid.clone(), force, ..Default::default() };
    let vm = clients.vms.reboot_vm(reboot(false)).await.unwrap().into_inner().vm.unwrap();
    let after = vm.status.unwrap();
    assert_eq!(after.state(), v1::VmState::Running);
    assert_ne!(after.pid, before.pid);
    assert_eq!(vm.spec.unwrap().autoboot, Some(true));
    let vm = clients.vms.reboot_vm(reboot(true)).await.unwrap().into_inner().vm.unwrap();
    assert_eq!(vm.status.unwrap().pid, after.pid, "reset keeps the process");

    clients.stop(&uuid, true).await.unwrap();
    let status = clients.vms.reboot_vm(reboot(false)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "VM_STATE"));
    assert_eq!(status.message(), "Cannot reboot vm from state \"stopped\", must be \"running\"");
    assert_eq!(metadata(&status, "state"), "stopped");
    drop(agent);
}

#[tokio::test]
async fn how_it_ended_is_told_apart() {
    for (event, ended, expected, status) in [
        (Some((true, "guest-shutdown")), Ended::Code(0), v1::ExitReason::GuestShutdown, 0),
        (Some((false, "guest-panic")), Ended::Code(0), v1::ExitReason::GuestPanic, 0),
        (Some((false, "host-signal")), Ended::Code(0), v1::ExitReason::Signal, 0),
        (None, Ended::Signal(11), v1::ExitReason::Signal, 139),
        (None, Ended::Code(1), v1::ExitReason::HypervisorError, 1),
        (None, Ended::Unseen, v1::ExitReason::Unknown, 0),
        (Some((true, "guest-shutdown")), Ended::OutOfMemory, v1::ExitReason::OutOfMemory, 137),
    ] {
        let (agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
        if let Some((guest, reason)) = event {
            let event = MachineEvent::Shutdown { guest, reason: reason.to_owned() };
            agent.hypervisor.tell(Simulated::uuid(&uuid), event).await;
        }
        agent.process(&uuid).end(ended);
        let exit = exit(&mut clients, &uuid).await;
        assert_eq!((exit.reason(), exit.status), (expected, status), "{ended}");
        let spec = clients.get(&uuid).await.unwrap().spec.unwrap();
        assert_eq!(spec.autoboot, Some(true), "what the guest does is no wish of the operator");
    }
}

#[tokio::test]
async fn a_hypervisor_that_stops_its_guest_is_a_failed_vm() {
    let (agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    let id = Simulated::uuid(&uuid);
    agent.hypervisor.set_faults(Faults { stopped: Some("internal-error"), ..Faults::default() });
    agent.hypervisor.tell(id, MachineEvent::Stopped).await;
    wait_for(&clients, &uuid, v1::VmState::Failed).await;
    let status = clients.get(&uuid).await.unwrap().status.unwrap();
    assert!(status.exit.unwrap().detail.contains("internal-error"));
    let refused = clients.start(&uuid).await.unwrap_err();
    assert_eq!(refused.message(), "Cannot start vm from state \"failed\", must be \"stopped\".");
    clients.stop(&uuid, false).await.unwrap();
    clients.start(&uuid).await.unwrap();
}

#[tokio::test]
async fn delete_removes_everything_even_while_it_runs() {
    let (agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    let process = agent.process(&uuid);
    clients.delete(&uuid).await.unwrap();
    assert!(!process.is_alive());
    assert!(!agent.zonepath(&uuid).exists());
    assert!(!agent.config.run_dir.join(&uuid).exists());
    let status = clients.get(&uuid).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "VM_NOT_FOUND"));
    assert_eq!(clients.delete(&uuid).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn an_etag_makes_a_change_conditional() {
    let (_agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    let old = clients.get(&uuid).await.unwrap().etag;
    clients.stop(&uuid, true).await.unwrap();
    let now = clients.get(&uuid).await.unwrap().etag;
    let wrong = |etag: &str| (uuid.clone(), etag.to_owned());

    let (u, etag) = wrong(&old);
    let refused =
        clients.start_with(v1::StartVmRequest { uuid: u, etag, ..Default::default() }).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    assert_eq!(metadata(&refused, "etag"), now);
    let (u, etag) = wrong(&old);
    let request = v1::DeleteVmRequest { uuid: u, etag, ..Default::default() };
    assert_eq!(clients.vms.delete_vm(request).await.unwrap_err().code(), Code::Aborted);
    let (u, etag) = wrong(&old);
    let request = v1::StopVmRequest { uuid: u, etag, ..Default::default() };
    assert_eq!(clients.vms.stop_vm(request).await.unwrap_err().code(), Code::Aborted);
    let (u, etag) = wrong(&now);
    clients.start_with(v1::StartVmRequest { uuid: u, etag, ..Default::default() }).await.unwrap();
    let (u, etag) = wrong(&now);
    let request = v1::RebootVmRequest { uuid: u, etag, force: true, ..Default::default() };
    assert_eq!(clients.vms.reboot_vm(request).await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn bad_arguments() {
    let (_agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    let request = v1::StopVmRequest { uuid: uuid.clone(), timeout_seconds: Some(-1), ..Default::default() };
    assert_eq!(fields(&clients.vms.stop_vm(request).await.unwrap_err()), ["timeout_seconds"]);
    let status = clients.get("x").await.unwrap_err();
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["uuid".to_owned()]));
}

#[tokio::test]
async fn info_and_screen_need_a_running_vm() {
    let (_agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    let info = |types: &[&str]| v1::GetVmInfoRequest {
        uuid: uuid.clone(),
        types: types.iter().map(|t| (*t).to_owned()).collect(),
    };
    let answer = clients.vms.get_vm_info(info(&["status", "vnc"])).await.unwrap().into_inner().info.unwrap();
    assert_eq!(answer.fields.keys().collect::<Vec<_>>(), ["status", "vnc"]);
    let all = clients.vms.get_vm_info(info(&["all"])).await.unwrap().into_inner().info.unwrap();
    assert_eq!(all.fields.len(), 9);
    let status = clients.vms.get_vm_info(info(&["vcn"])).await.unwrap_err();
    assert_eq!(fields(&status), ["types"]);
    let picture = v1::TakeScreenshotRequest { uuid: uuid.clone() };
    assert!(
        clients.vms.take_screenshot(picture.clone()).await.unwrap().into_inner().png.starts_with(b"\x89PNG")
    );

    clients.stop(&uuid, true).await.unwrap();
    let status = clients.vms.get_vm_info(info(&[])).await.unwrap_err();
    assert_eq!(
        status.message(),
        "Unable to get info for vm from state \"stopped\", must be \"running\" or \"stopping\"."
    );
    assert_eq!(clients.vms.take_screenshot(picture).await.unwrap_err().code(), Code::FailedPrecondition);
}

/// The VNC endpoint hands each viewer to the hypervisor.
#[tokio::test]
async fn vnc_viewers_reach_the_hypervisor() {
    use tokio::io::AsyncReadExt as _;
    let (_agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    let request = v1::GetVmInfoRequest { uuid: uuid.clone(), types: vec!["vnc".into()] };
    let info = clients.vms.get_vm_info(request).await.unwrap().into_inner().info.unwrap();
    let Some(prost_types::value::Kind::StructValue(vnc)) = info.fields["vnc"].kind.clone() else { panic!() };
    let Some(prost_types::value::Kind::NumberValue(port)) = vnc.fields["port"].kind else { panic!() };
    let address = format!("127.0.0.1:{port:.0}");
    for _ in 0..2 {
        let mut viewer = tokio::net::TcpStream::connect(&address).await.unwrap();
        let mut greeting = [0; 12];
        viewer.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"RFB 003.008\n");
    }
    clients.stop(&uuid, true).await.unwrap();
    assert!(tokio::net::TcpStream::connect(&address).await.is_err(), "gone with the VM");

    let none = clients.create(v1::VmSpec { vnc_port: Some(-1), ..machine() }).await;
    clients.start(&none).await.unwrap();
    let request = v1::GetVmInfoRequest { uuid: none, types: vec!["vnc".into()] };
    let info = clients.vms.get_vm_info(request).await.unwrap().into_inner().info.unwrap();
    let empty = prost_types::value::Kind::StructValue(prost_types::Struct::default());
    assert_eq!(info.fields["vnc"].kind, Some(empty));
}

/// A stop overtakes a reboot: who wanted the VM to run again is told that it does not.
#[tokio::test]
async fn a_stop_overtakes_a_reboot() {
    let (agent, mut clients, uuid) = Simulated::start().await.with_a_guest().await;
    agent.hypervisor.set_faults(Faults { deaf: true, ..Faults::default() });
    let mut rebooting = clients.clone();
    let request = v1::RebootVmRequest { uuid: uuid.clone(), ..Default::default() };
    let reboot = tokio::spawn(async move { rebooting.vms.reboot_vm(request).await });
    wait_for(&clients, &uuid, v1::VmState::Stopping).await;
    clients.stop(&uuid, true).await.unwrap();
    let status = reboot.await.unwrap().unwrap_err();
    assert!(status.message().contains("another request stopped the VM"), "{status:?}");
    assert_eq!(clients.state(&uuid).await, v1::VmState::Stopped);
}
