//! The query service as a program.

use std::process::ExitCode;

fn main() -> ExitCode {
    query_service::main(std::env::args_os())
}
