//! Tests that can't run on this machine: said at once, and once more at the end of `make test`. They are not counted as
//! passed in silence.

use std::{
    fs::OpenOptions,
    io::{Write as _, stderr},
};

/// What `make test` shows at the end.
const LIST: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/ignored.txt");

/// Says that the test of this thread is not done, and why.
pub(crate) fn ignore(why: &str) {
    let thread = std::thread::current();
    let line = format!("IGNORED {}: {why}\n", thread.name().unwrap_or("a test"));
    // Not by a macro: the test program would keep that to itself.
    let _ = stderr().write_all(line.as_bytes());
    let mut list =
        OpenOptions::new().create(true).append(true).open(LIST).expect("the list of ignored tests");
    list.write_all(line.as_bytes()).expect("the list of ignored tests");
}

/// Whether the test can't be done because nobody here is root.
pub(crate) fn needs_root(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        ignore(&format!("not root; {what}"));
    }
    !is_root
}
