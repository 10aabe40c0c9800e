//! Words of the command line: filters, boot options, changes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zoneward::spec::{BootOptions, filter::Filter, update};

fuzz_target!(|text: &str| {
    let words: Vec<&str> = text.split('\n').take(20).collect();
    if let Ok(filter) = Filter::parse(text) {
        let _ = filter.matches(&serde_json::Map::new());
    }
    if let Ok(options) = BootOptions::from_words(&words) {
        let _ = options.check();
    }
    if let Ok(object) = update::from_words(&words) {
        let _ = update::read(object, None);
    }
});
