//! The guest's own life: it is asked to stop when it can hear it, it sleeps, and it panics its own way.

use std::time::Duration;

use zoneward::proto::v1::{self, ExitReason};

use super::{
    support::{eventually, machine, real::Real},
    survival::{booted, booted_as},
};

/// The button is pressed while the guest is in its firmware still; it hears it all the same.
#[tokio::test]
async fn a_stop_right_after_the_start_is_obeyed() {
    let agent = Real::start().await;
    let (mut clients, uuid, _) = booted(&agent).await;
    clients.stop(&uuid, true).await.unwrap();
    agent.vmadm_ok(&["boot", &uuid, "order=d", "cdrom=/tiny.iso,ide"]);
    let stop = v1::StopVmRequest { uuid: uuid.clone(), timeout_seconds: Some(300), ..Default::default() };
    let stopped = clients.vms.stop_vm(stop).await.unwrap().into_inner();
    let exit = stopped.vm.unwrap().status.unwrap().exit.unwrap();
    assert_eq!((exit.reason(), stopped.obeyed), (ExitReason::Operator, true), "{exit:?}");
    assert!(clients.console_log(&uuid).await.contains("GUEST: power button"));
}

/// A guest that sleeps (ACPI S3) is shown so; a resume wakes it, and so does a stop, which it obeys.
#[tokio::test]
async fn a_guest_that_sleeps_is_woken() {
    let agent = Real::start().await;
    let (mut clients, uuid, offset) = booted(&agent).await;
    let sleeps = || {
        eventually("it sleeps", || {
            let (mut clients, uuid) = (clients.clone(), uuid.clone());
            async move { (clients.state(&uuid).await == v1::VmState::Suspended).then_some(()) }
        })
    };
    agent.vmadm_with(&["console", &uuid], "echo mem > /sys/power/state; echo $((40 + 2))-awake\n");
    sleeps().await;
    agent.vmadm_ok(&["resume", &uuid]);
    let (_, offset) = {
        let mut clients = clients.clone();
        clients.console_until(&uuid, offset, "42-awake").await
    };
    // Not before it is told awake.
    eventually("it runs", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { (clients.state(&uuid).await == v1::VmState::Running).then_some(()) }
    })
    .await;
    agent.vmadm_with(&["console", &uuid], "echo mem > /sys/power/state\n");
    sleeps().await;
    let _ = offset;
    let stop = v1::StopVmRequest { uuid: uuid.clone(), timeout_seconds: Some(120), ..Default::default() };
    let stopped = clients.vms.stop_vm(stop).await.unwrap().into_inner();
    assert!(stopped.obeyed, "{stopped:?}");
}

/// A panic is an event, and what follows is the guest's affair.
#[tokio::test]
async fn a_guest_that_panics_goes_its_own_way() {
    let agent = Real::start().await;
    agent.tolerate(&["the guest panicked"]);
    let (mut clients, uuid, offset) = booted(&agent).await;
    let words = "echo 1 > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger\n";
    agent.vmadm_with(&["console", &uuid], words);
    clients.console_until(&uuid, offset, "GUEST: ready").await;
    let status = clients.get(&uuid).await.unwrap().status.unwrap();
    assert_eq!(status.state(), v1::VmState::Running);
    let panicked = |event: &v1::Event| matches!(event.kind, Some(v1::event::Kind::Panicked(_)));
    assert_eq!(clients.journal().await.into_iter().filter(panicked).count(), 1);
}

/// With on_panic it is halted, to be looked at.
#[tokio::test]
async fn a_guest_that_panics_is_halted_where_that_is_asked_for() {
    let agent = Real::start().await;
    agent.tolerate(&["the guest panicked", "guest failed"]);
    let spec = v1::VmSpec { on_panic: Some("pause".into()), ..machine() };
    let (clients, uuid, _) = booted_as(&agent, spec).await;
    agent.vmadm_with(&["console", &uuid], "echo c > /proc/sysrq-trigger\n");
    eventually("it is halted", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { (clients.state(&uuid).await == v1::VmState::Failed).then_some(()) }
    })
    .await;
    let exit = clients.clone().get(&uuid).await.unwrap().status.unwrap().exit.unwrap();
    assert_eq!(exit.reason(), ExitReason::GuestPanic, "{exit:?}");
}

/// Deadlines hold, whatever the hypervisor does.
#[tokio::test]
async fn a_hypervisor_that_is_stopped_holds_up_no_deadline() {
    let agent = Real::start().await;
    let (mut clients, uuid, _) = booted(&agent).await;
    let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid.unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let info = v1::GetVmInfoRequest { uuid: uuid.clone(), types: vec![] };
    let info = tokio::time::timeout(Duration::from_secs(15), clients.vms.get_vm_info(info)).await;
    info.expect("it is given up").unwrap_err();
    let stop = v1::StopVmRequest { uuid: uuid.clone(), timeout_seconds: Some(1), ..Default::default() };
    let stopped = tokio::time::timeout(Duration::from_secs(18), clients.vms.stop_vm(stop)).await;
    let stopped = stopped.expect("its power is cut").unwrap().into_inner();
    let exit = stopped.vm.unwrap().status.unwrap().exit.unwrap();
    assert_eq!((exit.reason(), stopped.obeyed), (ExitReason::PowerCut, false), "{exit:?}");
    assert!(exit.detail.contains("the hypervisor did not answer"), "it is not the guest's fault: {exit:?}");
}
