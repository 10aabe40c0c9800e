//! Anything that may be a ZFS send stream, or packed into a file like one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zoneward::internals::image::is_image;

fuzz_target!(|content: &[u8]| {
    let _ = is_image(content);
    // With the magic number of a first record, so that what is behind it is reached too.
    let mut stream = content.to_vec();
    if stream.len() >= 16 {
        stream[..4].fill(0);
        stream[8..16].copy_from_slice(&0x2_f5ba_cbac_u64.to_le_bytes());
        let _ = is_image(&stream);
    }
});
