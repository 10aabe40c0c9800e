//! The operator's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    if zoneward::internals::cli::complete() {
        return ExitCode::SUCCESS;
    }
    zoneward::internals::cli::main(|| zoneward::internals::cli::run(std::env::args_os()))
}
