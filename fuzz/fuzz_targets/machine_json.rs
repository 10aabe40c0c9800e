//! A machine JSON: whatever it holds, it is read without a panic, and a machine that nothing is wrong with
//! survives the wire.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zoneward::{
    proto::{spec_from_proto, spec_to_proto},
    spec::machine_json,
};

fuzz_target!(|data: &[u8]| {
    let Ok(parsed) = machine_json::parse(data) else { return };
    if parsed.all_violations().is_empty() {
        let again = spec_from_proto(&spec_to_proto(&parsed.spec));
        assert_eq!(again.all_violations(), []);
    }
});
