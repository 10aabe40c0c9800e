//! Anything that a guest may say over its second serial port.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zoneward::internals::metadata::{
    protocol::{Command, Line, Reply, framed, parse, plain},
    route,
};

fuzz_target!(|line: &[u8]| {
    // With a frame around it, so that what is behind length and checksum is reached too.
    let body = String::from_utf8_lossy(line).replace('\n', " ");
    let frame = format!("V2 {} {:08x} {body}", body.len(), crc32fast::hash(body.as_bytes()));
    for line in [line, frame.as_bytes()] {
        let (id, command) = match parse(line) {
            Line::Framed(id, command) => (id, command),
            Line::Plain(command) => (String::new(), command),
            Line::Negotiate | Line::Broken | Line::Invalid => continue,
        };
        let text = match command {
            Command::Get(key) | Command::Delete(key) | Command::Put(key, _) => {
                let _ = route(&key, &["ns".to_owned()]);
                key
            }
            Command::Refused(words) => words,
            Command::Keys => String::new(),
        };
        let reply = Reply::Success(text);
        assert_eq!(framed(&id, &reply).matches('\n').count(), 1);
        assert!(plain(&reply).ends_with(".\n"));
    }
});
