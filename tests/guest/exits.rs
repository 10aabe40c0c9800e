//! Why a run of a guest was over is known, whether an agent was there or not.

use zoneward::proto::v1::{self, ExitReason};

use super::{
    guest_exit,
    limits::starved,
    support::{Clients, eventually, ignored::needs_root, machine, real::Real},
    survival::booted_as,
};

/// Lets a guest do that, with no agent there; gives what the next agent says.
async fn while_away(spec: v1::VmSpec, words: &str, ends: bool) -> (Real, Clients, String, v1::VmStatus) {
    let mut agent = Real::start_with(&["zone.min_overhead=0"]).await;
    agent.tolerate(&["the guest panicked"]);
    let (mut clients, uuid, _) = booted_as(&agent, spec).await;
    let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid.unwrap();
    let log = agent.dir.path().join("zones").join(&uuid).join("console.log");
    agent.vmadm_with(&["console", &uuid], &format!("sleep 2; {words}\n"));
    agent.kill();
    let printed = log.metadata().unwrap().len();
    eventually("it is over", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let gone = stat.is_empty() || stat.contains(") Z ");
        // A new boot prints more than a command does.
        let over = if ends { gone } else { log.metadata().unwrap().len() > printed + 200 };
        async move { over.then_some(()) }
    })
    .await;
    agent.resume().await;
    let mut clients = agent.clients().await;
    let status = clients.get(&uuid).await.unwrap().status.unwrap();
    (agent, clients, uuid, status)
}

fn age(exit: &v1::ExitInfo) -> i64 {
    jiff::Timestamp::now().as_second() - exit.time.unwrap().seconds
}

#[tokio::test]
async fn a_guest_that_powers_off_while_nobody_looks() {
    let (_agent, mut clients, uuid, status) = while_away(machine(), "poweroff -f", true).await;
    let exit = status.exit.clone().unwrap();
    assert_eq!((status.state(), exit.reason()), (v1::VmState::Stopped, ExitReason::GuestShutdown));
    assert!((0..60).contains(&age(&exit)), "{exit:?}");
    clients.delete(&uuid).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_reboots_while_nobody_looks() {
    let (_agent, mut clients, uuid, status) = while_away(machine(), "reboot -f", false).await;
    assert_eq!((status.state(), status.resets), (v1::VmState::Running, Some(1)));
    assert_eq!(status.exit.unwrap().reason(), ExitReason::GuestReset);
    clients.stop(&uuid, true).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_panics_while_nobody_looks() {
    let spec = v1::VmSpec { on_panic: Some("shutdown".into()), ..machine() };
    let (_agent, _clients, _uuid, status) = while_away(spec, "echo c > /proc/sysrq-trigger", true).await;
    assert_eq!(
        (status.state(), status.exit.unwrap().reason()),
        (v1::VmState::Stopped, ExitReason::GuestPanic)
    );
}

#[tokio::test]
async fn a_guest_that_is_killed_for_memory_while_nobody_looks() {
    if needs_root("no control group can be made") {
        return;
    }
    let (_agent, _clients, _uuid, status) = while_away(starved(), "cat /dev/zero > /big", true).await;
    let exit = status.exit.unwrap();
    assert_eq!(exit.reason(), ExitReason::OutOfMemory, "{exit:?}");
}

/// The same four under an agent that runs, and a hypervisor that an earlier agent started and a signal ends.
#[tokio::test]
async fn a_guest_under_an_agent_that_is_there() {
    let mut agent = Real::start().await;
    agent.tolerate(&["the guest panicked"]);
    let spec = v1::VmSpec { on_panic: Some("shutdown".into()), ..machine() };
    let (mut clients, uuid, offset) = booted_as(&agent, spec).await;
    agent.vmadm_with(&["console", &uuid], "reboot -f\n");
    clients.console_until(&uuid, offset, "GUEST: boot").await;
    let status = eventually("the reset is told", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { clients.get(&uuid).await.unwrap().status.filter(|status| status.resets == Some(1)) }
    })
    .await;
    assert_eq!(status.exit.unwrap().reason(), ExitReason::GuestReset);
    clients.console_until(&uuid, offset, "/ # ").await;
    agent.vmadm_with(&["console", &uuid], "echo c > /proc/sysrq-trigger\n");
    assert_eq!(guest_exit(&clients, &uuid).await.reason(), ExitReason::GuestPanic);

    // Under an agent that did not start it: powered off, and killed.
    let log = agent.dir.path().join("zones").join(&uuid).join("console.log");
    let end = i64::try_from(log.metadata().unwrap().len()).unwrap();
    agent.vmadm_ok(&["boot", &uuid, "order=d", "cdrom=/tiny.iso,ide"]);
    clients.console_until(&uuid, end, "/ # ").await;
    agent.kill();
    agent.resume().await;
    agent.vmadm_with(&["console", &uuid], "poweroff -f\n");
    let mut clients = agent.clients().await;
    let exit = guest_exit(&clients, &uuid).await;
    assert_eq!(exit.reason(), ExitReason::GuestShutdown, "{exit:?}");
    let lost = clients.journal().await.into_iter().any(|event| match event.kind {
        Some(v1::event::Kind::Modified(modified)) => {
            modified.vm.unwrap().status.unwrap().state() == v1::VmState::Lost
        }
        _ => false,
    });
    assert!(!lost, "it was known all the time");
    clients.start(&uuid).await.unwrap();
    agent.kill();
    agent.resume().await;
    let mut clients = agent.clients().await;
    let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid.unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let exit = guest_exit(&clients, &uuid).await;
    // Before Linux 6.15 nobody but its parent is told.
    let known = [(ExitReason::Signal, 137), (ExitReason::Unknown, 0)];
    assert!(known.contains(&(exit.reason(), exit.status)), "{exit:?}");
}
