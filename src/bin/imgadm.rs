//! The operator's command for images.

use std::process::ExitCode;

fn main() -> ExitCode {
    zoneward::internals::cli::main(|| zoneward::internals::cli::run_imgadm(std::env::args_os()))
}
