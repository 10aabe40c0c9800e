//! The requests that each state of a VM allows: data, without an actor. `docs/states.md` is made from it.

use crate::spec::VmState;

/// A request to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Start,
    Stop,
    ForceStop,
    Reboot,
    Pause,
    Resume,
    Update,
    Delete,
    Signal,
    Media,
    /// Reads or drives the running machine: info, screen, interrupts.
    Inspect,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is done.
    Act,
    /// Nothing to do: the VM is already in that state.
    Already,
    /// The same request is under way; the caller waits for it.
    Join,
    /// The state does not allow it.
    Refuse,
}

/// The whole policy.
pub(super) const fn judge(state: VmState, ask: Ask) -> Verdict {
    use Verdict::{Act, Already, Join, Refuse};
    use VmState::{Deleting, Failed, Lost, Paused, Running, Stopped, Stopping, Suspended};
    match (ask, state) {
        (Ask::Start, Stopped) => Act,
        (Ask::Start, Running) => Already,
        (Ask::Stop | Ask::ForceStop, Stopped) => Already,
        (Ask::Stop | Ask::ForceStop, Running | Failed | Paused | Suspended) => Act,
        // A second one may shorten the deadline, or cut the power.
        (Ask::Stop | Ask::ForceStop, Stopping) => Join,
        // A hypervisor that does not answer cannot press the power button.
        (Ask::ForceStop, Lost) => Act,
        (Ask::Reboot | Ask::Pause, Running) => Act,
        // A guest that its hypervisor halted, for a full disk or a panic, may continue.
        (Ask::Resume, Paused | Suspended | Failed) => Act,
        (Ask::Update, Deleting) => Refuse,
        (Ask::Update, _) => Act,
        // Something may still write the disks of a lost VM. A deletion that failed is repeated.
        (Ask::Delete, Lost) => Refuse,
        (Ask::Delete, _) => Act,
        // Its process may be known, though it does not answer.
        (Ask::Signal, Running | Stopping | Paused | Suspended | Failed | Lost) => Act,
        // The record holds the medium of a stopped VM's drive.
        (Ask::Media, Running | Stopping | Paused | Suspended | Failed | Stopped) => Act,
        (Ask::Inspect, Running | Stopping | Paused | Suspended | Failed) => Act,
        (
            Ask::Start
            | Ask::Stop
            | Ask::ForceStop
            | Ask::Reboot
            | Ask::Pause
            | Ask::Resume
            | Ask::Signal
            | Ask::Media
            | Ask::Inspect,
            _,
        ) => Refuse,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const STATES: [VmState; 10] = [
        VmState::Provisioning,
        VmState::Stopped,
        VmState::Starting,
        VmState::Running,
        VmState::Paused,
        VmState::Suspended,
        VmState::Stopping,
        VmState::Failed,
        VmState::Lost,
        VmState::Deleting,
    ];
    const ASKS: [(Ask, &str); 11] = [
        (Ask::Start, "StartVm"),
        (Ask::Stop, "StopVm"),
        (Ask::ForceStop, "StopVm, force"),
        (Ask::Reboot, "RebootVm"),
        (Ask::Pause, "PauseVm"),
        (Ask::Resume, "ResumeVm"),
        (Ask::Update, "UpdateVm"),
        (Ask::Delete, "DeleteVm"),
        (Ask::Signal, "KillVm"),
        (Ask::Media, "ChangeMedia"),
        (Ask::Inspect, "the machine"),
    ];

    /// Whatever became of a VM that is made and not being started: it can be brought down, and then removed.
    #[test]
    fn a_vm_can_always_be_brought_down_and_removed() {
        for state in STATES {
            let comes_to_be = matches!(state, VmState::Provisioning | VmState::Starting);
            let goes = state == VmState::Deleting;
            assert_eq!(judge(state, Ask::ForceStop) == Verdict::Refuse, comes_to_be || goes, "{state}");
            // A deletion that failed leaves a VM that can still be deleted; a lost one is stopped by force first.
            assert_eq!(judge(state, Ask::Delete) == Verdict::Refuse, state == VmState::Lost, "{state}");
        }
    }

    #[test]
    fn force_is_never_refused_where_patience_is_not() {
        for state in STATES {
            if judge(state, Ask::Stop) != Verdict::Refuse {
                assert_eq!(judge(state, Ask::ForceStop), judge(state, Ask::Stop), "{state}");
            }
        }
    }

    /// docs/states.md has the table; `UPDATE=1 cargo test` writes it.
    #[test]
    fn the_document_is_the_policy() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/states.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (head, _) = page.split_once("| state |").unwrap();
        let mut wanted = head.to_owned();
        let names: Vec<_> = ASKS.iter().map(|(_, name)| *name).collect();
        writeln!(wanted, "| state | {} |", names.join(" | ")).unwrap();
        writeln!(wanted, "|---|{}", "---|".repeat(ASKS.len())).unwrap();
        for state in STATES {
            let word = |(ask, _): &(Ask, &str)| match judge(state, *ask) {
                Verdict::Act => "yes",
                Verdict::Already => "already",
                Verdict::Join => "joins",
                Verdict::Refuse => "-",
            };
            let words: Vec<_> = ASKS.iter().map(word).collect();
            writeln!(wanted, "| `{state}` | {} |", words.join(" | ")).unwrap();
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        assert!(
            page == wanted || std::env::var_os("UPDATE").is_some(),
            "UPDATE=1 cargo test writes docs/states.md"
        );
    }
}
