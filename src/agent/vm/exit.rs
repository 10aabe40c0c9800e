//! Why a guest's run ended: from the caller's request, the kernel's report, and the hypervisor's own words.
//!
//! A guest may control the hypervisor's words, so they are believed last, and its clock only as far as it
//! lies within the run.

use std::time::SystemTime;

use crate::{
    agent::context::VmContext,
    console,
    hypervisor::{LastWords, MachineEvent},
    model::{Exit, ExitReason, StopCause, Timestamp, VmRecord},
    spec::VmState,
    zone::Ended,
};

/// The caller's request outranks the kernel, and the kernel outranks the hypervisor's words.
fn reason(wanted: Option<Requested>, ended: Ended, said: Option<&MachineEvent>) -> ExitReason {
    match wanted {
        Some(Requested::Asked(StopCause::Operator)) if lost_its_power(ended, said) => {
            return ExitReason::PowerCut;
        }
        Some(Requested::Asked(cause) | Requested::Forced(cause)) => return cause.reason(),
        Some(Requested::Killed(signal)) if was_killed(signal, ended, said) => return ExitReason::Operator,
        Some(Requested::Killed(_)) | None => {}
    }
    match (ended, said) {
        (Ended::OutOfMemory, _) => ExitReason::OutOfMemory,
        (_, Some(MachineEvent::Panicked)) => ExitReason::GuestPanic,
        (_, Some(MachineEvent::Shutdown { reason, .. })) if reason == "guest-panic" => ExitReason::GuestPanic,
        (_, Some(MachineEvent::Shutdown { reason, .. })) if reason == "guest-reset" => ExitReason::GuestReset,
        (_, Some(MachineEvent::Shutdown { guest: true, .. })) => ExitReason::GuestShutdown,
        (_, Some(MachineEvent::Shutdown { reason, .. })) if reason == "host-signal" => ExitReason::Signal,
        (Ended::Signal(_), _) => ExitReason::Signal,
        (Ended::Unseen, _) => ExitReason::Unknown,
        (Ended::Code(_), _) => ExitReason::HypervisorError,
    }
}

/// How a caller wants the VM to end.
#[derive(Clone, Copy, Debug)]
enum Requested {
    /// The guest is asked.
    Asked(StopCause),
    /// By force.
    Forced(StopCause),
    /// By a signal to the hypervisor.
    Killed(i32),
}

/// Who wants the VM stopped, if anybody does.
fn wanted(vm: &VmRecord) -> Option<Requested> {
    let stop = vm.stop.as_ref().map(|stop| match stop.forced {
        true => Requested::Forced(stop.cause),
        false => Requested::Asked(stop.cause),
    });
    let killed = vm.kill.as_ref().map(|kill| Requested::Killed(kill.signal));
    match vm.state {
        VmState::Stopping => Some(stop.unwrap_or(Requested::Forced(StopCause::default()))),
        // It fell silent while stopping.
        VmState::Lost => stop.or(killed),
        _ => killed,
    }
}

/// Returns whether the guest's power was cut.
fn lost_its_power(ended: Ended, said: Option<&MachineEvent>) -> bool {
    let obeyed = matches!(said, Some(MachineEvent::Shutdown { guest: true, .. }));
    !obeyed && matches!(ended, Ended::Signal(libc::SIGKILL))
}

/// Returns whether the sent signal ended the hypervisor.
fn was_killed(signal: i32, ended: Ended, said: Option<&MachineEvent>) -> bool {
    let said_so =
        matches!(said, Some(MachineEvent::Shutdown { guest: false, reason }) if reason == "host-signal");
    said_so || ended == Ended::Signal(signal) || (ended == Ended::Unseen && said.is_none())
}

