//! The projector as a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    projector::main(std::env::args_os())
}
