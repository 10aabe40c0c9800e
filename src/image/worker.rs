//! The process that converts one image, in a zone of its own. Its input is standard input, its orders are an argument,
//! and its result is one line of JSON on standard output.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::OwnedFd,
};

use super::{
    convert::{Conversion, Converted, convert},
    fault::{Fault, FaultKind},
};
use crate::sys;

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "zone-convert";
/// Descriptor of the disk.
pub(crate) const OUTPUT: i32 = 10;
/// Descriptor of the scratch file.
pub(crate) const SCRATCH: i32 = 11;
/// Longest result in bytes.
pub(crate) const MAX_RESULT: u64 = 64 << 10;

/// The words of the command line that order a conversion.
pub(crate) fn arguments(conversion: &Conversion) -> Vec<String> {
    let orders = serde_json::to_string(conversion).unwrap_or_default();
    vec![SUBCOMMAND.to_owned(), orders]
}

/// Converts as ordered; returns this program's exit code.
#[must_use]
pub fn run(words: &[String]) -> u8 {
    let result = obey(words);
    let text = serde_json::to_vec(&result).unwrap_or_default();
    let mut out = io::stdout();
    let told = out.write_all(&text).and_then(|()| out.flush());
    u8::from(told.is_err() || result.is_err())
}

fn obey(words: &[String]) -> Result<Converted, Fault> {
    let orders = words.first().and_then(|text| serde_json::from_str::<Conversion>(text).ok());
    let file = |number| sys::inherited(number).map(|descriptor: OwnedFd| File::from(descriptor));
    match (orders, file(OUTPUT), file(SCRATCH)) {
        (Some(conversion), Ok(output), Ok(scratch)) => {
            convert(io::stdin().lock(), output, scratch, &conversion)
        }
        _ => Err(Fault::new(FaultKind::Host, format!("{SUBCOMMAND} is the agent's own; run: imgadm import"))),
    }
}

/// Reads the result that a worker left; what is none says that it died.
pub(crate) fn result(text: &[u8], how: &str) -> Result<Converted, Fault> {
    serde_json::from_slice::<Result<Converted, Fault>>(text).unwrap_or_else(|_| {
        Err(Fault::new(
            FaultKind::Host,
            format!("the converter died ({how}); it may have needed more memory than it may have"),
        ))
    })
}
