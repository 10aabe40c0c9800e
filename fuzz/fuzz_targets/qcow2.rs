//! Anything that may be a qcow2 file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zoneward::internals::image::is_image;

fuzz_target!(|content: &[u8]| {
    let mut file = content.to_vec();
    if file.len() >= 8 {
        file[..4].copy_from_slice(b"QFI\xfb");
        file[4..8].copy_from_slice(&(2 + u32::from(file[7]) % 2).to_be_bytes());
    }
    let _ = is_image(&file);
});
