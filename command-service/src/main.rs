//! The command service as a program.

use std::process::ExitCode;

fn main() -> ExitCode {
    command_service::main(std::env::args_os())
}