/// Describes how a stop went, for people. `answers` is whether the hypervisor reported on its guest.
fn manner(vm: &VmRecord, ended: Ended, said: Option<&MachineEvent>, answers: bool) -> String {
    let text = match (wanted(vm), &vm.stop) {
        (Some(Requested::Killed(signal)), _) => return format!("signal {signal} was sent by {}", killer(vm)),
        (Some(Requested::Forced(_)), _) => "the power was cut, as requested",
        (Some(Requested::Asked(_)), Some(stop)) if lost_its_power(ended, said) => match stop.pressed {
            _ if !answers => "the hypervisor did not answer, so the guest was not asked; its power was cut",
            true => "the guest did not shut down in time after the power button; its power was cut",
            false => "the guest was never ready for the power button; its power was cut",
        },
        (Some(Requested::Asked(_)), _) if ended != Ended::Unseen || said.is_some() => {
            "the guest obeyed the power button"
        }
        _ => "",
    };
    text.to_owned()
}

fn killer(vm: &VmRecord) -> &str {
    vm.kill
        .as_ref()
        .map(|kill| kill.call.actor.as_str())
        .filter(|actor| !actor.is_empty())
        .unwrap_or("a caller")
}

/// The status as in a shell.
fn status(ended: Ended) -> i32 {
    match ended {
        Ended::Code(code) => code,
        Ended::Signal(signal) => 128 + signal,
        Ended::OutOfMemory => 128 + libc::SIGKILL,
        Ended::Unseen => 0,
    }
}

fn out_of_memory(vm: &VmRecord) -> String {
    let limit = vm.spec.max_physical_memory.unwrap_or_default();
    format!("the hypervisor needed more than max_physical_memory ({limit} MiB); raise it, or lower ram")
}

/// Describes a reset: the machine runs on.
pub(in crate::agent) fn reset(guest: bool, time: Timestamp) -> Exit {
    let reason = if guest { ExitReason::GuestReset } else { ExitReason::Operator };
    Exit { time, ..Exit::noticed(reason, "the machine was reset".to_owned()) }
}

/// Returns how a run ended: from the hypervisor's last `heard` event, else from its log. `answers` is whether
/// it answered in a stop.
pub(in crate::agent) fn exit(
    context: &VmContext,
    vm: &VmRecord,
    ended: Ended,
    heard: Option<MachineEvent>,
    answers: bool,
) -> Exit {
    let last = last_words(context, vm);
    // Without a time in the hypervisor's log, this is when the exit was noticed.
    let (said, time) = match (heard, last.end()) {
        (Some(event), _) => (Some(event), Timestamp::now()),
        (None, Some(said)) => (Some(said.event.clone()), within_run(vm, said.time)),
        (None, None) => (None, Timestamp::now()),
    };
    let another_boot = vm.host_boot.as_ref().is_some_and(|boot| *boot != context.platform.host_boot);
    let reason = match reason(wanted(vm), ended, said.as_ref()) {
        // The host's restart ended it, unless it exited before.
        ExitReason::Signal | ExitReason::HypervisorError if another_boot && said.is_none() => {
            ExitReason::Unknown
        }
        reason => reason,
    };
    let detail = match reason {
        ExitReason::OutOfMemory => out_of_memory(vm),
        ExitReason::Unknown if another_boot => "the host was restarted while the VM ran".to_owned(),
        ExitReason::Unknown => {
            let told = "the hypervisor ended unobserved and did not say why";
            if last.words.is_empty() {
                told.to_owned()
            } else {
                format!("{told}; its last words: {}", last.words)
            }
        }
        ExitReason::Signal | ExitReason::HypervisorError => last.words,
        ExitReason::Operator | ExitReason::HostShutdown | ExitReason::PowerCut => {
            manner(vm, ended, said.as_ref(), answers)
        }
        _ => String::new(),
    };
    let asked = matches!(wanted(vm), Some(Requested::Asked(_)));
    let obeyed = asked && !lost_its_power(ended, said.as_ref()) && (ended != Ended::Unseen || said.is_some());
    Exit { reason, status: status(ended), time, detail, obeyed }
}

