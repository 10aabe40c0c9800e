//! How real guests end.

use zoneward::proto::v1;

use super::{
    guest_exit,
    support::{eventually, real::Real},
    survival::booted,
};

#[tokio::test]
async fn a_guest_that_ignores_the_button_is_forced() {
    let agent = Real::start().await;
    let (mut clients, uuid, offset) = booted(&agent).await;
    agent.vmadm_with(&["console", &uuid], "acpi ignore; echo now-deaf\n");
    let (_, offset) = clients.console_until(&uuid, offset, "\nnow-deaf").await;
    let patient = agent.vmadm_command().args(["stop", &uuid, "-t", "60"]).spawn().unwrap();
    clients.console_until(&uuid, offset, "GUEST: power button").await;
    assert_eq!(clients.state(&uuid).await, v1::VmState::Stopping);
    // A shorter deadline overtakes.
    agent.vmadm_ok(&["stop", &uuid, "-t", "1"]);
    let mut patient = patient;
    assert!(patient.wait().unwrap().success());
    let exit = clients.get(&uuid).await.unwrap().status.unwrap().exit.unwrap();
    assert_eq!((exit.reason(), exit.status), (v1::ExitReason::PowerCut, 128 + 9));
}

#[tokio::test]
async fn poweroff_kill_and_reset_are_told_apart() {
    let agent = Real::start().await;
    let (mut clients, uuid, offset) = booted(&agent).await;
    let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid;
    agent.vmadm_ok(&["reboot", "-F", &uuid]);
    let (_, offset) = clients.console_until(&uuid, offset, "GUEST: ready").await;
    assert_eq!(clients.get(&uuid).await.unwrap().status.unwrap().pid, pid);
    clients.console_until(&uuid, offset, "/ # ").await;

    agent.vmadm_with(&["console", &uuid], "poweroff -f\n");
    let exit = guest_exit(&clients, &uuid).await;
    assert_eq!((exit.reason(), exit.status), (v1::ExitReason::GuestShutdown, 0));

    agent.vmadm_ok(&["boot", &uuid]);
    let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid.unwrap();
    let process = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let exit = guest_exit(&clients, &uuid).await;
    assert_eq!((exit.reason(), exit.status), (v1::ExitReason::Signal, 128 + 9));
    eventually("no zombie", || async {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    })
    .await;
}
