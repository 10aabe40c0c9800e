//! QEMU's record of its guest, for an agent that was not running at the time.
//!
//! It consists of two QEMU trace events in the error output: one line when QEMU decides to end, and one for
//! each reset of the machine. They are only as trustworthy as the hypervisor, like QMP events.

use std::time::{Duration, SystemTime};

use crate::{
    hypervisor::{LastWords, MachineEvent, Said},
    text::escaped,
};

/// QEMU decides to end.
const SHUTDOWN: &str = "qemu_system_shutdown_request";
/// Only a machine reset resets the keyboard; the reset itself has no event.
const RESET: &str = "ps2_kbd_reset";
pub(super) const EVENTS: [&str; 2] = [SHUTDOWN, RESET];

/// Characters of other messages that are kept.
const WORDS: usize = 2048;

/// QEMU's ShutdownCause, in the order of its schema.
pub(super) const CAUSES: [&str; 11] = [
    "none",
    "host-error",
    "host-qmp-quit",
    "host-qmp-system-reset",
    "host-signal",
    "host-ui",
    "guest-shutdown",
    "guest-reset",
    "guest-panic",
    "subsystem-reset",
    "snapshot-load",
];

/// Separates the trace from other messages.
pub(super) fn last_words(text: &str) -> LastWords {
    let mut last = LastWords::default();
    let mut words = Vec::new();
    for line in text.lines() {
        match said(line) {
            Some(said) => last.said.push(said),
            None if EVENTS.iter().any(|event| line.contains(event)) => {}
            None => words.push(escaped(line)),
        }
    }
    let words = words.join("\n");
    let cut = words.char_indices().rev().nth(WORDS - 1).map_or(0, |(at, _)| at);
    last.words = words[cut..].to_owned();
    last
}

/// A line like `4711@1700000000.123456:name arguments`.
fn said(line: &str) -> Option<Said> {
    let (head, event) = line.split_once(':')?;
    let (_, time) = head.split_once('@')?;
    let (seconds, micros) = time.split_once('.')?;
    let since = Duration::from_secs(seconds.parse().ok()?)
        .checked_add(Duration::from_micros(micros.parse::<u32>().ok()?.into()))?;
    let time = SystemTime::UNIX_EPOCH.checked_add(since)?;
    let (name, arguments) = event.split_once(' ')?;
    let event = match name {
        // No agent ran that could have asked for one through QMP.
        RESET => MachineEvent::Reset { guest: true },
        SHUTDOWN => {
            let cause: usize = arguments.trim().strip_prefix("reason=")?.parse().ok()?;
            match *CAUSES.get(cause)? {
                "guest-panic" => MachineEvent::Panicked,
                cause => {
                    MachineEvent::Shutdown { guest: cause.starts_with("guest-"), reason: cause.to_owned() }
                }
            }
        }
        _ => return None,
    };
    Some(Said { time, event })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_trace_is_told_apart() {
        let last = last_words(
            "1@1700000000.000001:ps2_kbd_reset 0x1\nqemu: warning: x\n2@1700000001.500000:qemu_system_shutdown_request reason=6\n",
        );
        assert_eq!(last.words, "qemu: warning: x");
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let off = MachineEvent::Shutdown { guest: true, reason: "guest-shutdown".to_owned() };
        assert_eq!(last.said[0].event, MachineEvent::Reset { guest: true });
        assert_eq!(last.said[1], Said { time: at(1_700_000_001_500), event: off });
        let last = last_words("2@1.0:qemu_system_shutdown_request reason=8");
        assert_eq!(last.said[0].event, MachineEvent::Panicked);
        let last = last_words("qemu: terminating on signal 15\n2@1.0:qemu_system_shutdown_request reason=4");
        assert_eq!(last.words, "qemu: terminating on signal 15");
        assert!(matches!(last.said[0].event, MachineEvent::Shutdown { guest: false, .. }));
    }

    #[test]
    fn what_is_cut_or_unknown_is_neither_event_nor_word() {
        for text in [
            "qemu_system_shutdown_request reason=6",
            "700000000.0:qemu_system_shutdown_request reason=6",
            "1@1.0:qemu_system_shutdown_request reason=99",
            "1@x.0:ps2_kbd_reset 0x1",
            "1@99999999999999999999.0:ps2_kbd_reset 0x1",
            "1@18446744073709551615.4294967295:ps2_kbd_reset 0x1",
        ] {
            assert_eq!(last_words(text), LastWords::default(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_words_at_most(text in ".{0,200}") {
            let last = last_words(&text);
            prop_assert!(last.words.len() <= 6 * text.len() && last.said.is_empty());
        }
    }
}
