//! Tests that can't run on this machine: said at once, and once more at the end of `make test`. They are not counted as
//! passed in silence.

use std::{
    fs::{OpenOptions, create_dir_all},
    io::{Write as _, stderr},
    path::PathBuf,
};

/// What `make test` shows at the end: `tmp/ignored.txt` in the folder that test programs are built in. Unit tests have
/// no name for it, so it is found from the program itself, which lies in `PROFILE/deps` of that folder.
fn list() -> PathBuf {
    let own = std::env::current_exe().expect("the test program has a path");
    let built = own.ancestors().nth(3).expect("test programs are built in a folder of their profile");
    built.join("tmp/ignored.txt")
}

/// Says that the test of this thread is not done, and why.
pub(crate) fn ignore(why: &str) {
    let thread = std::thread::current();
    let line = format!("IGNORED {}: {why}\n", thread.name().unwrap_or("a test"));
    // Not by a macro: the test program would keep that to itself.
    let _ = stderr().write_all(line.as_bytes());
    let path = list();
    create_dir_all(path.parent().expect("it lies in a folder")).expect("the folder of the list");
    let mut list =
        OpenOptions::new().create(true).append(true).open(path).expect("the list of ignored tests");
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