/// Counts the resets of a running machine that no agent saw; also returns the last one's time.
pub(in crate::agent) fn unseen_resets(context: &VmContext, vm: &VmRecord) -> (u64, Option<Timestamp>) {
    let Some(machine) = &vm.machine else { return (0, None) };
    let seen = machine.last_reset.unwrap_or(machine.booted);
    let last = last_words(context, vm);
    let resets = last.said.iter().filter(|said| matches!(said.event, MachineEvent::Reset { .. }));
    let (mut count, mut last_reset) = (0, None);
    for time in resets.map(|said| within_run(vm, said.time)).filter(|time| *time > seen) {
        if is_another_reset(last_reset.or(machine.last_reset), time) {
            (count, last_reset) = (count + 1, Some(time));
        }
    }
    (count, last_reset)
}

/// Guests use several ways to reset a machine, one after another, and each is reported separately.
const ONE_RESET: i64 = 1000;

/// Returns whether a reset is more than an echo of the last one.
pub(in crate::agent) fn is_another_reset(before: Option<Timestamp>, time: Timestamp) -> bool {
    before.is_none_or(|before| !(0..ONE_RESET).contains(&(time.0 - before.0)))
}

fn last_words(context: &VmContext, vm: &VmRecord) -> LastWords {
    let log = context.layout_of(vm.uuid).hypervisor_log();
    context.hypervisor(vm).last_words(&console::last_words(&log))
}

fn within_run(vm: &VmRecord, time: SystemTime) -> Timestamp {
    let now = Timestamp::now();
    let begin = vm.machine.as_ref().map_or(vm.created, |machine| machine.booted);
    Timestamp::from_system(time).clamp(begin.min(now), now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_believed() {
        let shutdown = |guest, reason: &str| MachineEvent::Shutdown { guest, reason: reason.to_owned() };
        let off = shutdown(true, "guest-shutdown");
        for (cause, ended, said, wanted) in [
            (
                Some(Requested::Asked(StopCause::HostShutdown)),
                Ended::Signal(9),
                Some(&off),
                ExitReason::HostShutdown,
            ),
            (Some(Requested::Asked(StopCause::Operator)), Ended::Signal(9), Some(&off), ExitReason::Operator),
            (Some(Requested::Asked(StopCause::Operator)), Ended::Signal(9), None, ExitReason::PowerCut),
            (Some(Requested::Forced(StopCause::Operator)), Ended::Signal(9), None, ExitReason::Operator),
            (
                Some(Requested::Killed(15)),
                Ended::Code(0),
                Some(&shutdown(false, "host-signal")),
                ExitReason::Operator,
            ),
            (Some(Requested::Killed(9)), Ended::Signal(9), None, ExitReason::Operator),
            (Some(Requested::Killed(10)), Ended::Signal(9), None, ExitReason::Signal),
            (Some(Requested::Killed(9)), Ended::Code(0), Some(&off), ExitReason::GuestShutdown),
            (None, Ended::OutOfMemory, Some(&off), ExitReason::OutOfMemory),
            (None, Ended::Unseen, Some(&off), ExitReason::GuestShutdown),
            (None, Ended::Unseen, Some(&MachineEvent::Panicked), ExitReason::GuestPanic),
            (None, Ended::Code(0), Some(&shutdown(true, "guest-panic")), ExitReason::GuestPanic),
            (None, Ended::Code(0), Some(&shutdown(true, "guest-reset")), ExitReason::GuestReset),
            (None, Ended::Unseen, Some(&shutdown(false, "host-signal")), ExitReason::Signal),
            (None, Ended::Signal(11), None, ExitReason::Signal),
            (None, Ended::Code(1), None, ExitReason::HypervisorError),
            (None, Ended::Unseen, None, ExitReason::Unknown),
        ] {
            assert_eq!(reason(cause, ended, said), wanted, "{ended:?} {said:?}");
        }
    }
}
