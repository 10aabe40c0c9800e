//! The operator's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    if zoneward::internals::cli::complete() {
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("vmadm: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(zoneward::internals::cli::run(std::env::args_os()));
    // A read of standard input that never ends must not hold the program up.
    runtime.shutdown_background();
    code
}
