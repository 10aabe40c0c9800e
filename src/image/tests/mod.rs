//! Images of every kind, good and bad: genuine ZFS streams, `qemu-img`'s files, and what is left of them after damage.

mod damage;
mod qcow2;
mod streams;

use std::{
    fs::File,
    io::{Cursor, Read as _},
};

use sha2::{Digest as _, Sha256};

use super::{
    convert::{Conversion, Converted, convert},
    fault::Fault,
};

/// More than any of them has.
const LIMIT: u64 = 1 << 30;

/// Converts a content into a file, and gives it its length, as the agent does.
fn to_file(content: &[u8], output: &File, conversion: &Conversion) -> Result<Converted, Fault> {
    let scratch = tempfile::tempfile().unwrap();
    let converted = convert(Cursor::new(content), output.try_clone().unwrap(), scratch, conversion)?;
    output.set_len(converted.size).unwrap();
    Ok(converted)
}

fn to_new_file(content: &[u8]) -> Result<(Converted, File), Fault> {
    let output = tempfile::tempfile().unwrap();
    let converted = to_file(content, &output, &Conversion { limit: LIMIT, ..Conversion::default() })?;
    Ok((converted, output))
}

fn digest(mut file: &File) -> String {
    use std::io::Seek as _;
    file.rewind().unwrap();
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    data_encoding::HEXLOWER.encode(&Sha256::digest(content))
}
