//! What may be asked of a VM in each state: data, without an actor. `docs/states.md` is made from it.

use crate::spec::VmState;

/// What a caller asks of a VM.
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
    /// Reads or drives the running machine: info, screen, signals, interrupts, media.
    Inspect,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is done.
    Act,
    /// There is nothing to do: the VM is so already.
    Already,
    /// One of the kind is under way; the caller waits for that.
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
        // Something may still write the disks of a lost VM.
        (Ask::Delete, Lost | Deleting) => Refuse,
        (Ask::Delete, _) => Act,
        (Ask::Inspect, Running | Stopping | Paused | Suspended | Failed) => Act,
        (
            Ask::Start | Ask::Stop | Ask::ForceStop | Ask::Reboot | Ask::Pause | Ask::Resume | Ask::Inspect,
            _,
        ) => Refuse,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

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
    const ASKS: [(Ask, &str); 9] = [
        (Ask::Start, "StartVm"),
        (Ask::Stop, "StopVm"),
        (Ask::ForceStop, "StopVm, force"),
        (Ask::Reboot, "RebootVm"),
        (Ask::Pause, "PauseVm"),
        (Ask::Resume, "ResumeVm"),
        (Ask::Update, "UpdateVm"),
        (Ask::Delete, "DeleteVm"),
        (Ask::Inspect, "the machine"),
    ];

    /// Where a VM is once what was asked is done.
    fn after(state: VmState, ask: Ask) -> VmState {
        match ask {
            Ask::Start | Ask::Resume => VmState::Running,
            Ask::Stop | Ask::ForceStop => VmState::Stopped,
            Ask::Pause => VmState::Paused,
            Ask::Delete => VmState::Deleting,
            Ask::Reboot | Ask::Update | Ask::Inspect => state,
        }
    }

    proptest! {
        /// Whatever is asked, in whatever order: a VM can always be brought down, and force never does less.
        #[test]
        fn a_vm_can_always_be_brought_down(asks in proptest::collection::vec(0..ASKS.len(), 0..20)) {
            let mut state = VmState::Stopped;
            for index in asks {
                let (ask, _) = ASKS[index];
                if judge(state, ask) == Verdict::Act {
                    state = after(state, ask);
                }
                if state == VmState::Deleting {
                    break;
                }
                prop_assert_ne!(judge(state, Ask::ForceStop), Verdict::Refuse);
                // What is so already is so again, and is not refused.
                prop_assert!(judge(VmState::Stopped, Ask::Stop) == Verdict::Already);
            }
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
