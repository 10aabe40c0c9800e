//! Points at which a test kills the agent: every boundary of a step and every durable write. In release builds there
//! are none.
//!
//! If `CRASH_POINTS` names a folder with a file `seen`, each passed point is written there; the agent dies at
//! the point that the file `at` names with its count (`boot.zone#1`).

use std::fmt::Display;

/// A point with that name.
#[cfg(not(debug_assertions))]
pub(crate) fn point(_name: impl Display) {}

/// A point with that name.
#[cfg(debug_assertions)]
pub(crate) fn point(name: impl Display) {
    use std::{
        env, fs,
        io::Write as _,
        path::PathBuf,
        sync::{LazyLock, Mutex},
    };
    static FOLDER: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| env::var_os("CRASH_POINTS").map(PathBuf::from));
    static TURN: Mutex<()> = Mutex::new(());
    let Some(folder) = &*FOLDER else { return };
    let _turn = TURN.lock();
    let seen = folder.join("seen");
    let Ok(mut file) = fs::OpenOptions::new().append(true).open(&seen) else { return };
    let name = name.to_string();
    let _ = writeln!(file, "{name}");
    let passed = fs::read_to_string(&seen).unwrap_or_default().lines().filter(|line| **line == *name).count();
    if fs::read_to_string(folder.join("at")).is_ok_and(|at| at.trim() == format!("{name}#{passed}")) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
