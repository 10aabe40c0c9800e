//! Signals for a hypervisor, by name and number.

use rustix::process::Signal;

use crate::agent::error::Error;

/// A signal by name, with or without `SIG`, or by number; `None` is signal 0.
pub(in crate::agent) fn parse_signal(text: &str) -> Result<(String, Option<Signal>), Error> {
    let unknown = || Error::invalid("signal", format!("Unknown signal \"{text}\""));
    let plain = text.strip_prefix("SIG").or(text.strip_prefix("sig")).unwrap_or(text).to_uppercase();
    if plain == "0" {
        return Ok(("0".to_owned(), None));
    }
    let by_number = plain.parse::<i32>().ok();
    let found = SIGNALS.iter().find(|(name, signal)| *name == plain || by_number == Some(signal.as_raw()));
    found.map(|(name, signal)| (format!("SIG{name}"), Some(*signal))).ok_or_else(unknown)
}

pub(super) fn signal_name(signal: Signal) -> String {
    let name = SIGNALS.iter().find(|(_, known)| *known == signal).map(|(name, _)| format!("SIG{name}"));
    name.unwrap_or_else(|| signal.as_raw().to_string())
}

const SIGNALS: &[(&str, Signal)] = &[
    ("TERM", Signal::TERM),
    ("KILL", Signal::KILL),
    ("INT", Signal::INT),
    ("HUP", Signal::HUP),
    ("QUIT", Signal::QUIT),
    ("ABRT", Signal::ABORT),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("STOP", Signal::STOP),
    ("CONT", Signal::CONT),
    ("ALRM", Signal::ALARM),
    ("PIPE", Signal::PIPE),
    ("CHLD", Signal::CHILD),
    ("WINCH", Signal::WINCH),
    ("SEGV", Signal::SEGV),
    ("BUS", Signal::BUS),
    ("FPE", Signal::FPE),
    ("ILL", Signal::ILL),
    ("TRAP", Signal::TRAP),
    ("SYS", Signal::SYS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, name) in
            [("TERM", "SIGTERM"), ("SIGKILL", "SIGKILL"), ("sigusr1", "SIGUSR1"), ("9", "SIGKILL")]
        {
            assert_eq!(parse_signal(text).unwrap().0, name);
        }
        assert_eq!(parse_signal("0").unwrap(), ("0".to_owned(), None));
        for text in ["", "FOO", "SIG", "99", "-1"] {
            let error = parse_signal(text).unwrap_err();
            assert_eq!(crate::spec::violation::summary(&violations(error)), "Invalid value(s) for: signal");
        }
    }

    fn violations(error: Error) -> Vec<crate::spec::Violation> {
        match error {
            Error::Invalid(violations) => violations,
            other => panic!("{other}"),
        }
    }
}
