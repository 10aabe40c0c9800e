//! The probe's answer, for people.

use std::io;

use super::Attempt;
use crate::{spec::Restriction, zone::sandbox::Mechanism};

/// Prints the attempts; returns how many are not as they should be.
pub fn print(out: &mut impl io::Write, attempts: &[Attempt], without: &[Mechanism]) -> io::Result<usize> {
    writeln!(
        out,
        "{:<5} {:<18} {:<45} {:<9} {:<10} STOPPED BY",
        "", "RESTRICTION", "ACT", "EXPECTED", "OBSERVED"
    )?;
    for attempt in attempts {
        let (word, style) = match attempt.as_it_should {
            true => ("ok", anstyle::AnsiColor::Green),
            false => ("WRONG", anstyle::AnsiColor::Red),
        };
        let style = style.on_default();
        let restriction = attempt.restriction.map_or("any", Restriction::as_str);
        let Attempt { name, expected, observed, mechanism, .. } = attempt;
        writeln!(
            out,
            "{style}{word:<5}{style:#} {restriction:<18} {name:<45} {expected:<9} {observed:<10} {mechanism}"
        )?;
    }
    let wrong = attempts.iter().filter(|attempt| !attempt.as_it_should).count();
    writeln!(out, "{} acts, {wrong} not as they should be", attempts.len())?;
    if !without.is_empty() {
        let names: Vec<&str> = without.iter().map(|mechanism| mechanism.as_str()).collect();
        writeln!(out, "without {}: no VM has such a zone", names.join(", "))?;
    }
    Ok(wrong)
}
